"""RULER data sets, for `read_base` and for plain imports.

with read_base():
from ..ruler_patches.ruler import ruler_cells as __ruler_cells

datasets = __ruler_cells(lengths=[8192], prompt="chat")
"""


def ruler_cells(**settings):
    """List data sets, length by length; settings are those of `benchmarks.ruler.plan.DATA_SETS`."""
    import opencompass_llada.runs.planning

    return opencompass_llada.runs.planning.list_data_sets("ruler", **settings)
