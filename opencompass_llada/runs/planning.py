"""Turns settings into a run: models, data sets, task sizes and summarizer, with its data checked.

Each benchmark states in ``plan.py`` what is its own, as a `Plan` (``PLAN``) and as `DataSets`
(``DATA_SETS``). A config of configs/ calls one of these functions while it is parsed.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from opencompass_llada import assets
from opencompass_llada.benchmarks import data_checks
from opencompass_llada.benchmarks.benchmark import all_benchmarks, find_benchmark
from opencompass_llada.benchmarks.counting import find_template, name_tokenizer
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs import machine, reductions
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.model_configs import Config, ModelTable
from opencompass_llada.runs.model_table import KNOWN_MODELS, KnownModel
from opencompass_llada.runs.reader_cells import (
    add_readers,
    check_readers,
    list_reader_cells,
    tell_left_out,
)
from opencompass_llada.runs.settings import (
    BATCH_SIZE,
    LEADING,
    READ_BY,
    TRAILING,
    WORKERS,
    Setting,
    Settings,
    read_settings,
    texts,
)

#: What a file of configs/models takes besides the model's name.
BY_NAME = {
    "scaling": LEADING["scaling"],
    **BATCH_SIZE,
    "dtype": TRAILING["dtype"],
    **reductions.SETTINGS,
}
#: ``models`` and the ``datasets`` that each of them runs.
Combination = dict[str, list[Config]]
#: `ModelTable.list_configs` with a run's scalings, GPUs and precision put in.
MakeModels = Callable[..., list[Config]]


@dataclass(frozen=True, kw_only=True)
class DataSets:
    """The data sets of a benchmark by themselves, for ``--datasets`` and configs of users."""

    settings: Mapping[str, Setting]
    list_cells: Callable[[Settings], list[Config]]
    """Puts in defaults and returns the data set configs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run of one benchmark has of its own."""

    headline: str
    """What is announced; ``{models}``, ``{cells}`` (data sets of all groups), ``{datasets}``,
    ``{results}`` (models x data sets) and names of settings are filled in."""
    settings: Mapping[str, Setting]
    """Besides those of every run (`settings.LEADING`, `BATCH_SIZE`, `WORKERS` and `TRAILING`)."""
    demo: Mapping[str, Any]
    """What LLADA_DEMO=1 runs."""
    fill_defaults: Callable[[Settings, int], None]
    """Puts defaults where no setting was given, given the shortest trained length of the models."""
    make_groups: Callable[[Settings, ModelTable, MakeModels], list[Combination]]
    find_path: Callable[[Config], str] = lambda cell: str(cell["path"])
    """Returns the path of a data set in full, so that the dumped config does not depend on
    COMPASS_DATA_CACHE; not asked for assets."""
    check_data: Callable[[Settings, Sequence[Config]], None] = lambda values, cells: (
        data_checks.check_data(cells)
    )
    """Reads or makes some samples of a group's data sets, so that a fault shows at once."""
    make_summarizer: Callable[[Settings, Run], Config]
    dump_details: bool = True
    """Whether each answer is kept with its score."""
    robustness: tuple[str, ...] = ()
    """The kinds of variants (`runs.robustness`) that its cells can be run in."""
    num_wordings: int = 0
    """The wordings that a data set's ``wording`` chooses from, where it has several."""
    no_readers: str = ""
    """Why its cells are read in full alone; '' where `runs.reader_cells` adds other readers."""
    always_combined: bool = False
    """Whether the config lists groups even where there is one."""


@dataclass(kw_only=True)
class Run:
    """A planned run, as a config takes it apart."""

    models: list[Config]
    datasets: list[Config]
    combinations: list[Combination] | None = None
    """None where every model runs every data set."""
    described_models: list[dict[str, Any]]
    """What summarizers say of the models."""
    settings: dict[str, Any]
    """All of them, resolved."""
    infer: Config
    eval: Config
    summarizer: Config
    custom_imports: Config = field(
        default_factory=lambda: {
            "imports": ["opencompass_llada.runs.host_options"],
            "allow_failed_imports": False,
        }
    )
    """Lets plain ``opencompass CONFIG --slurm`` keep ``infer`` and ``eval``."""


