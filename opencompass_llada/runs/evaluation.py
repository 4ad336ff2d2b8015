"""Plans one run of several benchmarks, and of data sets of OpenCompass itself, in one table.

`plan_leaderboard` is what configs/eval_leaderboard.py calls; `plan_evaluation` is the same for the
config of a user, in keywords.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from opencompass_llada.options import reject_unknown
from opencompass_llada.runs import reductions
from opencompass_llada.runs.model_configs import Config, ModelTable
from opencompass_llada.runs.planning import (
    Combination,
    Run,
    count_results,
    default_scaling,
    default_workers,
    find_plan,
    list_plans,
    plan_run,
    run_tasks,
    scores_texts,
    summarize_with,
    take_a_token_a_step,
    tell_what_differs,
    unique,
    usable_gpus,
    use_templates,
)
from opencompass_llada.runs.recorded_files import dataset_name
from opencompass_llada.runs.settings import (
    LEADING,
    READ_BY,
    TRAILING,
    WORKERS,
    Settings,
    is_demo,
    only_variables,
    read_settings,
    text,
    texts,
    token_lengths,
)

#: The benchmarks that the leaderboard runs by default, by the names that its settings take.
ON_BOARD = {"niah": "niah", "ruler": "ruler", "ppl": "perplexity"}
#: What ``data="embedded"`` is called by a benchmark that makes its texts itself.
_EMBEDDED = {"perplexity": "generated"}


def board_benchmarks() -> dict[str, str]:
    """Return the benchmarks that can be run together: names that settings take -> benchmarks."""
    taken = {*ON_BOARD.values()}
    return {**ON_BOARD, **{name: name for name in list_plans() if name not in taken}}


def plan_evaluation(
    models: Sequence[str] | None = None,
    benchmarks: Sequence[str] = ("niah",),
    lengths: Sequence[int | str] | None = None,
    scaling: Sequence[str] = ("none",),
    *,
    chat: bool = False,
    data: str | None = None,
    datasets: Sequence[Config] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Run:
    """Work out a run of models on benchmarks of this package and data sets of OpenCompass.

    Variables win, as over a config's settings: LLADA_MODELS, LLADA_SCALING, LLADA_BENCHMARKS,
    LLADA_LENGTHS, LLADA_DATA, LLADA_PROMPT, LLADA_WORKERS, LLADA_DTYPE. LLADA_DEMO=1 runs
    tiny-llada on embedded data instead, without `datasets`.

    Args:
        models: Names of docs/reference/models.md, ``PATH``, ``ALIAS=PATH`` or ``NAME=PATH``.
        benchmarks: Of `board_benchmarks`, such as niah, ruler, ppl, longbench, short.
        lengths: Tokens, or such as ``"4k"`` (4,096); by default each benchmark's own.
        scaling: RoPE scalings, as LLADA_SCALING takes them.
        chat: Ask in chat form, by the checkpoints' chat templates.
        data: ``"embedded"`` (shipped, small) or ``"published"``; the default of each benchmark.
        datasets: Configs of other data sets, such as OpenCompass's ``gsm8k_datasets``.
        options: Further settings of a benchmark, by its name, as its plan.py lists them.
        settings: Further settings of every benchmark: ``workers``, ``dtype``, ``robustness``,
            ``readers``.

    Raises:
        ValueError: For settings that do not fit, or data that is not there.
    """
    given = {
        **{"models": models, "benchmarks": benchmarks, "lengths": lengths, "scaling": scaling},
        **{"prompt": "chat" if chat else None, "data": data},
        **settings,
    }
    listed = {name: list(v) if isinstance(v, tuple) else v for name, v in given.items()}
    reject_unknown("benchmark", options or {}, board_benchmarks())
    demo = {"models": ["tiny_llada"], "benchmarks": listed["benchmarks"], "data": "embedded"}
    return plan_leaderboard(listed, options or {}, datasets, demo)


def plan_leaderboard(
    settings: Mapping[str, Any],
    options: Mapping[str, Mapping[str, Any]],
    datasets: Sequence[Config] = (),
    demo: Mapping[str, Any] | None = None,
) -> Run:
    """Work out one run of several benchmarks.

    ``options`` are the settings of each besides, ``datasets`` configs of other data sets, and
    ``demo`` the settings that LLADA_DEMO=1 takes instead.
    """
    values = _read(settings, demo)
    gpus = usable_gpus(values)
    if demo is not None and is_demo():
        datasets = ()
    values.default("models", ModelTable().list_shipped(), "default: all that are shipped")
    default_scaling(values, ["all"], "default: all that docs/reference/models.md lists")
    values.default("benchmarks", list(ON_BOARD))
    default_workers(values, gpus)
    names = board_benchmarks()
    with only_variables({}):  # each benchmark would refuse those of the others
        runs = {
            name: plan_run(
                names[name],
                _own_settings(values, names[name], options.get(name, {})),
                gpus,
                announce=False,
                board_name=name,
            )
            for name in values["benchmarks"]
        }
    if values["prompt"] == "chat":
        for name, run in runs.items():
            if "prompt" not in find_plan(names[name]).settings:
                use_templates(run.models)
    combinations = [
        group
        for run in runs.values()
        for group in run.combinations or [{"models": run.models, "datasets": run.datasets}]
    ]
    described = unique(told for run in runs.values() for told in run.described_models)
    if datasets:
        group, told = _plan_others(values, datasets, gpus)
        combinations.append(group)
        described = unique([*described, *told])
    if scores_texts(combinations):
        reductions.Reductions.read(values).refuse_scoring()
    cells = count_results(combinations)
    values.announce(f"Leaderboard: {cells} cells")
    for name, run in runs.items() if not values.values.get("robustness") else ():
        remedy = f"options={{{name!r}: ...}} of the config with generation_length or tokenizer"
        sys.stderr.write(tell_what_differs(run.combinations or (), remedy))
    return Run(
        models=unique(model for group in combinations for model in group["models"]),
        datasets=unique(cell for group in combinations for cell in group["datasets"]),
        combinations=combinations,
        described_models=described,
        settings=values.values,
        **run_tasks(values["workers"], values["task_seconds"], dump_details=True),
        summarizer=summarize_with("LeaderboardSummarizer", models=described),
    )


def _read(settings: Mapping[str, Any], demo: Mapping[str, Any] | None) -> Settings:
    """Merge the settings of all benchmarks with the variables."""
    names = board_benchmarks()
    kinds = dict.fromkeys(kind for name in names.values() for kind in find_plan(name).robustness)
    known = {
        **LEADING,
        "benchmarks": texts(f"{', '.join(names)}, separated by commas", *names),
        "lengths": token_lengths("context lengths in tokens, separated by commas"),
        "robustness": texts("runs the same cells otherwise, too, where they can be", *kinds),
        "data": text("embedded or published, of every benchmark", "embedded", "published"),
        "prompt": text("base or chat, where a benchmark has both", "base", "chat"),
        **WORKERS,
        **READ_BY,
        **TRAILING,
        **reductions.SETTINGS,
    }
    return read_settings(settings, known, demo=demo)


def _own_settings(values: Settings, benchmark: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of one benchmark: its options, and over them what is asked of all."""
    plan = find_plan(benchmark)
    own = dict(options)
    if "benchmark" in plan.settings:  # one plan for several
        own["benchmark"] = benchmark
    if values["data"] == "published":
        own.pop("data", None)
    elif values["data"] == "embedded":
        own["data"] = _EMBEDDED.get(benchmark, "embedded")
    for name in ("models", "scaling", "workers", "dtype", *READ_BY, *reductions.SETTINGS):
        if values[name]:
            own[name] = values[name]
    for name in ("lengths", "prompt"):
        if values[name] and name in plan.settings:
            own[name] = values[name]
    kinds = [kind for kind in values["robustness"] or () if kind in plan.robustness]
    return {**own, **({"robustness": kinds} if kinds else {})}


def _plan_others(
    values: Settings, datasets: Sequence[Config], gpus: int
) -> tuple[Combination, list[dict[str, Any]]]:
    """Return the group of other data sets, and what is said of its models.

    They generate as at LongBench, whose answers are long, but one token a step; a data set's own
    ``max_out_len`` counts.
    """
    table, configs = ModelTable(), []
    # One that has an abbr is handed on as it is: a copy would import what its type names.
    named = [cell if "abbr" in cell else {**cell, "abbr": dataset_name(cell)} for cell in datasets]
    for name in table.resolve(values["models"]):
        made = table.list_configs(
            [name],
            values["scaling"],
            num_gpus=gpus,
            benchmark="longbench",
            dtype=values["dtype"],
            reductions=reductions.Reductions.read(values),
            chat=values["prompt"] == "chat",
        )
        for config in made:
            take_a_token_a_step(config, table[name])
        configs += made
    return {"models": configs, "datasets": named}, table.describe(configs)
