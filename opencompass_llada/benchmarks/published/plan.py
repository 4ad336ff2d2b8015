"""Makes the plan of a published suite: one data set a task and, where there are several, a length.

Published samples are run as they are unless a length and a fit are asked for; embedded ones are
made by the suite's code. `abbr` only names files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opencompass_llada.benchmarks import cells
from opencompass_llada.benchmarks.cells import Config
from opencompass_llada.benchmarks.counting import name_tokenizer
from opencompass_llada.benchmarks.published.suite import EMBEDDED, FITS, Suite
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs import planning
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.runs.model_table import LONGLLADA_GENERATION
from opencompass_llada.runs.planning import Combination, MakeModels, Run
from opencompass_llada.runs.settings import Setting, Settings, number, text, texts, token_lengths

#: Of embedded samples, for speed on two cores: tokens of an answer, at four a step.
EMBEDDED_ANSWER = 32
EMBEDDED_STEPS = 8
#: Prompts count, and a sample's answer starts, by the papers' blocks.
BLOCK_LENGTH = LONGLLADA_GENERATION["longbench"]["block_length"]
#: Returns the further keywords of a data set, given settings, task and length.
Extra = Callable[[Settings, str, int | None], Mapping[str, Any]]


def plan_suite(
    suite: Suite, *, settings: Mapping[str, Setting] | None = None, extra: Extra | None = None
) -> tuple[planning.Plan, planning.DataSets]:
    """Return ``PLAN`` and ``DATA_SETS`` of a suite.

    Args:
        suite: Its facts.
        settings: Settings of its own besides; None by default.
        extra: Further keywords of its data sets, made of settings, task and length.
    """
    own = {**_cell_settings(suite), **(settings or {})}

    def list_cells(values: Settings) -> list[Config]:
        return _list_cells(suite, values, extra)

    def list_by_name(values: Settings) -> list[Config]:
        if values["tokenizer"] == "model":
            values.values["tokenizer"] = None
        planning.default_by_name(values)
        fill_defaults(suite, values)
        if values["tokenizer"] == "model":
            values.values["tokenizer"] = None
            planning.default_by_name(values)
        return list_cells(values)

    def make_groups(
        values: Settings, table: ModelTable, make_models: MakeModels
    ) -> list[Combination]:
        def make(models: Any, **options: Any) -> list[Config]:
            configs = []
            for name in models:
                for config in make_models([name], **options):
                    if values["steps"] is None:
                        planning.take_a_token_a_step(config, table[name])
                    configs.append(config)
            return configs

        pair = planning.pair_by_settings(list_cells, model_options=_model_options)
        return pair(values, table, make)

    plan = planning.Plan(
        headline=suite.title + ": {models} models, {datasets} data sets",
        settings={
            **own,
            "block_length": number("tokens in a block of the sampler; default the papers' 64"),
            "steps": number("denoising steps; default one a token, embedded samples 8"),
        },
        demo={"models": ["tiny_llada"], "scaling": ["none"], "data": EMBEDDED},
        fill_defaults=lambda values, trained_length: _fill_run(suite, values),
        make_groups=make_groups,
        find_path=lambda cell: find_path(suite, cell),
        make_summarizer=lambda values, run: _make_summarizer(suite, run),
        robustness=("generation_lengths", "seeds", "decodings"),
    )
    return plan, planning.DataSets(settings=own, list_cells=list_by_name)


def find_path(suite: Suite, cell: Config) -> str:
    """Return the folder of a data set's files in full."""
    if cell["path"] == EMBEDDED:
        return EMBEDDED
    # A mistake in a setting is found before this takes seconds to import.
    from opencompass_llada.benchmarks.published.dataset import find_folder

    return str(find_folder(suite, cell["path"]).resolve())


def _cell_settings(suite: Suite) -> dict[str, Setting]:
    every = "any" if suite.any_length else ", ".join(map(str, suite.lengths))
    lengths = f"tokens the samples were made for: {every}" if suite.lengths else (
        "tokens of prompt and answer that samples are fitted to; default: as they are"
    )  # fmt: skip
    return {
        "tasks": texts(f"of {', '.join(suite.tasks)}, separated by commas; default all"),
        "lengths": token_lengths(f"{lengths}, separated by commas"),
        "fit": text(
            "what becomes of samples longer than the length: whole (left as they are), keep (only "
            "those that fit) or middle (cut out)",
            *FITS,
        ),
        "samples": number("samples of each data set; default all"),
        "data": text("embedded, published (where OpenCompass looks), or the folder of the files"),
        "tokenizer": text("what counts lengths: model (its own), gpt-4, or a checkpoint's path"),
        "prompt": text("base (ends in the answer's beginning) or chat", "base", "chat"),
        "generation_length": number("tokens generated for a sample; default each task's own"),
    }


