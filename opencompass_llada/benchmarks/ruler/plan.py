"""Plans RULER runs: its 13 tasks at any length, for base models and for chat models.

The prompt of a base model ends in the answer prefix ("... mentioned in the provided text is"):
OpenCompass's own configs add an answer turn, which puts a line break after it for a model without
a chat template. The chat form keeps that turn, as it is there. `abbr` is
``ruler_TASK_lengthN_by-TOKENIZER``, and ends in ``_chat`` for the chat form. TOKENIZER stands for
the tokenizer's content (`counting.name_tokenizer`). It only names files: what reads results takes
task, length and tokenizer from the config.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from opencompass_llada.benchmarks.cells import (
    PROMPT_TEMPLATE,
    Config,
    generate_with,
    identify_tokenizer,
    read_with,
    score_with,
)
from opencompass_llada.benchmarks.counting import name_tokenizer
from opencompass_llada.benchmarks.ruler import dataset
from opencompass_llada.benchmarks.ruler.facts import QA_TASKS, RULER_GROUPS
from opencompass_llada.benchmarks.ruler.prompts import TASKS, RulerSpec
from opencompass_llada.benchmarks.ruler.samples import find_data_file
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs.model_table import LONGLLADA_GENERATION, TINY_GENERATION
from opencompass_llada.runs.models import ModelTable
from opencompass_llada.runs.planning import (
    Combination,
    DataSets,
    MakeModels,
    Plan,
    Run,
    summarize_with,
)
from opencompass_llada.runs.settings import Settings, number, numbers, text, texts

#: Where texts come from: folder and essay file. ``embedded`` has no questions, so no qa tasks.
SOURCES = {
    "ruler": {"path": "data/ruler", "essay_file": "PaulGrahamEssays.jsonl"},
    "embedded": {"path": "asset:needlebench", "essay_file": "synthetic_en.jsonl"},
}
#: For tiny-llada, from its trained length to four times it. Without the answer, cwe with its worked
#: example takes 1,058 tokens of its tokenizer at the least, and vt 468.
EMBEDDED_LENGTHS = (512, 1024, 2048)
EMBEDDED_SHORTEST = {"vt": 1024, "cwe": 2048}
#: Both papers: 64 tokens in one block, 100 samples; LongLLaDA's lengths (its Table 2).
PAPER_GENERATION = LONGLLADA_GENERATION["ruler"]["max_out_len"]
PAPER_SAMPLES = 100
LONGLLADA_LENGTHS = (4096, 8192, 16384)
#: What keeps the embedded run at minutes on two cores: the tiny models' answers, shorter than the
#: papers' and four tokens a step, and few samples. Variable tracking, with 30 tokens in two blocks,
#: takes as many steps.
EMBEDDED_ANSWER = TINY_GENERATION["ruler"]
EMBEDDED_SAMPLES = 3


def ruler_cells(
    lengths: Sequence[int],
    tasks: Sequence[str] | None = None,
    tokenizer: str | None = None,
    num_samples: int = PAPER_SAMPLES,
    generation_length: int | None = PAPER_GENERATION,
    chat: bool = False,
    data: str = "ruler",
    path: str | None = None,
    tokens_to_generate: int | None = None,
    fwe_room: bool = True,
) -> list[Config]:
    """List data set configs, length by length.

    Args:
        lengths: Tokens of prompt and answer together.
        tasks: Names; by default all that the data has.
        tokenizer: What counts: ``gpt-4`` or a checkpoint's path (folder, hub name, asset:NAME); by
            default $TOKENIZER_MODEL, as in OpenCompass's own configs, else ``gpt-4``.
        num_samples: Samples a task and length.
        generation_length: Tokens that the model generates, 64 in both papers; None for the
            model's own.
        chat: OpenCompass's turns of a conversation, for models with a chat template.
        data: ``ruler`` (OpenCompass's data/ruler) or ``embedded`` (generated essays, no qa tasks).
        path: Folder of the data, where it is not in its usual place.
        tokens_to_generate: Room for the answer; None for RULER's own for each task.
        fwe_room: Whether fwe keeps that room too; False for OpenCompass's and NVIDIA's prompts,
            which are too long with the answer.

    Raises:
        ValueError: For data or tasks that do not exist.
    """
    reject_unknown("RULER data", [data], SOURCES)
    at_hand = [name for name in TASKS if data != "embedded" or name not in QA_TASKS]
    chosen = list(tasks or at_hand)
    reject_unknown(f"task of RULER's {data} data", chosen, at_hand)
    tokenizer = tokenizer or os.environ.get("TOKENIZER_MODEL") or "gpt-4"
    ending = f"by-{name_tokenizer(tokenizer)}" + ("_chat" if chat else "")
    turns = [{"role": "HUMAN", "prompt": "{prompt}"}]
    if chat:
        turns.append({"role": "BOT", "prompt": "{answer}\n"})
    options: Config = {"tokenizer": tokenizer, "num_samples": num_samples, **SOURCES[data]}
    if path:
        options["path"] = path
    if tokens_to_generate is not None:
        options["tokens_to_generate"] = tokens_to_generate
    if chat:
        options["chat"] = True
    if not fwe_room:
        options["fwe_room"] = False
    template = {"type": PROMPT_TEMPLATE, "template": {"round": turns}}
    return [
        {
            "abbr": f"ruler_{task}_length{length}_{ending}",
            "type": "opencompass_llada.benchmarks.ruler.dataset.RulerDataset",
            "benchmark": "ruler",
            "task": task,
            "length": length,
            "reader_cfg": read_with("answer"),
            "infer_cfg": generate_with(template, generation_length),
            "eval_cfg": score_with("ruler.dataset.RulerEvaluator", match=TASKS[task].match),
            **options,
        }
        for length in lengths
        for task in chosen
    ]


def embedded_cells(
    generation_length: int,
    within_reserve: bool = True,
    lengths: Sequence[int] | None = None,
    tokenizer: str = "asset:tiny-llada",
    tasks: Sequence[str] | None = None,
    num_samples: int = EMBEDDED_SAMPLES,
    chat: bool = False,
) -> list[Config]:
    """List small data sets that need no data, with just the room that the answer takes.

    Args:
        generation_length: Tokens that the model generates.
        within_reserve: Generate fewer where RULER keeps less room for a task: vt's 30.
        lengths: As of `ruler_cells`; by default `EMBEDDED_LENGTHS`, each task from the length on
            that it fits.
        tokenizer: As of `ruler_cells`.
        tasks: As of `ruler_cells`.
        num_samples: Samples a task and length.
        chat: As of `ruler_cells`.
    """
    cells = ruler_cells(
        lengths or EMBEDDED_LENGTHS, tasks, tokenizer, num_samples, chat=chat, data="embedded"
    )
    for cell in cells:
        reserve = TASKS[cell["task"]].tokens_to_generate
        room = min(generation_length, reserve) if within_reserve else generation_length
        cell["tokens_to_generate"] = cell["infer_cfg"]["inferencer"]["max_out_len"] = room
    shortest = {} if lengths else EMBEDDED_SHORTEST
    return [cell for cell in cells if cell["length"] >= shortest.get(cell["task"], 0)]


def _fill_defaults(values: Settings, table: ModelTable) -> None:
    trained = min(table[name].trained_length for name in values["models"])
    if values["data"] == "embedded":
        values.default("samples", EMBEDDED_SAMPLES, "default on embedded data")
        values.default(
            "generation_length",
            EMBEDDED_ANSWER["max_out_len"],
            "default on embedded data; less where RULER keeps less",
        )
    elif trained >= LONGLLADA_LENGTHS[0]:
        values.default("tokenizer", "gpt-4", "default: as RULER counts in OpenCompass")
    values.default("samples", PAPER_SAMPLES, "default: both papers'")
    values.default(
        "tokenizer",
        "model",
        "default: embedded data or a trained length below RULER's shortest",
    )
    values.default("generation_length", PAPER_GENERATION, "default: both papers'")
    values.default("fwe", "fits")
    length = values["generation_length"]
    if _takes_embedded_answer(values):
        block, steps = EMBEDDED_ANSWER["block_length"], EMBEDDED_ANSWER["num_steps"]
        values.default("block_length", block, "default on embedded data")
        values.default("steps", steps, "default on embedded data, for speed")
    values.default("block_length", length, "default: one block, as in both papers")
    values.default("steps", length, "default: one a token, as in both papers")
    if values["data"] != "embedded":
        values.default("lengths", list(LONGLLADA_LENGTHS), "default: LongLLaDA's")
    elif values["lengths"] is None:
        lengths = ",".join(map(str, EMBEDDED_LENGTHS))
        reason = f"default: {lengths}; vt from 1024 and cwe from 2048, where they fit"
        values.sources["lengths"] = reason


def _takes_embedded_answer(values: Settings) -> bool:
    """Return whether embedded data is run with answers as long as by default."""
    default = EMBEDDED_ANSWER["max_out_len"]
    return values["data"] == "embedded" and values["generation_length"] == default


def _make_groups(values: Settings, table: ModelTable, make_models: MakeModels) -> list[Combination]:
    """Pair each set of data sets with the models that run it: tokenizers may differ, by content."""
    names_by_tokenizer: dict[Any, tuple[str, list[str]]] = {}
    for name in values["models"]:
        tokenizer = table[name].path if values["tokenizer"] == "model" else values["tokenizer"]
        key = identify_tokenizer(tokenizer, with_template=values["prompt"] != "base")
        names_by_tokenizer.setdefault(key, (tokenizer, []))[1].append(name)
    groups = []
    for tokenizer, names in names_by_tokenizer.values():
        models = make_models(names, benchmark="ruler", chat=values["prompt"] == "chat")
        for config in models:
            config["max_out_len"] = values["generation_length"]
            table.set_sampler(config, values["block_length"], values["steps"], benchmark="ruler")
        cells = _cells_of(values, tokenizer)
        for cell in cells if values["data"] != "embedded" else ():
            # The full path, so that the dumped config does not depend on COMPASS_DATA_CACHE.
            cell["path"] = _full_path(cell)
        groups.append(Combination(models=models, datasets=cells))
    return groups


def _cells_of(values: Settings, tokenizer: str | None) -> list[Config]:
    """List the data set configs whose lengths a tokenizer counts."""
    common = {
        "tasks": values["tasks"],
        "num_samples": values["samples"],
        "generation_length": values["generation_length"],
        "lengths": values["lengths"],
        "chat": values["prompt"] not in ("base", None),
    }
    if values["data"] == "embedded":
        own = tokenizer or "asset:tiny-llada"
        return embedded_cells(
            within_reserve=_takes_embedded_answer(values), tokenizer=own, **common
        )
    named = values["data"] in SOURCES
    return ruler_cells(
        path=SOURCES[values["data"]]["path"] if named else values["data"],
        fwe_room=values["fwe"] != "published",
        tokenizer=tokenizer,
        **common,
    )


def _full_path(cell: Config) -> str:
    """Return the folder of a data set's file, or its path as it is if it needs none."""
    spec = RulerSpec(
        task=cell["task"], length=cell["length"], path=cell["path"], essay_file=cell["essay_file"]
    )
    file = find_data_file(spec)
    return str(cell["path"]) if file is None else str(file.resolve().parent)


def _check_data(values: Settings, cells: Sequence[Config]) -> None:
    """Make a sample of each task at its smallest length."""
    dataset.check_cells(cells)


def _make_summarizer(values: Settings, run: Run) -> Config:
    groups = [group.to_config() for group in RULER_GROUPS]
    return summarize_with("GroupSummarizer", groups=groups, models=run.described_models)


_CELL_SETTINGS = {
    "tasks": texts("names, separated by commas; default all that the data has"),
    "lengths": numbers("tokens of prompt and answer, separated by commas"),
    "samples": number("samples a task and length"),
    "data": text(
        "embedded (no qa tasks), ruler (where OpenCompass looks), or the folder of its files"
    ),
    "tokenizer": text("what counts lengths: model (its own), gpt-4, or a checkpoint's path"),
    "prompt": text(
        "base (ends in the answer prefix), chat, or opencompass: its turns without a chat "
        "template, so that prompts end in a line break",
        *("base", "chat", "opencompass"),
    ),
    "fwe": text(
        "fits (default: prompt and answer have the length) or published (the prompt alone)",
        *("fits", "published"),
    ),
    "generation_length": number(
        "tokens generated for a sample; default the papers' 64, or the tiny models' on embedded "
        "data"
    ),
}
PLAN = Plan(
    headline="RULER: {models} models, {results} results (model x task x length)",
    settings={
        **_CELL_SETTINGS,
        "block_length": number("tokens in a block of the sampler; default one block"),
        "steps": number("denoising steps; default one a token, as in the papers"),
        "batch_size": number("prompts at a time; default the model's"),
    },
    demo={"models": ["tiny_llada"], "scaling": ["none", "ntk"], "data": "embedded"},
    fill_defaults=_fill_defaults,
    make_groups=_make_groups,
    check_data=_check_data,
    make_summarizer=_make_summarizer,
    has_small_cells=False,
    dump_details=True,
)


def _list_cells(values: Settings) -> list[Config]:
    """List data sets as both papers run them; embedded ones at tiny-llada's lengths."""
    values.default("data", "ruler")
    if values["data"] == "embedded":
        values.default("samples", EMBEDDED_SAMPLES)
        values.default("generation_length", EMBEDDED_ANSWER["max_out_len"])
    else:
        values.default("lengths", list(LONGLLADA_LENGTHS))
    values.default("samples", PAPER_SAMPLES)
    values.default("generation_length", PAPER_GENERATION)
    return _cells_of(values, values["tokenizer"])


DATA_SETS = DataSets(settings=_CELL_SETTINGS, list_cells=_list_cells)