def plan_run(
    benchmark: str | Plan,
    settings: Mapping[str, Any],
    num_gpus: int | None = None,
    *,
    announce: bool = True,
    rows: Sequence[Mapping[str, Any]] | None = None,
    board_name: str | None = None,
) -> Run:
    """Work out a run of one benchmark from settings and environment variables; check its data.

    Args:
        benchmark: Its name, e.g. ``niah``, or a plan of several.
        settings: Values by name; None for the default.
        num_gpus: GPUs of the machine; counted by default.
        announce: Write what was taken, and why, to standard error.
        rows: What runs, as `ModelTable.list_configs` reads it, instead of every model with every
            scaling; the models of the settings have to be theirs. The demo is then theirs, too.
        board_name: What the benchmark is called in a run of several. It then runs without what has
            no effect on scores, where it makes nothing else; by default that is refused.

    Raises:
        ValueError: For settings that do not fit, or data that is not there.
    """
    plan = find_plan(benchmark) if isinstance(benchmark, str) else benchmark
    table = ModelTable()
    own = {**LEADING, **plan.settings, **BATCH_SIZE, **WORKERS, **READ_BY}
    known = {**own, **TRAILING, **reductions.SETTINGS}
    if plan.robustness:
        what = f"runs the same cells otherwise, too: {', '.join(plan.robustness)}"
        known["robustness"] = texts(what, *plan.robustness)
    values = read_settings(settings, known, demo=plan.demo if rows is None else None)
    values.default("models", table.list_shipped(), "default: all that are shipped")
    values.values["models"] = table.resolve(values["models"])
    if rows is None:
        default_scaling(values)
    plan.fill_defaults(values, min(table[name].trained_length for name in values["models"]))
    gpus = usable_gpus(values) if num_gpus is None else num_gpus
    default_workers(values, gpus)
    rows = table.pair(values["models"], values["scaling"]) if rows is None else rows
    lossy = reductions.Reductions.read(values)
    lossy.check(table[name] for name in values["models"])

    def make_models(models: Iterable[str], **options: Any) -> list[Config]:
        given = {"batch_size": values["batch_size"], "dtype": values["dtype"], "rows": rows}
        given["reductions"] = lossy
        return table.list_configs(models, values["scaling"], num_gpus=gpus, **{**given, **options})

    groups = plan.make_groups(values, table, make_models)
    if scores_texts(groups):
        if board_name is None:
            lossy.refuse_scoring()
        else:
            lossy = lossy.for_scores(board_name)
            groups = plan.make_groups(values, table, make_models)
    for group in groups:
        for cell in group["datasets"]:
            if not cell["path"].startswith(assets.PREFIX):
                cell["path"] = plan.find_path(cell)
        plan.check_data(values, group["datasets"])
    asked_groups = groups
    if asked := values.values.get("robustness"):
        from opencompass_llada.runs.robustness import add_variants

        check = functools.partial(plan.check_data, values)
        groups = add_variants(groups, asked, plan.num_wordings, check)
    readings = _list_readings(plan, values, table, asked_groups)
    models = [config for group in groups for config in group["models"]]
    groups = [*groups, *readings]
    datasets = unique(cell for group in groups for cell in group["datasets"])
    results = count_results(groups)
    if announce:
        counts = {
            "models": len(unique(models)),
            "datasets": len(datasets),
            "cells": sum(len(group["datasets"]) for group in groups),
            "results": results,
        }
        values.announce(plan.headline.format(**{**values.values, **counts}))
        sys.stderr.write(tell_what_differs(asked_groups, _BY_VARIABLES))
    several = len(groups) > 1 or plan.always_combined
    details = {"dump_details": True} if plan.dump_details else {}
    run = Run(
        models=models,
        datasets=datasets,
        combinations=groups if several else None,
        described_models=table.describe(models),
        settings=values.values,
        **run_tasks(values["workers"], values["task_seconds"], **details),
        summarizer={},
    )
    run.summarizer = plan.make_summarizer(values, run)
    return run


def _list_readings(
    plan: Plan, values: Settings, table: ModelTable, groups: list[Combination]
) -> list[Combination]:
    """Return the groups of the readers that are asked for besides ``full``."""
    readers = values["readers"] or ["full"]
    check_readers(readers)
    if plan.no_readers or readers == ["full"]:
        sys.stderr.write(tell_left_out(readers, plan.no_readers, plan.headline.partition(":")[0]))
        return []
    check = functools.partial(plan.check_data, values)
    return add_readers(groups, readers, table.facts_of, values["reader_window"], check)


#: How the models of a run of one benchmark are asked alike.
_BY_VARIABLES = "LLADA_GENERATION_LENGTH and LLADA_TOKENIZER, where a benchmark has them"


