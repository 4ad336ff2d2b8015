"""What configs call of the package: models, data sets and whole runs.

A config pulls a function in with ``read_base`` under a name that starts with two underscores, so
that it runs for real and is dropped from the dumped config::

    with read_base():
        from .helpers.planning import plan_run as __plan_run

    __run = __plan_run("niah", dict(models=["llada_8b_base"]))

Each stands here by the name of its module, which is imported when it is called: mmengine turns
imports at the top of a file into placeholders that cannot be called.
"""


def _of(module, name):
    def call(*args, **options):
        import importlib

        found = importlib.import_module(f"opencompass_llada.{module}")
        return getattr(found, name)(*args, **options)

    return call


plan_run = _of("runs.planning", "plan_run")
plan_leaderboard = _of("runs.evaluation", "plan_leaderboard")
plan_evaluation = _of("runs.evaluation", "plan_evaluation")
plan_paper = _of("runs.papers", "plan_paper")
plan_suites = _of("benchmarks.generated.plan", "plan_suites")
plan_published_suites = _of("benchmarks.published.run", "plan_published_suites")
plan_data_sets = _of("runs.every_data_set", "plan_data_sets")
list_models = _of("runs.planning", "list_models")
list_data_sets = _of("runs.planning", "list_data_sets")
list_groups = _of("benchmarks.benchmark", "list_groups")
list_parts = _of("benchmarks.longbench.plan", "list_parts")
count_gpus = _of("runs.machine", "count_gpus")
