"""Holds the bases of published suites' data sets and evaluators, and fits samples to a length."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, cast

from opencompass_llada.benchmarks.counting import CountingTokenizer, load_counting_tokenizer
from opencompass_llada.benchmarks.data_files import find_data
from opencompass_llada.benchmarks.opencompass_bases import CheckedDataset, CompleteEvaluator, mean
from opencompass_llada.benchmarks.published.suite import EMBEDDED, FITS, Suite
from opencompass_llada.benchmarks.readers import PromptParts, ReaderOptions
from opencompass_llada.options import check_at_least, reject_unknown

PROMPTS = ("base", "chat")
#: Cuts that are tried until the tokens at the seam do not push the prompt over its length.
MAX_CUTS = 16


@dataclass(frozen=True, kw_only=True)
class SuiteOptions(ReaderOptions):
    """What a data set config says; suites with keywords of their own derive from it."""

    benchmark: str
    """The suite's name."""
    task: str
    """One of the suite's tasks."""
    path: str
    """Folder of the published files, what configs call it, or ``embedded``."""
    prompt: str = "base"
    """``chat``: OpenCompass's prompt as a user's turn. ``base``: the same text, which goes on into
    the beginning of the answer, without turns."""
    length: int | None = None
    """Tokens of prompt and answer; None for samples as they are."""
    fit: str = "whole"
    """What becomes of samples that are longer: ``whole`` leaves them, ``keep`` leaves them out,
    ``middle`` takes the middle of the prompt out."""
    tokenizer: str | None = None
    """What counts tokens: ``gpt-4`` or a checkpoint's path."""
    answer_length: int = 0
    """Tokens that are kept for the answer."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        reject_unknown("prompt", [self.prompt], PROMPTS)
        reject_unknown("fit", [self.fit], FITS)
        check_at_least(self, 1, "length")
        check_at_least(self, 0, "answer_length")
        if self.fit != "whole" and (self.length is None or self.tokenizer is None):
            raise ValueError(
                f"fit={self.fit!r} with length={self.length} and tokenizer={self.tokenizer!r}: "
                "samples are fitted to a length in tokens of a tokenizer; give both (LLADA_LENGTHS "
                "and LLADA_TOKENIZER)."
            )


@dataclass(frozen=True, kw_only=True)
class SuiteSample:
    """A sample as it is published, before it is fitted and read."""

    parts: PromptParts
    """OpenCompass's prompt for chat models, in three parts."""
    gold: str
    """An answer that must get the full score, as a chat model would write it."""
    columns: Mapping[str, Any]
    """What the metric takes besides: ``answer`` at least, which OpenCompass shows."""
    begins: str = ""
    """What the prompt of a base model ends in besides: the beginning of the answer, with what
    stands before it (``"\\nAnswer:"``); no space at its end."""
    given: str = ""
    """The end of ``begins`` where it is part of the answer, so that the metric is shown it, too."""
    chance: float | None = None
    """The score of the best guess without the text, 0 to 100; None where nobody knows."""