def tell_what_differs(groups: Sequence[Combination], remedy: str) -> str:
    """Say which models are asked otherwise than others, '' if none is: they are not compared.

    ``remedy`` names the settings that ask all models alike.
    """
    told: dict[str, list[str]] = {}
    for group in groups:
        cells = group["datasets"]
        answers = {cell["infer_cfg"]["inferencer"].get("max_out_len") for cell in cells}
        lengths = sorted(length for length in answers if length)
        tokens = "-".join(map(str, dict.fromkeys([*lengths[:1], *lengths[-1:]])))
        counted = sorted(
            {name_tokenizer(str(cell["tokenizer"])) for cell in cells if cell.get("tokenizer")}
        )
        by = [f"lengths by {', '.join(counted)}"] if counted else []
        how = ", ".join([*([f"{tokens} new tokens"] if tokens else []), *by])
        told.setdefault(how, []).extend(model["abbr"] for model in group["models"])
    if len(told) < 2:
        return ""
    lines = [f"  {', '.join(names)}: {how}" for how, names in told.items()]
    return (
        "Not all models are asked the same, and those that are not are not compared with each "
        f"other ({remedy}, ask all alike):\n" + "\n".join(lines) + "\n"
    )


def pair_by_settings(
    list_cells: Callable[[Settings], list[Config]],
    own_settings: Callable[[Settings, KnownModel], Mapping[str, Any]] = lambda values, facts: {},
    model_options: Callable[[Settings], Mapping[str, Any]] = lambda values: {},
) -> Callable[[Settings, ModelTable, MakeModels], list[Combination]]:
    """Return a `Plan.make_groups` that pairs each set of data sets with the models that run it.

    A tokenizer is known by its content: models with copies of one are asked the same questions, and
    the first one's path is in the data sets. For chat prompts its template counts, too.

    Args:
        list_cells: Lists the data set configs of settings.
        own_settings: Settings that a model brings; those of like ones share data sets.
        model_options: Of `ModelTable.list_configs`, besides those of every benchmark.
    """

    def make_groups(
        values: Settings, table: ModelTable, make_models: MakeModels
    ) -> list[Combination]:
        groups: dict[Any, tuple[dict[str, Any], list[str]]] = {}
        for name in values["models"]:
            own = dict(own_settings(values, table[name]))
            key: list[Any] = list(own.values())
            if tokenizer := values.values.get("tokenizer"):
                tokenizer = table[name].path if tokenizer == "model" else tokenizer
                own["tokenizer"] = tokenizer
                is_turn = values["prompt"] not in (None, "base")
                key += [name_tokenizer(tokenizer), find_template(tokenizer) if is_turn else None]
            groups.setdefault(tuple(key), (own, []))[1].append(name)
        return [
            {
                "models": make_models(names, **model_options(values)),
                "datasets": list_cells(values.replaced(**own)),
            }
            for own, names in groups.values()
        ]

    return make_groups


def default_by_name(values: Settings) -> KnownModel:
    """Return the model that data sets by name are for; embedded ones take its tokenizer, too."""
    if values["data"] != "embedded":
        return KNOWN_MODELS["llada_8b_base"]
    values.default("tokenizer", KNOWN_MODELS["tiny_llada"].path)
    return KNOWN_MODELS["tiny_llada"]


def count_results(groups: Iterable[Combination]) -> int:
    """Count the cells of a run: each model on each of its data sets."""
    return sum(len(group["models"]) * len(group["datasets"]) for group in groups)


def find_plan(benchmark: str) -> Plan:
    """Return the plan of a benchmark's runs; one without any is refused."""
    own = all_benchmarks().get(benchmark)
    plan: Plan | None = getattr(importlib.import_module(own.plan), "PLAN", None) if own else None
    if plan is None:
        reject_unknown("benchmark", [benchmark], list_plans())
    return cast(Plan, plan)


def list_plans() -> list[str]:
    """List the benchmarks that can be run by themselves."""
    return [name for name, module in _plan_modules().items() if hasattr(module, "PLAN")]


def _plan_modules() -> dict[str, Any]:
    return {name: importlib.import_module(own.plan) for name, own in all_benchmarks().items()}


def _names_of_variables() -> set[str]:
    """List the settings that any file of configs/models and configs/datasets takes."""
    own = (module.DATA_SETS.settings for module in _plan_modules().values())
    return set(BY_NAME).union(READ_BY, *own)


def list_data_sets(benchmark: str, /, **settings: Any) -> list[Config]:
    """Return the data set configs of a benchmark by its `DataSets`; variables win over settings."""
    own = find_benchmark(benchmark)
    data_sets: DataSets = importlib.import_module(own.plan).DATA_SETS
    known = {**data_sets.settings, **READ_BY}
    values = read_settings(settings, known, others=_names_of_variables())
    cells, readers = data_sets.list_cells(values), values["readers"] or ["full"]
    plan: Plan | None = getattr(importlib.import_module(own.plan), "PLAN", None)
    if readers == ["full"] or (plan and plan.no_readers):
        sys.stderr.write(tell_left_out(readers, plan.no_readers if plan else "", benchmark))
        return cells
    return list_reader_cells(cells, readers, values["reader_window"])


