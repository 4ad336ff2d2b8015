"""Turns what a paper ran into models, data sets and task sizes: the papers' own evaluations.

LLADA_* variables choose among the paper's models and scalings and override its other settings;
LLADA_DEMO=1 runs the same shape with tiny models on embedded data.
"""

from mmengine.config import read_base

with read_base():
    from .longbench_run import longbench_table, plan_run as plan_longbench
    from .model_facts import known_models
    from .models import list_offered
    from .niah_run import plan_run as plan_niah
    from .paper_facts import paper_seed, papers
    from .ruler_run import plan_run as plan_ruler, ruler_table
    from .selection import is_demo, list_variable, niah_table

benchmarks = dict(
    niah=(plan_niah, niah_table),
    ruler=(plan_ruler, ruler_table),
    longbench=(plan_longbench, longbench_table),
)


def plan_run(paper, benchmark, num_gpus, announce=True):
    """Work out a paper's run of one benchmark.

    Args:
        paper: 'longllada' or 'ultrallada'.
        benchmark: 'niah', 'ruler' or 'longbench'.
        num_gpus: GPUs of the machine.
        announce: Write what was taken, and why, to standard error.

    Returns:
        What the benchmark's own ``plan_run`` returns.

    Raises:
        ValueError: If variables choose what the paper does not run.
    """
    spec = papers[paper][benchmark]
    plan, table = benchmarks[benchmark]
    rows, settings = list_rows(spec, benchmark), dict(spec["settings"])
    if is_demo():
        rows, settings = demo_rows(rows), dict(table["demo"])
        if benchmark == "ruler":
            settings["prompt"] = spec["settings"]["prompt"]
    rows = choose_rows(rows)
    settings["models"] = list(dict.fromkeys(row["model"] for row in rows))
    settings["scaling"] = list(dict.fromkeys(row["scaling"] for row in rows))
    return plan(settings, num_gpus, announce=announce, rows=rows)


def list_rows(spec, benchmark):
    """List a paper's models, as `models.list_model_configs` takes them.

    Args:
        spec: An entry of `papers`.
        benchmark: 'niah', 'ruler' or 'longbench'.
    """
    rows = []
    for name in spec["models"]:
        facts = known_models[name]
        family = facts["family"]
        lambdas = [text for text in facts["scalings"] if text.startswith("ntk:")]
        common = dict(model=name, dtype=facts["paper_dtype"], seed=paper_seed)
        if family in spec.get("add_bos", ()):
            common["add_bos"] = True
        for text in ["none", *lambdas[: spec["lambdas"][family]]]:
            row = dict(common, scaling=text)
            own = facts["generation"][benchmark].get("num_steps")
            if spec.get("num_steps", own) != own:
                row["num_steps"] = spec["num_steps"]
            rows.append(row)
        for num_steps in spec.get("steps", {}).get(family, ()):
            rows.append(dict(common, scaling="none", num_steps=num_steps))
    return rows


def demo_rows(rows):
    """Return the shape of a paper's rows: shipped models, without scaling and with ntk."""
    tiny = dict(llada="tiny_llada", dream="tiny_llada", autoregressive="tiny_ar")
    pairs = [
        (tiny[known_models[row["model"]]["family"]], row["scaling"].split(":")[0]) for row in rows
    ]
    return [
        dict(model=name, scaling=method)
        for name, method in dict.fromkeys(pairs)
        if name in list_offered()
    ]


def choose_rows(rows):
    """Keep what LLADA_MODELS and LLADA_SCALING name; `NAME=PATH` puts a checkpoint's path in.

    Raises:
        ValueError: If nothing is left.
    """
    import opencompass_llada.options

    reject_unknown = opencompass_llada.options.reject_unknown
    specs, scalings = list_variable("MODELS"), list_variable("SCALING")
    if specs:
        names = [spec.partition("=")[0].strip() for spec in specs]
        reject_unknown("model of this evaluation", names, {row["model"] for row in rows})
        rows = [
            dict(row, model=spec)
            for spec, name in zip(specs, names, strict=True)
            for row in rows
            if row["model"] == name
        ]
    if scalings:
        reject_unknown("scaling of this evaluation", scalings, {row["scaling"] for row in rows})
        rows = [row for row in rows if row["scaling"] in scalings]
    return rows
