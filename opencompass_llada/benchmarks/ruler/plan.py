"""Plans RULER runs: its 13 tasks at any length, for base models and for chat models.

The prompt of a base model ends in the answer prefix ("... mentioned in the provided text is"):
OpenCompass's own configs add an answer turn, which puts a line break after it for a model without
a chat template. The chat form keeps that turn, as it is there. `abbr`,
``ruler_TASK_lengthN_by-TOKENIZER`` with ``_chat`` for the chat form, only names files.
"""

from __future__ import annotations

import os
from typing import Any

from opencompass_llada.benchmarks import cells
from opencompass_llada.benchmarks.benchmark import list_groups
from opencompass_llada.benchmarks.cells import Config
from opencompass_llada.benchmarks.counting import name_tokenizer
from opencompass_llada.benchmarks.ruler.facts import QA_TASKS
from opencompass_llada.benchmarks.ruler.prompts import TASKS, RulerSpec
from opencompass_llada.benchmarks.ruler.samples import find_data_file
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs import planning
from opencompass_llada.runs.model_table import LONGLLADA_GENERATION, TINY_GENERATION
from opencompass_llada.runs.settings import Settings, number, text, texts, token_lengths

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


def _list_by_name(values: Settings) -> list[Config]:
    facts = planning.default_by_name(values)
    # As in OpenCompass's own configs.
    values.default("tokenizer", os.environ.get("TOKENIZER_MODEL") or None)
    _fill_defaults(values, facts.trained_length)
    return _list_cells(values)


def _list_cells(values: Settings) -> list[Config]:
    """List data sets, length by length; embedded ones, where no lengths are asked for, as they fit.

    Embedded ones have just the room that the answer takes. Where no answer's length is asked for
    there, RULER's own is taken where it is shorter: vt's 30.
    """
    data = values["data"] if values["data"] in SOURCES else "ruler"
    embedded = data == "embedded"
    at_hand = [name for name in TASKS if not embedded or name not in QA_TASKS]
    tasks = values["tasks"] or at_hand
    reject_unknown(f"task of RULER's {data} data", tasks, at_hand)
    source = {**SOURCES[data], **({} if values["data"] in SOURCES else {"path": values["data"]})}
    return [
        {**_make_cell(values, task, length, embedded), **source}
        for length in values["lengths"] or EMBEDDED_LENGTHS
        for task in tasks
        if values["lengths"] or length >= EMBEDDED_SHORTEST.get(task, 0)
    ]


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
        "reader_cfg": cells.read_with("answer"),
        "infer_cfg": cells.generate_with(
            {"type": cells.PROMPT_TEMPLATE, "template": {"round": turns}}, room
        ),
        "eval_cfg": cells.score_with("ruler.dataset.RulerEvaluator", match=TASKS[task].match),
    }
    if embedded:
        cell["tokens_to_generate"] = room
    if chat:
        cell["chat"] = True
    if values["fwe"] == "published" and not embedded:
        cell["fwe_room"] = False
    return cell


def _takes_embedded_answer(values: Settings) -> bool:
    """Return whether embedded data is run with answers as long as by default."""
    default = EMBEDDED_ANSWER["max_out_len"]
    return values["data"] == "embedded" and values["generation_length"] == default


def _fill_defaults(values: Settings, trained_length: int) -> None:
    """Take both papers' settings, or on embedded data those of the tiny models."""
    values.default("data", "ruler")
    if values["data"] == "embedded":
        values.default("samples", EMBEDDED_SAMPLES, "default on embedded data")
        reason = "default on embedded data; less where RULER keeps less"
        values.default("generation_length", EMBEDDED_ANSWER["max_out_len"], reason)
        lengths = ",".join(map(str, EMBEDDED_LENGTHS))
        tasks = " and ".join(f"{task} from {n}" for task, n in EMBEDDED_SHORTEST.items())
        values.default("lengths", None, f"default: {lengths}; {tasks}, where they fit")
    else:
        values.default("lengths", list(LONGLLADA_LENGTHS), "default: LongLLaDA's")
        if trained_length >= LONGLLADA_LENGTHS[0]:
            values.default("tokenizer", "gpt-4", "default: as RULER counts in OpenCompass")
    reason = "default: embedded data or a trained length below RULER's shortest"
    values.default("tokenizer", "model", reason)
    values.defaults(
        "default: both papers'", samples=PAPER_SAMPLES, generation_length=PAPER_GENERATION
    )
    values.default("fwe", "fits")


def _fill_run(values: Settings, trained_length: int) -> None:
    _fill_defaults(values, trained_length)
    if _takes_embedded_answer(values):
        block, steps = EMBEDDED_ANSWER["block_length"], EMBEDDED_ANSWER["num_steps"]
        values.default("block_length", block, "default on embedded data")
        reason = "default on embedded data, for speed; block-causal models take one a token"
        values.default("steps", steps, reason)
    length = values["generation_length"]
    values.default("block_length", length, "default: one block, as in both papers")
    values.default("steps", length, "default: one a token, as in both papers")


def _model_options(values: Settings) -> dict[str, Any]:
    return {
        "benchmark": "ruler",
        "chat": values["prompt"] == "chat",
        "max_out_len": values["generation_length"],
        "block_length": values["block_length"],
        "num_steps": values["steps"],
        "keep_steps": "steps" in values.given,
    }


def _find_path(cell: Config) -> str:
    """Return the folder of a data set's file, or its path as it is if it needs none."""
    names = ("task", "length", "path", "essay_file")
    file = find_data_file(RulerSpec(**{name: cell[name] for name in names}))
    return str(cell["path"]) if file is None else str(file.resolve().parent)


_CELL_SETTINGS = {
    "tasks": texts("names, separated by commas; default all that the data has"),
    "lengths": token_lengths("tokens of prompt and answer, separated by commas"),
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
PLAN = planning.Plan(
    headline="RULER: {models} models, {results} results (model x task x length)",
    settings={
        **_CELL_SETTINGS,
        "block_length": number("tokens in a block of the sampler; default one block"),
        "steps": number(
            "denoising steps; default one a token, as in the papers, or the tiny models' on "
            "embedded data, where block-causal models take one a token"
        ),
    },
    demo={"models": ["tiny_llada"], "scaling": ["none", "ntk"], "data": "embedded"},
    fill_defaults=_fill_run,
    make_groups=planning.pair_by_settings(_list_cells, model_options=_model_options),
    robustness=("generation_lengths", "seeds", "decodings"),
    find_path=_find_path,
    make_summarizer=lambda _, run: planning.summarize_with(
        "GroupSummarizer", groups=list_groups("ruler"), models=run.described_models
    ),
)
DATA_SETS = planning.DataSets(settings=_CELL_SETTINGS, list_cells=_list_by_name)