def list_models(name: str, /, **settings: Any) -> list[Config]:
    """Return the configs of one of `KNOWN_MODELS` for data sets of any kind, by `BY_NAME`."""
    facts, table = KNOWN_MODELS[name], ModelTable()
    if name not in table.models:
        raise ValueError(
            f"--models {name}: {facts.path!r} is not shipped with this version; use another."
        )
    values = read_settings(settings, BY_NAME, others=_names_of_variables())
    values.default("scaling", ["none"])
    lossy = reductions.Reductions.read(values)
    lossy.check([facts])
    others = {k: v for k, v in values.values.items() if k not in reductions.SETTINGS}
    gpus = machine.count_gpus()
    configs = table.list_configs([name], num_gpus=gpus, reductions=lossy, **others)
    for config in configs:
        take_a_token_a_step(config, facts)
    return configs


def use_templates(models: Iterable[Config]) -> None:
    """Let models that have a chat template answer by it, where a benchmark has one form alone."""
    for config in models:
        if find_template(config["path"]) is not None:
            config["chat"] = True


def take_a_token_a_step(config: Config, facts: KnownModel) -> None:
    """Let a model take one token a step where it does at a benchmark, then for any answer's length.

    And where the table's steps fit the blocks of that benchmark's answers alone.
    """
    steps = config.get("sampler", {}).get("num_steps")
    if steps and (steps == config["max_out_len"] or facts.tuned_steps):
        config["sampler"]["num_steps"] = None


def unique(items: Iterable[Config]) -> list[Config]:
    """Return the first item of each abbr."""
    found: dict[str, Config] = {}
    for item in items:
        found.setdefault(item["abbr"], item)
    return list(found.values())


def default_scaling(
    values: Settings, scaling: Sequence[str] = ("none",), reason: str = "default"
) -> None:
    """Take no scaling where $LLADA_MODELS alone says what to run: a config's is for its own."""
    if values.is_variable("models") and not values.is_variable("scaling"):
        values.values["scaling"], scaling = None, ["none"]
        reason = "default: $LLADA_MODELS is set; all is those of docs/reference/models.md"
    values.default("scaling", list(scaling), reason)


def usable_gpus(values: Settings) -> int:
    """Return the GPUs that a run may use: those it was told of, else those of this machine."""
    told: int | None = values["gpus"]
    return machine.count_gpus() if told is None else told


def default_workers(values: Settings, num_gpus: int) -> None:
    """Take a task a GPU, or one a core up to two, where nothing else was asked for."""
    reason = f"default: {num_gpus} GPUs" if num_gpus else "default: no GPU, up to two cores"
    values.default("workers", num_gpus or min(2, machine.count_cores()), reason)


def run_tasks(
    workers: int, task_seconds: int | None = None, **scoring_options: Any
) -> dict[str, Any]:
    """Return OpenCompass's ``infer`` and ``eval``, given how many tasks go on at a time.

    ``task_seconds`` is how long one shall be; None decides by cost.
    """
    length = {"task_seconds": task_seconds} if task_seconds else {}

    def stage(kind: str, partition: Config, **options: Any) -> Config:
        runner = {
            "type": "opencompass_llada.runs.tasks.CoreSharingLocalRunner",
            "max_num_workers": workers,
            "task": {"type": f"opencompass_llada.runs.tasks.{kind}", **options},
        }
        partitioner = {
            "type": "opencompass_llada.runs.partitioner.CostAwarePartitioner",
            "num_workers": workers,
        }
        return {"partitioner": {**partitioner, **partition}, "runner": runner}

    return {
        "infer": stage("ShortNamedInferTask", length),
        "eval": stage("CellByCellEvalTask", {}, **scoring_options),
    }


def summarize_models(kind: str) -> Callable[[Settings, Run], Config]:
    """Return a `Plan.make_summarizer` for a class that is told of the models alone."""
    return lambda values, run: summarize_with(kind, models=run.described_models)


def summarize_with(kind: str, **options: Any) -> Config:
    """Return OpenCompass's ``summarizer``, given the name of a class of `report.summarizers`."""
    return {"type": f"opencompass_llada.report.summarizers.{kind}", **options}


def scores_texts(groups: Sequence[Combination]) -> bool:
    """Tell whether nothing is generated for any data set."""
    cells = (cell for group in groups for cell in group["datasets"])
    kinds = ((cell.get("infer_cfg") or {}).get("inferencer") or {} for cell in cells)
    return all(recorded.type_name(kind) in recorded.SCORING for kind in kinds)
