"""Makes OpenCompass data sets of NeedleBench v2 with its own classes, on local files.

The stock classes (OpenCompass 0.5.4, datasets/needlebench_v2) write all texts and draw all needles.
In their place stand only the tokenizer, so that any counts, and the hub, of which one of them
fetches even files that it does not read.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from opencompass.datasets.needlebench_v2 import atc, multi, origin, parallel

from opencompass_llada.benchmarks.needlebench_v2 import embedded, facts
from opencompass_llada.benchmarks.needlebench_v2.facts import SUITE, TRACE, split_task
from opencompass_llada.benchmarks.published.dataset import (
    SuiteDataset,
    SuiteOptions,
    SuiteSample,
    cut_prompt,
    find_file,
    load_tokenizer,
    standing_in,
)
from opencompass_llada.options import check_at_least

_MARKS = {"en": ("<Document>\n", "\n</Document>"), "zh": ("<文档>\n", "\n</文档>")}
#: The base-model forms of a boxed answer: the sentence's beginning, and what of it is the answer.
_BOXES = {"en": "The answer is \\boxed{", "zh": "答案是\\boxed{"}
_BOX = "\\boxed{"
#: Tokens by which a prompt may be longer than its length before the context is cut further.
MOST_FITS = 8
#: Seeds the order of needles that the stock class of retrieval leaves to the process.
NEEDLE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class NeedleBenchV2Options(SuiteOptions):
    """What a data set config says."""

    tokenizer: str | None = "gpt-4"
    depths: Sequence[int] = facts.DEPTHS
    """Percent; of a chain of reasoning, that of its first needle."""
    repeats: int | None = None
    """Samples a depth; of retrieval, samples. None for the published number."""
    length_buffer: int | str | None = None
    """Tokens of the length that are kept for wording and answer; None for the published number, by
    language; ``fit`` for what they take, so that prompt and answer have at most the length."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_at_least(self, 1, "repeats")
        if self.length is None:
            raise ValueError("NeedleBench v2 makes texts of a length; give length=, e.g. 4000.")
        if not (self.depths and all(0 <= depth <= 100 for depth in self.depths)):
            raise ValueError(f"depths={list(self.depths)} must be percentages from 0 to 100.")
        if isinstance(self.length_buffer, str) and self.length_buffer != "fit":
            raise ValueError(
                f"length_buffer={self.length_buffer!r} must be a number of tokens, 'fit' or None."
            )


class NeedleBenchV2SuiteDataset(SuiteDataset):
    """A task at a length, with all its depths."""

    options_class = NeedleBenchV2Options
    suite = SUITE

    @classmethod
    def read_samples(cls, options: NeedleBenchV2Options, folder: Path) -> Iterator[SuiteSample]:
        """Let the stock class of the task write its samples."""
        for name in SUITE.find_files({"task": options.task}):
            find_file(SUITE, folder, name)
        kind, language = split_task(options.task)
        own = options.length_buffer
        if own == "fit":
            yield from _fit_buffer(options, folder)
            return
        buffer = facts.LANGUAGES[language][2] if own is None else int(own)
        for part, prompt, answer in _load(options, folder, kind, language, buffer):
            yield _make_sample(kind, language, part, prompt, answer)

    @classmethod
    def write_embedded(cls, folder: Path) -> None:
        """Write a generated haystack, needles and names."""
        embedded.write(folder)


def _fit_buffer(options: NeedleBenchV2Options, folder: Path) -> Iterator[SuiteSample]:
    """Yield samples whose prompts and answers have at most the length, by trying buffers."""
    from opencompass_llada.benchmarks.published.dataset import with_beginning

    count = load_tokenizer(str(options.tokenizer)).count
    length, buffer = options.length or 0, options.answer_length
    for _ in range(MOST_FITS):
        fixed = replace(options, length_buffer=buffer)
        samples = list(NeedleBenchV2SuiteDataset.read_samples(fixed, folder))
        parts = [with_beginning(sample, options.prompt) for sample in samples]
        turns = options.prompt == "chat"
        over = max(count(part.whole, as_turn=turns) for part in parts) - length
        over += options.answer_length
        if over <= 0:
            yield from samples
            return
        buffer += over
    raise ValueError(
        f"length={options.length} is too small for NeedleBench v2's {options.task} with "
        f"{len(options.depths)} depths and an answer of {options.answer_length} tokens; its "
        f"wording takes {buffer} tokens. Ask for a greater length, or fewer depths."
    )