def fill_defaults(suite: Suite, values: Settings) -> None:
    """Put in the settings that were not given."""
    values.defaults(data="published", prompt="base")
    embedded = values["data"] == EMBEDDED
    if suite.lengths:
        published = list(suite.default_lengths or suite.lengths)
        chosen = list(suite.embedded_lengths) if embedded else published
        reason = "default on embedded data" if embedded else "default: published"
        if not suite.any_length and values["lengths"]:
            _check_lengths(suite, values, suite.embedded_lengths if embedded else suite.lengths)
        values.default("lengths", chosen, reason)
        values.default("fit", "whole", "default: samples are made for lengths")
    else:
        values.default("fit", suite.fit if values["lengths"] else "whole")
    if values["fit"] != "whole" and not values["lengths"]:
        raise ValueError(
            f"fit={values['fit']!r} ({values.sources['fit']}) fits {suite.title}'s samples to a "
            "length; give lengths (LLADA_LENGTHS), such as 16k, or leave fit out."
        )
    if suite.any_length and not embedded:
        values.default("tokenizer", "gpt-4", "default: as OpenCompass counts")
    if suite.any_length or values["fit"] != "whole":
        values.default("tokenizer", "model")
    if embedded:
        values.default("generation_length", EMBEDDED_ANSWER, "default on embedded data")


def _check_lengths(suite: Suite, values: Settings, known: Sequence[int]) -> None:
    unknown = [length for length in values["lengths"] if length not in known]
    if unknown:
        raise ValueError(
            f"lengths={unknown} ({values.sources['lengths']}): {suite.title}'s "
            f"{values['data']} samples are of {', '.join(map(str, known))} tokens; ask for some "
            "of these."
        )


def _fill_run(suite: Suite, values: Settings) -> None:
    fill_defaults(suite, values)
    if values["data"] == EMBEDDED:
        values.default("block_length", EMBEDDED_ANSWER, "default on embedded data")
        reason = "default on embedded data, for speed; block-causal models take one a token"
        values.default("steps", EMBEDDED_STEPS, reason)
    values.default("block_length", BLOCK_LENGTH, "default: the papers' at LongBench")


def _list_cells(suite: Suite, values: Settings, extra: Extra | None) -> list[Config]:
    embedded = values["data"] == EMBEDDED
    at_hand = list((embedded and suite.embedded_tasks) or suite.tasks)
    tasks = values["tasks"] or at_hand
    reject_unknown(f"task of {suite.title}'s {values['data']} data", tasks, at_hand)
    return [
        _make_cell(suite, values, task, length, extra)
        for length in values["lengths"] or [None]
        for task in tasks
        if _has_room(suite, values, task, length)
    ]


def _has_room(suite: Suite, values: Settings, task: str, length: int | None) -> bool:
    """Tell whether a length that prompts are fitted to is longer than a task's answers.

    A task that is asked for by name is refused, one that is among all is left out, and it is said.
    """
    answer = values["generation_length"] or suite.tasks[task]
    if length is None or values["fit"] == "whole" or answer < length:
        return True
    lack = f"{suite.title}'s {task} is given {answer} tokens of answer, no room in {length}"
    remedy = "ask for a greater length, or for shorter answers (LLADA_GENERATION_LENGTH)"
    if values["tasks"]:
        raise ValueError(f"{lack}; {remedy}.")
    sys.stderr.write(f"{lack}, and is left out; {remedy}.\n")
    return False


def _make_cell(
    suite: Suite, values: Settings, task: str, length: int | None, extra: Extra | None
) -> Config:
    data, chat, fit = values["data"], values["prompt"] == "chat", values["fit"]
    answer = values["generation_length"] or suite.tasks[task]
    cell: Config = {
        "abbr": "_".join(_name_cell(suite, values, task, length)),
        "type": f"opencompass_llada.benchmarks.{suite.dataset}",
        "benchmark": suite.name,
        "task": task,
        "path": suite.path if data == "published" else data,
        "prompt": values["prompt"],
        "answer_length": answer,
        "reader_cfg": cells.read_with("answer", values["samples"]),
        "infer_cfg": cells.generate_with({"type": cells.LITERAL_TEMPLATE, "chat": chat}, answer),
        "eval_cfg": cells.score_with(suite.evaluator, task=task),
    }
    if length is not None:
        cell["length"] = length
    if fit != "whole":
        cell["fit"] = fit
    if fit != "whole" or suite.any_length:
        cell["tokenizer"] = values["tokenizer"]
    return {**cell, **(extra(values, task, length) if extra else {})}


def _name_cell(suite: Suite, values: Settings, task: str, length: int | None) -> list[str]:
    parts = [suite.name, *(["embedded"] if values["data"] == EMBEDDED else []), task]
    parts += [f"length{length}"] if length is not None else []
    parts += [values["fit"]] if values["fit"] != "whole" else []
    if values["fit"] != "whole" or suite.any_length:
        parts.append(f"by-{name_tokenizer(values['tokenizer'])}")
    return [*parts, *(["chat"] if values["prompt"] == "chat" else [])]


def _model_options(values: Settings) -> dict[str, Any]:
    return {
        "benchmark": "longbench",
        "chat": values["prompt"] == "chat",
        "max_out_len": values["generation_length"],
        "block_length": values["block_length"],
        "num_steps": values["steps"],
        "keep_steps": "steps" in values.given,
    }


def _make_summarizer(suite: Suite, run: Run) -> Config:
    asked = {cell["task"] for cell in run.datasets}
    groups = [group.to_config() for group in suite.averages if {*group.members} <= asked]
    return planning.summarize_with(
        "GroupSummarizer", metric=suite.metrics[0], groups=groups, models=run.described_models
    )
