"""Single-needle data sets, for `read_base` and for plain imports.

with read_base():
from ..needlebench.niah import niah_cells as __niah_cells

datasets = __niah_cells(lengths=[8192, 16384], prompt="chat")
"""


def niah_cells(**settings):
    """List the data sets of a grid; settings are those of `benchmarks.needle.plan.DATA_SETS`."""
    import opencompass_llada.runs.planning

    return opencompass_llada.runs.planning.list_data_sets("niah", **settings)
