"""States what a generated suite is: how it writes, solves and scores a question.

A suite is one frozen dataclass that does what `GeneratedTask` asks, held as ``TASK`` by the
``task.py`` of its folder. `samples` fits its questions to a length, `dataset` hands them to
OpenCompass, and `plan` lists the cells. Knows no tokenizer and reads no file.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Protocol, cast, runtime_checkable

from opencompass_llada.benchmarks.benchmark import NO_FILES, Benchmark, Group
from opencompass_llada.options import check_fields, reject_unknown

LEVELS = (1, 2, 3, 4, 5)
LANGUAGES = ("en", "zh")
#: One word in so many is never trained on.
HELD_OUT_SHARE = 4
_FOLDER = "opencompass_llada.benchmarks"


@dataclass(frozen=True, kw_only=True)
class Question:
    """The text of one sample. A prompt is head, context and question, with nothing between."""

    head: str
    """What is to be done, before the context."""
    context: str
    """What grows with the length, and alone holds the facts."""
    question: str
    """What is asked, after the context. It ends in the beginning of the answer, which a base model
    goes on from: no space and no line break at the end."""
    answers: tuple[str, ...]
    """The references as the task's score takes them."""
    chance: float
    """Expected score, 0 to 100, of the best guess that reads head and question alone."""

    @property
    def prompt(self) -> str:
        """The whole text."""
        return f"{self.head}{self.context}{self.question}"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Which words a text may hold."""

    language: str = "en"
    """``en`` or ``zh``."""
    for_training: bool = False
    """Whether one word in four is left out, so that evaluation asks for words never trained on."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self)
        reject_unknown("language of generated texts", [self.language], LANGUAGES)

    def allowed(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the words that a text may hold, in their order: for evaluation all of them."""
        words = tuple(words)
        return _trained_words(words) if self.for_training else words


@lru_cache(maxsize=256)
def _trained_words(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for word in words if zlib.crc32(word.encode()) % HELD_OUT_SHARE)


class GeneratedTask(Protocol):
    """What a suite is: one frozen dataclass instance, without state."""

    @property
    def name(self) -> str:
        """Name of its folder and of its benchmark."""

    @property
    def levels(self) -> Mapping[int, str]:
        """Each of `LEVELS` in one phrase; a tiny model at 512 tokens can do the first."""

    def generation_length(self, level: int) -> int:
        """Return tokens that any answer fits in, by the tokenizer that takes the most."""

    def smallest(self, level: int) -> int:
        """Return the smallest size that `write` takes."""

    def write(self, rng: random.Random, level: int, size: int, vocabulary: Vocabulary) -> Question:
        """Write a question.

        Args:
            rng: Of this sample alone. The same state gives a valid question for any size.
            level: One of `LEVELS`.
            size: Filler items, from `smallest` on. The text's length is about linear in it.
            vocabulary: Language and words.
        """

    def solve(self, prompt: str) -> str:
        """Return the right answer, having read nothing but the prompt; its score is 100.

        It is what a model is to write after the prompt, in the form that models are trained on: in
        English with a space in front, without a full stop. Where the text lacks what is needed, as
        for a reader of its end alone, it is the best that can be said of it, or ''.
        """

    def guess(self, rng: random.Random, level: int, question: str, vocabulary: Vocabulary) -> str:
        """Return the best answer of one who sees the question, never the context.

        Its mean score over many questions is the mean of their `Question.chance`.
        """

    def score(self, prediction: str, answers: tuple[str, ...]) -> float:
        """Return an answer's score, 0 to 100; an empty or malformed one has 0 and no error."""


@runtime_checkable
class AsksMore(Protocol):
    """A suite whose texts answer many questions of the first level, which training rows ask."""

    def more_questions(self, rng: random.Random, question: Question, count: int) -> list[str]:
        """Return up to so many other questions on a text, as `Question.question` has them.

        The answer of each is what `GeneratedTask.solve` says after head, context and it.
        """


def find_task(name: str) -> GeneratedTask:
    """Return the suite of a folder of benchmarks, by its name."""
    return cast(GeneratedTask, importlib.import_module(f"{_FOLDER}.{name}.task").TASK)


@lru_cache(maxsize=1)
def list_suites() -> tuple[str, ...]:
    """List the suites of this package: folders of benchmarks with ``facts.py`` and ``task.py``."""
    folders = pkgutil.iter_modules(importlib.import_module(_FOLDER).__path__)
    names = sorted(folder.name for folder in folders if folder.ispkg)
    files = ("facts", "task")
    return tuple(n for n in names if all(find_spec(f"{_FOLDER}.{n}.{file}") for file in files))


def name_cell(suite: str, level: int) -> str:
    """Return what tables call a suite's level: the ``task`` of its data sets."""
    return f"{suite}_level{level}"


def state_benchmark(name: str, *, title: str, source: str) -> Benchmark:
    """Return what the rest of the package knows of a suite, for its ``facts.py``."""
    levels = tuple(name_cell(name, level) for level in LEVELS)
    return Benchmark(
        name=name,
        title=title,
        dataset_classes=(),
        metrics=("score", "exact"),
        has_more_metrics=False,
        is_percent=True,
        groups=(Group(name="levels 1-5", members=levels),),
        headline="levels 1-5",
        is_grid=False,
        source=source,
        data=NO_FILES,
        plan=f"{_FOLDER}.{name}.plan",
    )
