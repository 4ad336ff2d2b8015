"""Lists the data sets of several needles: retrieval, one a length, and reasoning, one a cell.

Retrieval hides a needle at every depth of the grid and asks for all of them. The prompt of a base
model ends in the beginning of the answer; there is no answer turn after it. `abbr` only names
files: what reads results takes benchmark, task and length from the config.
"""

from __future__ import annotations

from collections.abc import Sequence

from opencompass_llada.benchmarks.cells import (
    LITERAL_TEMPLATE,
    Config,
    generate_with,
    read_with,
    score_with,
)
from opencompass_llada.benchmarks.counting import name_tokenizer
from opencompass_llada.benchmarks.needle.plan import DATA_PATHS, DEPTHS_BY_TEN, LONGLLADA_LENGTHS
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs.planning import DataSets
from opencompass_llada.runs.settings import Settings, number, numbers, text

#: For each data, each language that it has. NeedleBench's own Chinese sets read zh_finance.jsonl
#: and the like; zh_all.jsonl holds the same kinds of text.
HAYSTACKS: dict[str, dict[str, Config]] = {
    "needlebench": {
        "en": {"language": "English", "file_list": ["PaulGrahamEssays.jsonl"]},
        "zh": {"language": "Chinese", "file_list": ["zh_all.jsonl"]},
    },
    "embedded": {"en": {"language": "English", "file_list": ["synthetic_en.jsonl"]}},
}


def multi_retrieval_cells(
    data: str = "needlebench",
    language: str = "en",
    lengths: Sequence[int] = LONGLLADA_LENGTHS,
    depths: Sequence[int] = DEPTHS_BY_TEN,
    tokenizer: str = "gpt-4",
    num_repeats: int = 10,
    generation_length: int = 256,
    length_buffer: int | str = "fit",
    chat: bool = False,
    path: str | None = None,
) -> list[Config]:
    """List the data set configs of multi-needle retrieval, one a length.

    Args:
        data: ``needlebench`` or ``embedded``.
        language: ``en``, or ``zh`` for NeedleBench.
        lengths: Tokens of the whole task.
        depths: Places of the needles, percent of the context; one needle each.
        tokenizer: What counts: ``gpt-4`` or a checkpoint's path (folder, hub name, asset:NAME).
        num_repeats: Samples a cell.
        generation_length: Tokens that the model generates.
        length_buffer: Tokens kept for all but context and needles (NeedleBench's own sets keep
            1,000 in English and 200 in Chinese), or ``fit`` for prompts of exactly the length.
        chat: Ask for sentences to be filled in, instead of ending in the first one's beginning.
        path: Folder of the data, where it is not in its usual place.
    """
    common = _common_options(
        data, language, tokenizer, num_repeats, generation_length, length_buffer, chat, path
    )
    return [
        {
            "abbr": _name("multi_retrieval", data, language, length, tokenizer, chat),
            "type": f"{_SAMPLES}.MultiNeedleRetrievalDataset",
            "task": f"multi_retrieval_{language}",
            "length": length,
            "depths": list(depths),
            "needle_file_name": "needles.jsonl",
            "eval_cfg": score_with("multi_needle.scoring.MultiNeedleRetrievalEvaluator"),
            **common,
        }
        for length in lengths
    ]


def multi_reasoning_cells(
    language: str = "en",
    lengths: Sequence[int] = LONGLLADA_LENGTHS,
    depths: Sequence[int] = DEPTHS_BY_TEN,
    num_needles: int = 2,
    gap: int = 10,
    tokenizer: str = "gpt-4",
    num_repeats: int = 10,
    generation_length: int = 64,
    length_buffer: int | str = "fit",
    chat: bool = False,
    path: str | None = None,
) -> list[Config]:
    """List the data set configs of multi-needle reasoning, one a length and depth.

    Args:
        language: ``en`` or ``zh``.
        lengths: Tokens of the whole task.
        depths: Places of the first needle, percent of the context.
        num_needles: Steps of the derivation; NeedleBench asks for 2 to 5.
        gap: Percent of the context between two needles.
        tokenizer: What counts; see `multi_retrieval_cells`.
        num_repeats: Samples a cell.
        generation_length: Tokens that the model generates.
        length_buffer: See `multi_retrieval_cells`.
        chat: NeedleBench's question, instead of ending in the beginning of an answer.
        path: Folder of the data, where it is not in its usual place.
    """
    task, data = f"multi_reasoning{num_needles}", "needlebench"
    common = _common_options(
        data, language, tokenizer, num_repeats, generation_length, length_buffer, chat, path
    )
    return [
        {
            "abbr": f"{_name(task, data, language, length, tokenizer, chat)}_depth{depth:03d}",
            "type": f"{_SAMPLES}.MultiNeedleReasoningDataset",
            "task": f"{task}_{language}_depth{depth:03d}",
            "length": length,
            "depth": depth,
            "num_needles": num_needles,
            "diff": gap,
            "needle_file_name": f"multi_needle_reasoning_{language}.json",
            "eval_cfg": score_with("multi_needle.scoring.MultiNeedleReasoningEvaluator"),
            **common,
        }
        for depth in depths
        for length in lengths
    ]