def _load(
    options: NeedleBenchV2Options, folder: Path, kind: str, language: str, buffer: int
) -> Iterator[tuple[str, str, str]]:
    """Yield part, prompt and answer of the stock class's samples, depth by depth."""
    stock_language, haystack, _ = facts.LANGUAGES[language]
    common: dict[str, Any] = {
        "path": str(folder.resolve()),
        "length": options.length,
        "tokenizer_model": "gpt-4",  # what stands in for tiktoken knows one tokenizer alone
        "file_list": [haystack],
        "num_repeats_per_file": options.repeats or facts.REPEATS[kind],
        "length_buffer": buffer,
        "language": stock_language,
        "needle_file_name": facts.NAME_FILE if kind == "reasoning" else facts.NEEDLE_FILE,
    }
    counting = _stand_in(load_tokenizer(str(options.tokenizer)))
    if kind == "retrieval":
        with standing_in(parallel, tiktoken=counting):
            random.seed(NEEDLE_SEED)
            rows = parallel.NeedleBenchParallelDataset.load(**common, depths=list(options.depths))
        yield from (("all", row["prompt"], row["answer"]) for row in rows)
        return
    for depth in options.depths:
        if kind == "single":
            with standing_in(origin, tiktoken=counting):
                rows = origin.NeedleBenchOriginDataset.load(**common, depth=depth)
            yield from ((f"depth{depth}", row["prompt"], row["answer"]) for row in rows)
            continue
        hub = {"hf_hub_download": lambda filename, **_: str(folder.resolve() / filename)}
        for needles in facts.CHAIN_NEEDLES:
            with standing_in(multi, tiktoken=counting, **hub):
                rows = multi.NeedleBenchMultiDataset.load(
                    **common, depth=depth, num_needles=needles, diff=facts.CHAIN_GAP
                )
            yield from ((f"{needles}needle", row["prompt"], row["answer"]) for row in rows)


def _stand_in(tokenizer: Any) -> SimpleNamespace:
    """Return what a stock class takes for tiktoken; it encodes each text once."""
    encode = lru_cache(maxsize=100_000)(tokenizer.encode)
    encoding = SimpleNamespace(encode=lambda text: list(encode(text)), decode=tokenizer.decode)
    return SimpleNamespace(encoding_for_model=lambda name: encoding)


def _make_sample(kind: str, language: str, part: str, prompt: str, answer: str) -> SuiteSample:
    """Return a sample; a base-model prompt ends in the sentence that the question asks for."""
    parts = cut_prompt(prompt, *_MARKS[language])
    columns = {"answer": answer, "part": part}
    if kind == "reasoning":
        return SuiteSample(
            parts=parts, begins=_BOXES[language], given=_BOX, gold=f"{_BOX}{answer}}}",
            columns=columns,
        )  # fmt: skip
    if kind == "single":
        gold = answer.rpartition("*")[2]
    else:
        gold = "、".join(answer.partition("#")[0].split("*"))
    # The first blank of the format that the question asks for.
    blank = re.search(r"'([^'_]*)_+", parts.question)
    begins = blank.group(1).rstrip() if blank else ""
    return SuiteSample(parts=parts, begins=begins, gold=gold, columns=columns)


@dataclass(frozen=True, kw_only=True)
class TraceOptions(SuiteOptions):
    """What a data set config says."""

    repeats: int = facts.TRACE_REPEATS
    """Samples of each of the four kinds of question."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_at_least(self, 1, "repeats")


class TraceSuiteDataset(SuiteDataset):
    """The Ancestral Trace Challenge with a number of needles, in English as OpenCompass runs it."""

    options_class = TraceOptions
    suite = TRACE

    @classmethod
    def read_samples(cls, options: TraceOptions, folder: Path) -> Iterator[SuiteSample]:
        """Let the stock class write its samples of four kinds of question."""
        find_file(TRACE, folder, facts.NAME_FILE)
        with standing_in(atc):
            rows = atc.NeedleBenchATCDataset.load(
                str(folder.resolve()),
                file_name=facts.NAME_FILE,
                num_needles=int(options.task.removesuffix("needle")),
                language="English",
                repeats=options.repeats,
            )
        for row in rows:
            yield SuiteSample(
                parts=cut_prompt(row["prompt"], "are provided below:\n", "\n\nGiven the scrambled"),
                begins=_BOXES["en"],
                given=_BOX,
                gold=f"{_BOX}{row['answer']}}}",
                columns={"answer": row["answer"], "kind": row["question_type"].lower()},
            )

    @classmethod
    def write_embedded(cls, folder: Path) -> None:
        """Write the generated names."""
        embedded.write(folder)