class SuiteDataset(CheckedDataset):
    """A task of a published suite. A subclass reads samples and writes embedded ones."""

    options_class = SuiteOptions
    suite: ClassVar[Suite]

    @classmethod
    def read_samples(cls, options: Any, folder: Path) -> Iterable[SuiteSample]:
        """Read the samples of the published files in a folder; ValueErrors name file and row."""
        raise NotImplementedError

    @classmethod
    def write_embedded(cls, folder: Path) -> None:
        """Write a few samples of all tasks into a folder, in the published layout, by code."""
        raise NotImplementedError

    @classmethod
    def check_options(cls, **options: Any) -> Any:
        """Check the keywords, before any file is opened; returns an `options_class`."""
        cls.title = f"{cls.suite.title} data set"
        checked = super().check_options(**options)
        reject_unknown(f"task of {cls.suite.title}", [checked.task], cls.suite.tasks)
        return checked

    @classmethod
    def make_rows(cls, options: Any) -> Iterator[dict[str, Any]]:
        """Make the samples: prompt, gold, given, chance, and the suite's own columns."""
        with cls.open_data(options) as folder:
            samples = list(fit_samples(cls.read_samples(options, folder), options))
        if not samples:
            raise ValueError(f"{cls.suite.title} at path={options.path!r} holds no samples.")
        chat = options.prompt == "chat"
        for sample in samples:
            parts = with_beginning(sample, options.prompt)
            read = options.read(parts, load_tokenizer, options.tokenizer)
            given = "" if chat else sample.given
            bounds = {"gold": sample.gold, "given": given, "chance": sample.chance}
            yield {"prompt": read, **bounds, **sample.columns}

    @classmethod
    @contextmanager
    def open_data(cls, options: Any) -> Iterator[Path]:
        """Yield the folder of the published files, or one with embedded samples for as long."""
        if options.path == EMBEDDED:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in _embedded_files(cast(Any, cls)).items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                yield Path(folder)
        else:
            yield find_folder(cls.suite, options.path)

    @classmethod
    def source(cls, options: Mapping[str, Any]) -> tuple[str, str, str]:
        """Return what its samples are made of, whatever the length."""
        checked = cls.check_options(**options)
        return checked.benchmark, checked.task, checked.path

    @classmethod
    def check_data(cls, same: Sequence[Mapping[str, Any]]) -> None:
        """Read the first sample of the shortest length, and look for the files of the others.

        For a reader of the last window, see that each sample's question has room in it.
        """
        ordered = sorted(
            (cls.check_options(**options) for options in same), key=lambda one: one.length or 0
        )
        with cls.open_data(ordered[0]) as folder:
            next(iter(cls.read_samples(ordered[0], folder)), None)
        for options in (one for one in ordered if one.window is not None):
            cls._check_window(options)
        for options in ordered if ordered[0].path != EMBEDDED else ():
            cell = {"task": options.task, "length": options.length}
            for names in cls.suite.find_files(cell):
                find_file(cls.suite, find_folder(cls.suite, options.path), names)

    @classmethod
    def _check_window(cls, options: Any) -> None:
        """Ask each question without its context; those that surely fit are not counted."""
        with cls.open_data(options) as folder:
            for sample in cls.read_samples(options, folder):
                parts = replace(with_beginning(sample, options.prompt), context="")
                # A token has a character at least.
                if len(parts.whole) + options.window_reserve > options.window // 2:
                    options.read(parts, load_tokenizer, options.tokenizer)


@lru_cache(maxsize=16)
def _embedded_files(kind: Any) -> dict[str, bytes]:
    """Return the embedded files of a `SuiteDataset` by name; their text is made once a process.

    Of the run of all data sets it took a twelfth.
    """
    with tempfile.TemporaryDirectory() as folder:
        kind.write_embedded(Path(folder))
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def find_folder(suite: Suite, path: str) -> Path:
    """Return the folder of a suite's published files, or raise a MissingDataError."""
    return find_data(path, benchmark=suite.title, how_to_get=suite.how_to_get)


def find_file(suite: Suite, folder: Path, names: str) -> Path:
    """Return the first of the files ``a|b`` that is in a folder, or raise a MissingDataError."""
    choices = [folder / name for name in names.split("|")]
    found = next((choice for choice in choices if choice.exists()), choices[0])
    return find_data(str(found), benchmark=suite.title, how_to_get=suite.how_to_get)


def cut_prompt(prompt: str, before: str, after: str) -> PromptParts:
    """Cut a prompt in three: the context stands between two marks, which go to its neighbours.

    ``before`` is looked for from the beginning, ``after`` from the end, so that a context may hold
    either. A prompt without them is of another version of OpenCompass than this package knows.
    """
    head, found, rest = prompt.partition(before)
    context, found_too, question = rest.rpartition(after)
    if not (found and found_too):
        raise ValueError(
            f"the prompt has no context between {before!r} and {after!r}: OpenCompass's wording "
            "is not that of 0.5.4, which this package is made for; install opencompass==0.5.4."
        )
    return PromptParts(head=head + before, context=context, question=after + question)


def with_beginning(sample: SuiteSample, prompt: str) -> PromptParts:
    """Return the parts of a sample's prompt in a form of `PROMPTS`."""
    if prompt == "chat":
        return sample.parts
    return replace(sample.parts, question=sample.parts.question + sample.begins)


@lru_cache(maxsize=4)
def load_tokenizer(name: str) -> CountingTokenizer:
    """Load a tokenizer once a process."""
    return load_counting_tokenizer(name)


