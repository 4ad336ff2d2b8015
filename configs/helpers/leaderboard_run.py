"""Puts the runs of several benchmarks together to one, for a leaderboard in one command."""

from mmengine.config import read_base

with read_base():
    from .models import list_shipped
    from .niah_run import choose_partitioner, plan_run as plan_niah
    from .ppl_run import plan_run as plan_ppl
    from .ruler_run import plan_run as plan_ruler
    from .selection import announce as announce_settings, read_settings

planners = dict(niah=plan_niah, ruler=plan_ruler, ppl=plan_ppl)
leaderboard_table = dict(
    known=dict(
        models="names of docs/models.md, separated by commas; default all shipped ones",
        scaling="METHOD or METHOD:option=number, separated by commas; all: those of docs/models.md",
        benchmarks="niah, ruler, ppl, separated by commas",
        lengths="context lengths in tokens, separated by commas",
        workers="tasks at a time; default one a GPU, or one a core up to two on a CPU",
    ),
    lists=("models", "scaling", "benchmarks", "lengths"),
    numbers=("lengths", "workers"),
    choices=dict(benchmarks=tuple(planners)),
)


def plan_run(settings, options, num_gpus, announce=True):
    """Work out a run of several benchmarks from settings and environment variables.

    Args:
        settings: Values of `leaderboard_table`'s names; None for the default.
        options: Settings of each benchmark besides models, scaling and lengths.
        num_gpus: GPUs of the machine.
        announce: Write what was taken, and why, to standard error.

    Returns:
        A dictionary: models, datasets, combinations, described_models for the summarizer,
        settings (resolved), workers, and the partitioners of inference and evaluation.
    """
    values, sources = read_settings(settings, leaderboard_table)
    names = values["models"] or list_shipped()
    if values["models"] is None:
        values["models"], sources["models"] = names, "default: all that are shipped"
    if values["scaling"] is None:
        values["scaling"], sources["scaling"] = ["all"], "default: all that docs/models.md lists"
    values["benchmarks"] = values["benchmarks"] or list(planners)
    plans = []
    for benchmark in values["benchmarks"]:
        asked = dict(models=names, scaling=values["scaling"], workers=values["workers"])
        asked |= {name: values[name] for name in ("lengths", "dtype") if values[name]}
        plans.append(plan_alone(benchmark, dict(options[benchmark], **asked), num_gpus))
    combinations = [group for plan in plans for group in list_groups(plan)]
    cells = sum(len(group["models"]) * len(group["datasets"]) for group in combinations)
    values["workers"] = plans[0]["workers"]
    if announce:
        announce_settings(f"Leaderboard: {cells} cells", values, sources, unset=("lengths",))
    largest = max(len(group["datasets"]) for group in combinations)
    return dict(
        models=unique(model for group in combinations for model in group["models"]),
        datasets=unique(cell for group in combinations for cell in group["datasets"]),
        combinations=combinations,
        described_models=unique(entry for plan in plans for entry in plan["described_models"]),
        settings=values,
        workers=values["workers"],
        partitioner=choose_partitioner(-(-cells // largest), largest, values["workers"], num_gpus),
        eval_partitioner=plans[0]["eval_partitioner"],
    )


def plan_alone(benchmark, settings, num_gpus):
    """Plan one benchmark by its settings alone.

    The LLADA_* variables were read above, once for all benchmarks: each would refuse those of the
    others, so they are out of sight while it is planned.
    """
    import os

    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name[:6] == "LLADA_"}
    try:
        return planners[benchmark](settings, num_gpus, announce=False)
    finally:
        os.environ.update(hidden)


def list_groups(plan):
    """Return a plan's groups of models and data sets."""
    return plan["combinations"] or [dict(models=plan["models"], datasets=plan["datasets"])]


def unique(items):
    """Return the first item of each abbr."""
    found = {}
    for item in items:
        found.setdefault(item["abbr"], item)
    return list(found.values())
