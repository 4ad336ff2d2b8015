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
from opencompass_llada.benchmarks.ruler.facts import QA_TASKS, RULER_GROUPS
from opencompass_llada.benchmarks.ruler.prompts import TASKS, RulerSpec
from opencompass_llada.benchmarks.ruler.samples import find_data_file
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.runs.model_table import LONGLLADA_GENERATION, TINY_GENERATION
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


def _list_cells(values: Settings) -> list[Config]:
    """List data sets, length by length, by default as both papers run them.

    Embedded ones have just the room that the answer takes, and are at tiny-llada's lengths, each
    task from the length on that it fits. Where no answer's length is asked for there, RULER's own
    is taken where it is shorter: vt's 30.
    """
    values.default("data", "ruler")
    data = values["data"] if values["data"] in SOURCES else "ruler"
    embedded, lengths = data == "embedded", values["lengths"]
    if embedded:
        values.default("tokenizer", "asset:tiny-llada")
        values.default("samples", EMBEDDED_SAMPLES)
        values.default("generation_length", EMBEDDED_ANSWER["max_out_len"])
    values.default("lengths", EMBEDDED_LENGTHS if embedded else LONGLLADA_LENGTHS)
    values.default("samples", PAPER_SAMPLES)
    values.default("generation_length", PAPER_GENERATION)
    # As in OpenCompass's own configs.
    values.default("tokenizer", os.environ.get("TOKENIZER_MODEL") or "gpt-4")
    at_hand = [name for name in TASKS if not embedded or name not in QA_TASKS]
    tasks = values["tasks"] or at_hand
    reject_unknown(f"task of RULER's {data} data", tasks, at_hand)
    cells = [
        _make_cell(values, task, length, embedded)
        for length in values["lengths"]
        for task in tasks
        if not embedded or lengths or length >= EMBEDDED_SHORTEST.get(task, 0)
    ]
    source = {**SOURCES[data], **({} if values["data"] in SOURCES else {"path": values["data"]})}
    return [{**cell, **source} for cell in cells]


def _make_cell(values: Settings, task: str, length: int, embedded: bool) -> Config:
    chat = values["prompt"] not in ("base", None)
    turns = [{"role": "HUMAN", "prompt": "{prompt}"}]
    if chat:
        turns.append({"role": "BOT", "prompt": "{answer}\n"})
    room, own = values["generation_length"], TASKS[task].tokens_to_generate
    if _takes_embedded_answer(values):
        room = min(room, own)
    ending = f"by-{name_tokenizer(values['tokenizer'])}" + ("_chat" if chat else "")
    cell: Config = {
        "abbr": f"ruler_{task}_length{length}_{ending}",
        "type": "opencompass_llada.benchmarks.ruler.dataset.RulerDataset",
        "benchmark": "ruler",
        "task": task,
        "length": length,
        "tokenizer": values["tokenizer"],
        "num_samples": values["samples"],
        "reader_cfg": read_with("answer"),
        "infer_cfg": generate_with({"type": PROMPT_TEMPLATE, "template": {"round": turns}}, room),
        "eval_cfg": score_with("ruler.dataset.RulerEvaluator", match=TASKS[task].match),
    }
    if embedded:
        cell["tokens_to_generate"] = room
    if chat:
        cell["chat"] = True
    if values["fwe"] == "published" and not embedded:
        cell["fwe_room"] = False
    return cell


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
        cells = _list_cells(values.replaced(tokenizer=tokenizer))
        for cell in cells if values["data"] != "embedded" else ():
            # The full path, so that the dumped config does not depend on COMPASS_DATA_CACHE.
            cell["path"] = _full_path(cell)
        groups.append(Combination(models=models, datasets=cells))
    return groups


def _full_path(cell: Config) -> str:
    """Return the folder of a data set's file, or its path as it is if it needs none."""
    spec = RulerSpec(
        task=cell["task"], length=cell["length"], path=cell["path"], essay_file=cell["essay_file"]
    )
    file = find_data_file(spec)
    return str(cell["path"]) if file is None else str(file.resolve().parent)


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
    make_summarizer=_make_summarizer,
    has_small_cells=False,
    dump_details=True,
)


DATA_SETS = DataSets(settings=_CELL_SETTINGS, list_cells=_list_cells)
