"""RULER data sets, for `read_base` and for plain imports.

    with read_base():
        from ..ruler_patches.ruler import ruler_cells as __ruler_cells

They are made by `opencompass_llada.benchmarks.ruler.plan`.
"""


def ruler_cells(lengths, **options):
    """List data set configs, length by length; see `benchmarks.ruler.plan.ruler_cells`."""
    import opencompass_llada.benchmarks.ruler.plan

    return opencompass_llada.benchmarks.ruler.plan.ruler_cells(lengths, **options)


def embedded_cells(generation_length, **options):
    """List small data sets that need no data; see `benchmarks.ruler.plan.embedded_cells`."""
    import opencompass_llada.benchmarks.ruler.plan

    return opencompass_llada.benchmarks.ruler.plan.embedded_cells(generation_length, **options)
