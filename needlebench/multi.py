"""Data sets of several needles, for `read_base` and for plain imports."""


def multi_needle_cells(task, **settings):
    """List data sets of a task, ``retrieval`` or ``reasoning``.

    Settings are those of `benchmarks.multi_needle.plan.DATA_SETS`.
    """
    import opencompass_llada.runs.planning

    list_data_sets = opencompass_llada.runs.planning.list_data_sets
    return list_data_sets("needlebench_multi", task=task, **settings)