def fit_samples(samples: Iterable[SuiteSample], options: SuiteOptions) -> Iterator[SuiteSample]:
    """Yield samples as ``options.fit`` has them; a ValueError where none is short enough."""
    if options.fit == "whole" or options.length is None:
        yield from samples
        return
    tokenizer, as_turn = load_tokenizer(str(options.tokenizer)), options.prompt == "chat"
    limit = options.length - options.answer_length
    shortest = 0
    for sample in samples:
        parts = with_beginning(sample, options.prompt)
        total = tokenizer.count(parts.whole, as_turn=as_turn)
        shortest = min(shortest or total, total)
        if total <= limit:
            yield sample
        elif options.fit == "middle":
            cut = cut_middle(parts, tokenizer, limit, as_turn=as_turn)
            yield replace(sample, parts=replace(cut, question=sample.parts.question))
    if options.fit == "keep" and shortest > limit:
        raise ValueError(
            f"length={options.length}: no sample of {options.benchmark}'s {options.task} fits; the "
            f"shortest prompt has {shortest} tokens (tokenizer {options.tokenizer}) and the answer "
            f"is given {options.answer_length}. Ask for a length of at least "
            f"{shortest + options.answer_length}, or for fit='middle' (LLADA_FIT=middle)."
        )


def cut_middle(
    parts: PromptParts, tokenizer: CountingTokenizer, limit: int, *, as_turn: bool = False
) -> PromptParts:
    """Take tokens out of the middle of a prompt until at most ``limit`` are left.

    What stays is the first half of the limit and the last, as in LongBench's ``pred.py`` and
    InfiniteBench's ``eval_utils.py``; but only the context is cut, so that instruction and question
    stay whole where they are longer than half.
    """
    tokens = tokenizer.encode(parts.context)
    around = tokenizer.count(parts.head + parts.question, as_turn=as_turn)
    if around > limit:
        raise ValueError(
            f"the prompt without its context has {around} tokens, more than the {limit} that the "
            "length leaves beside the answer; ask for a greater length."
        )
    head = len(tokenizer.encode(parts.head))
    room = limit - around
    for _ in range(MAX_CUTS):
        # The first half of the whole prompt is the head and what is left of the half.
        left = min(max(limit // 2 - head, 0), room)
        right = room - left
        ending = tokenizer.decode(tokens[len(tokens) - right :]) if right else ""
        cut = replace(parts, context=tokenizer.decode(tokens[:left]) + ending)
        over = tokenizer.count(cut.whole, as_turn=as_turn) - limit
        if over <= 0:
            return cut
        room = max(room - over, 0)
    return replace(parts, context="")


class SuiteEvaluator(CompleteEvaluator):
    """Scores a suite's answers by its own metric, and says what its gold answers get."""

    judges_by_sample = True
    ceiling = "gold answer"

    def __init__(self, task: str = "") -> None:
        """Keep the task."""
        super().__init__()
        self.task = task

    def score_answer(self, prediction: str, sample: Mapping[str, Any]) -> float:
        """Return the score of an answer, 0 to 100, by the published metric."""
        raise NotImplementedError

    def judge(self, prediction: str, reference: Mapping[str, Any]) -> dict[str, Any]:
        """Return prediction, answer and score of a sample."""
        score = self.score_answer(reference["given"] + prediction, reference)
        return {"prediction": prediction, "answer": reference["answer"], "score": score}

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average over all answers."""
        return {"score": mean(details)}

    def chance(self, sample: Mapping[str, Any]) -> float | None:
        """Return the score of the best guess without the text, 0 to 100; None if not known."""
        chance: float | None = sample["chance"]
        return chance

    def solve(self, sample: Mapping[str, Any]) -> str | None:
        """Return the gold answer, as it goes on after what the prompt gave of it."""
        gold: str = sample["gold"]
        return gold.removeprefix(sample["given"])


@contextmanager
def standing_in(module: ModuleType, **names: Any) -> Iterator[None]:
    """Put other objects in the place of a stock module's names for a block.

    So a stock class reads from this machine what it would fetch, and counts with any tokenizer,
    while all else that it does is its own. The state of `random`, which some of them seed, is
    given back.
    """
    state, before = random.getstate(), {name: getattr(module, name) for name in names}
    try:
        for name, value in names.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
        random.setstate(state)
