"""Single-needle data sets, for `read_base` and for plain imports.

    with read_base():
        from ..needlebench.niah import niah_cells as __niah_cells

They are made by `opencompass_llada.benchmarks.needle.plan`.
"""


def niah_cells(**options):
    """List the data set configs of a grid; see `benchmarks.needle.plan.niah_cells`."""
    import opencompass_llada.benchmarks.needle.plan

    return opencompass_llada.benchmarks.needle.plan.niah_cells(**options)
