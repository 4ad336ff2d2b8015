"""Imports what the workers of a run need, for the process that they are forks of."""

from contextlib import suppress

from opencompass_llada.runs.quick_imports import imports_uncollected

with imports_uncollected():
    import opencompass_llada.runs.tasks  # most of it
    import opencompass_llada.wrapper  # noqa: F401

    with suppress(RuntimeError):  # the driver imports it, too, and says what is wrong
        import opencompass_llada.registry  # noqa: F401
