"""What the machine offers, for configs to decide by.

A config pulls a function in with ``read_base`` under a name that starts with two underscores, so
that it runs for real and is dropped from the dumped config::

    with read_base():
        from .helpers.hardware import count_gpus as __count_gpus

    num_gpus = __count_gpus()

The plain import stands inside the function because mmengine turns every other import here into a
placeholder that cannot be called.
"""


def count_gpus():
    """Return how many CUDA devices the tasks will see; 0 on a machine without any."""
    import opencompass_llada.runs.hardware

    return opencompass_llada.runs.hardware.count_gpus()