_SAMPLES = "opencompass_llada.benchmarks.multi_needle.samples"


def _name(task: str, data: str, language: str, length: int, tokenizer: str, chat: bool) -> str:
    name = f"{task}_{data}_{language}_length{length}_by-{name_tokenizer(tokenizer)}"
    return name + ("_chat" if chat else "")


def _common_options(
    data: str,
    language: str,
    tokenizer: str,
    num_repeats: int,
    generation_length: int,
    length_buffer: int | str,
    chat: bool,
    path: str | None,
) -> Config:
    """Return what both kinds of data set share."""
    reject_unknown("data", [data], HAYSTACKS)
    reject_unknown(f"language of {data} data", [language], HAYSTACKS[data])
    return {
        "benchmark": "needlebench_multi",
        "path": path or DATA_PATHS[data],
        "tokenizer": tokenizer,
        "num_repeats_per_file": num_repeats,
        "length_buffer": length_buffer,
        "generation_reserve": generation_length if length_buffer == "fit" else 0,
        "guide": chat,
        "reader_cfg": read_with("answer"),
        # No BOT turn: it would put a line break after the answer prefix.
        "infer_cfg": generate_with({"type": LITERAL_TEMPLATE}, generation_length),
        **HAYSTACKS[data][language],
    }


def _list_cells(values: Settings) -> list[Config]:
    """List the data sets of one task; embedded ones at tiny-llada's lengths."""
    values.default("task", "retrieval")
    values.default("data", "needlebench")
    options = {
        "language": values["language"] or "en",
        "tokenizer": values["tokenizer"],
        "lengths": values["lengths"],
        "depths": values["depths"],
        "num_repeats": values["repeats"],
        "generation_length": values["generation_length"],
        "path": None if values["data"] in DATA_PATHS else values["data"],
    }
    if values["data"] == "embedded":  # from once to four times its trained length of 512 tokens
        small = {"lengths": (512, 1024, 2048), "depths": (10, 50, 90), "num_repeats": 4,
                 "tokenizer": "asset:tiny-llada", "generation_length": 64}  # fmt: skip
        options = {name: value or small.get(name) for name, value in options.items()}
    given = {name: value for name, value in options.items() if value is not None}
    chat = values["prompt"] == "chat"
    if values["task"] == "reasoning":
        return multi_reasoning_cells(chat=chat, **given)
    data = values["data"] if values["data"] in DATA_PATHS else "needlebench"
    return multi_retrieval_cells(data=data, chat=chat, **given)


DATA_SETS = DataSets(
    settings={
        "task": text("retrieval (all needles) or reasoning (what follows from them)",
                     "retrieval", "reasoning"),
        "lengths": numbers("tokens, separated by commas; default LongLLaDA's"),
        "depths": numbers("percent, separated by commas", lowest=0),
        "repeats": number("samples a cell"),
        "data": text("embedded (retrieval alone), needlebench, or the folder of its files"),
        "language": text("en or zh", "en", "zh"),
        "tokenizer": text("what counts lengths: gpt-4, or a checkpoint's path"),
        "prompt": text("base (ends in the answer's beginning) or chat", "base", "chat"),
        "generation_length": number("tokens generated for a sample"),
    },
    list_cells=_list_cells,
)  # fmt: skip
