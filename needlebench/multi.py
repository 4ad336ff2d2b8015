"""Data sets of several needles, for `read_base` and for plain imports.

They are made by `opencompass_llada.benchmarks.multi_needle.plan`.
"""


def multi_retrieval_cells(**options):
    """List data set configs; see `benchmarks.multi_needle.plan.multi_retrieval_cells`."""
    import opencompass_llada.benchmarks.multi_needle.plan

    return opencompass_llada.benchmarks.multi_needle.plan.multi_retrieval_cells(**options)


def multi_reasoning_cells(**options):
    """List data set configs; see `benchmarks.multi_needle.plan.multi_reasoning_cells`."""
    import opencompass_llada.benchmarks.multi_needle.plan

    return opencompass_llada.benchmarks.multi_needle.plan.multi_reasoning_cells(**options)
