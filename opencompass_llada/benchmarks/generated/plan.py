"""Plans runs of generated suites, of one or of several in one table.

`abbr`, ``SUITE_levelK_lengthN_by-TOKENIZER`` with the language behind the suite's name where it is
not English and ``_chat`` for the chat form, only names files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opencompass_llada.benchmarks import cells
from opencompass_llada.benchmarks.cells import Config
from opencompass_llada.benchmarks.counting import name_tokenizer
from opencompass_llada.benchmarks.generated.task import (
    LANGUAGES,
    LEVELS,
    find_task,
    list_suites,
    name_cell,
)
from opencompass_llada.runs import planning
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.runs.model_table import KNOWN_MODELS
from opencompass_llada.runs.planning import Combination, DataSets, MakeModels, Plan, Run
from opencompass_llada.runs.settings import (
    Setting,
    Settings,
    number,
    numbers,
    text,
    texts,
    token_lengths,
)

#: For models trained on fewer than 4,096 tokens, and for others: lengths, levels, samples a cell.
TINY_DEFAULTS = ((256, 512, 1024), (1, 2), 4)
#: A Chinese character is three of tiny-llada's tokens.
TINY_CHINESE_LENGTHS = (512, 1024, 2048)
DEFAULTS = ((4096, 8192, 16384, 32768), LEVELS, 50)
_LONG = 4096
_SETTINGS = {
    "levels": numbers("1 (easy) to 5 (hard), separated by commas; default all, tiny models 1,2"),
    "lengths": token_lengths("tokens of prompt and answer, separated by commas"),
    "samples": number("samples a suite, level and length; default 50, tiny models 4"),
    "seed": number("of all draws; default 1", lowest=0),
    "language": text("en or zh", *LANGUAGES),
    "tokenizer": text("what counts lengths: model (its own), gpt-4, or a checkpoint's path"),
    "prompt": text("base (ends in the answer's beginning), or chat", "base", "chat"),
    "generation_length": number("tokens generated for a sample; default each suite's and level's"),
}
_RUN_SETTINGS = {
    "block_length": number("tokens in a block of the sampler; default one block"),
    "steps": number("denoising steps; default one a token"),
}


def _list_cells(values: Settings, suites: Sequence[str]) -> list[Config]:
    """List data sets, suite by suite, level by level."""
    if wrong := [level for level in values["levels"] if level not in LEVELS]:
        raise ValueError(f"levels={wrong} ({values.sources['levels']}) must be of {list(LEVELS)}.")
    return [
        _make_cell(values, suite, level, length)
        for suite in suites
        for level in values["levels"]
        for length in values["lengths"]
    ]


def _make_cell(values: Settings, suite: str, level: int, length: int) -> Config:
    chat, language = values["prompt"] == "chat", values["language"]
    name = suite if language == "en" else f"{suite}_{language}"
    ending = f"by-{name_tokenizer(values['tokenizer'])}" + ("_chat" if chat else "")
    room = values["generation_length"] or find_task(suite).generation_length(level)
    cell: Config = {
        "abbr": f"{name}_level{level}_length{length}_{ending}",
        "type": "opencompass_llada.benchmarks.generated.dataset.GeneratedDataset",
        "path": "generated",
        "benchmark": suite,
        "task": name_cell(suite, level),
        "level": level,
        "length": length,
        "tokenizer": values["tokenizer"],
        "num_samples": values["samples"],
        "seed": values["seed"],
        "language": language,
        "generation_length": room,
        "reader_cfg": cells.read_with("answer"),
        "infer_cfg": cells.generate_with({"type": cells.LITERAL_TEMPLATE, "chat": chat}, room),
        "eval_cfg": cells.score_with("generated.dataset.GeneratedEvaluator", suite=suite),
    }
    return {**cell, "chat": True} if chat else cell


def _fill_defaults(values: Settings, trained_length: int) -> None:
    tiny = trained_length < _LONG
    lengths, levels, samples = TINY_DEFAULTS if tiny else DEFAULTS
    values.default("language", "en")
    if tiny and values["language"] == "zh":
        lengths = TINY_CHINESE_LENGTHS
    reason = f"default: models trained on {'fewer' if tiny else 'no fewer'} than {_LONG} tokens"
    values.defaults(reason, lengths=list(lengths), levels=list(levels), samples=samples)
    values.defaults(seed=1, tokenizer="model", prompt="base")


def _list_by_name(values: Settings, suites: Sequence[str]) -> list[Config]:
    """List data sets of any model's, by default as for tiny-llada."""
    facts = KNOWN_MODELS["tiny_llada"]
    values.default("tokenizer", facts.path, "default: tiny-llada's")
    _fill_defaults(values, facts.trained_length)
    return _list_cells(values, suites)


def _make_groups(
    find_suites: Callable[[Settings], Sequence[str]],
) -> Callable[[Settings, ModelTable, MakeModels], list[Combination]]:
    pair = planning.pair_by_settings(
        lambda values: _list_cells(values, find_suites(values)), model_options=_model_options
    )

    def make_groups(
        values: Settings, table: ModelTable, make_models: MakeModels
    ) -> list[Combination]:
        """Pair models and data sets; what a model's table says of RULER's answers is left out."""
        groups = pair(values, table, make_models)
        for config in (config for group in groups for config in group["models"]):
            if sampler := config.get("sampler"):
                sampler["num_steps"] = values["steps"]
                sampler["block_length"] = values["block_length"]
        return groups

    return make_groups


def _model_options(values: Settings) -> Mapping[str, Any]:
    return {"benchmark": "ruler", "chat": values["prompt"] == "chat"}


def make_plan(suite: str) -> Plan:
    """Return the ``PLAN`` of a suite's ``plan.py``."""
    return Plan(
        headline=f"{suite}: {{models}} models, {{results}} results (model x level x length)",
        settings={**_SETTINGS, **_RUN_SETTINGS},
        demo={"models": ["tiny_llada"]},
        fill_defaults=_fill_defaults,
        make_groups=_make_groups(lambda values: [suite]),
        make_summarizer=planning.summarize_models("GroupSummarizer"),
    )


def make_data_sets(suite: str) -> DataSets:
    """Return the ``DATA_SETS`` of a suite's ``plan.py``."""
    return DataSets(settings=_SETTINGS, list_cells=lambda values: _list_by_name(values, [suite]))


def list_settings() -> dict[str, Setting]:
    """Return the settings of a run of several suites."""
    suites = list_suites()
    own = {"suites": texts(f"{', '.join(suites)}; default all", *suites)}
    return {**own, **_SETTINGS, **_RUN_SETTINGS}


def plan_suites(settings: Mapping[str, Any], num_gpus: int | None = None) -> Run:
    """Work out one run of several suites, by default of all."""
    plan = Plan(
        headline="Generated suites: {models} models, {results} results",
        settings=list_settings(),
        demo={"models": ["tiny_llada"]},
        fill_defaults=_fill_all,
        make_groups=_make_groups(lambda values: values["suites"]),
        make_summarizer=planning.summarize_models("LeaderboardSummarizer"),
    )
    return planning.plan_run(plan, settings, num_gpus)


def _fill_all(values: Settings, trained_length: int) -> None:
    values.default("suites", list(list_suites()), "default: all")
    _fill_defaults(values, trained_length)
