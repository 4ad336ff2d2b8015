"""What configs call of the package: models, data sets and whole runs.

A config pulls a function in with ``read_base`` under a name that starts with two underscores, so
that it runs for real and is dropped from the dumped config::

    with read_base():
        from .helpers.planning import plan_run as __plan_run

    __run = __plan_run("niah", dict(models=["llada_8b_base"]))

The plain imports stand inside the functions because mmengine turns every other import here into a
placeholder that cannot be called.
"""


def plan_run(benchmark, settings):
    """Work out a run of one benchmark; see `opencompass_llada.runs.planning.plan_run`."""
    import opencompass_llada.runs.planning

    return opencompass_llada.runs.planning.plan_run(benchmark, settings)


def plan_leaderboard(settings, options):
    """Work out a run of several; see `opencompass_llada.runs.planning.plan_leaderboard`."""
    import opencompass_llada.runs.planning

    return opencompass_llada.runs.planning.plan_leaderboard(settings, options)


def plan_paper(paper, benchmark):
    """Work out a paper's own evaluation; see `opencompass_llada.runs.papers.plan_paper`."""
    import opencompass_llada.runs.papers

    return opencompass_llada.runs.papers.plan_paper(paper, benchmark)


def plan_data_sets(settings):
    """Work out a run of all data sets; see `opencompass_llada.runs.every_data_set`."""
    import opencompass_llada.runs.every_data_set

    return opencompass_llada.runs.every_data_set.plan_data_sets(settings)


def list_models(name, /, **settings):
    """List the configs of a model; settings: scaling, batch_size, dtype. LLADA_* variables win."""
    import opencompass_llada.runs.planning

    return opencompass_llada.runs.planning.list_models_by_name(name, **settings)


def list_data_sets(benchmark, /, **settings):
    """List the data set configs of a benchmark by its settings. LLADA_* variables win."""
    import opencompass_llada.runs.planning

    return opencompass_llada.runs.planning.list_data_sets(benchmark, **settings)


def list_groups(benchmark):
    """List the averages of a benchmark's tasks, for its summarizer."""
    import opencompass_llada.benchmarks.benchmark

    groups = opencompass_llada.benchmarks.benchmark.find_benchmark(benchmark).groups
    return [group.to_config() for group in groups]


def list_parts(benchmark):
    """List the parts of longbench_e's or longbench_v2's samples with the metric of each."""
    import opencompass_llada.benchmarks.longbench.plan

    return opencompass_llada.benchmarks.longbench.plan.list_parts(benchmark)


def count_gpus():
    """Return how many CUDA devices the tasks will see; 0 on a machine without any."""
    import opencompass_llada.runs.machine

    return opencompass_llada.runs.machine.count_gpus()
