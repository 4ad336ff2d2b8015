"""Makes samples of a generated suite that fit a length, once a machine (`sample_cache`).

Runs without OpenCompass.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from opencompass_llada import synthetic
from opencompass_llada.benchmarks.counting import CountingTokenizer
from opencompass_llada.benchmarks.generated.task import (
    LEVELS,
    GeneratedTask,
    Question,
    Vocabulary,
    find_task,
)
from opencompass_llada.benchmarks.readers import ReaderOptions
from opencompass_llada.benchmarks.sample_cache import cached_samples
from opencompass_llada.options import check_at_least

CACHE = "generated"
#: Modules of a suite that its texts do not depend on.
_OF_RUNS = ("plan", "dataset", "facts")
#: A prompt may lack so much of its length; nearer costs more prompts written and counted.
_SPARE_SHARE = 0.01
_MOST_TRIED = 12


@dataclass(frozen=True, kw_only=True)
class SuiteSpec(ReaderOptions):
    """What a data set config says, checked: one suite at one level and length."""

    benchmark: str
    """The suite, by the name of its folder."""
    level: int
    """1 to 5, from easy to hard."""
    length: int
    """Tokens of prompt and answer together."""
    tokenizer: str
    """What counts them: ``'gpt-4'`` or a checkpoint's path."""
    num_samples: int = 100
    """Samples; a smaller number gives the first of a larger one."""
    seed: int = 1
    """Of all draws."""
    language: str = "en"
    """``en`` or ``zh``."""
    generation_length: int | None = None
    """Room kept for the answer, in tokens; None for the suite's own."""
    chat: bool = False
    """Whether the tokens of the tokenizer's chat template count as part of the prompt."""
    path: str = "generated"
    """Nothing is read from it: texts are made."""
    task: str = ""
    """What tables call it."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        check_at_least(self, 1, "length", "num_samples", "generation_length")
        check_at_least(self, 0, "seed")
        if self.level not in LEVELS:
            raise ValueError(f"level={self.level} must be one of {LEVELS}.")
        Vocabulary(language=self.language)

    @property
    def suite(self) -> GeneratedTask:
        """The suite itself."""
        return find_task(self.benchmark)

    @property
    def reserve(self) -> int:
        """Tokens kept for the answer."""
        return self.generation_length or self.suite.generation_length(self.level)


def build_samples(spec: SuiteSpec, tokenizer: CountingTokenizer) -> list[Question]:
    """Return a data set's samples as the reader ``full`` is shown them, from disk where they are.

    A ValueError for a length that is too small names one that fits.
    """
    return cached_samples(
        CACHE,
        f"{spec.benchmark}_level{spec.level}_{spec.length}",
        describe_dependencies(spec, tokenizer),
        spec.num_samples,
        Question,
        lambda: list(_make_samples(spec, tokenizer)),
    )


def describe_dependencies(spec: SuiteSpec, tokenizer: CountingTokenizer) -> dict[str, Any]:
    """Return everything that a data set's samples depend on; no paths, which may differ."""
    names = ("benchmark", "level", "length", "num_samples", "seed", "language", "reserve")
    return {
        **{name: getattr(spec, name) for name in names},
        "tokenizer": tokenizer.identity(),
        "template": tokenizer.template() if spec.chat else None,
        "code": _code_digest(spec.benchmark),
    }


@lru_cache(maxsize=64)
def _code_digest(suite: str) -> str:
    """Return a digest of the code and words of a suite, of this folder and of the grammar."""
    own = Path(str(sys.modules[find_task(suite).__class__.__module__].__file__)).parent
    files = [
        path
        for folder in (Path(__file__).parent, own, Path(synthetic.__path__[0]))
        for path in sorted(folder.iterdir())
        if path.suffix in (".py", ".json", ".txt") and path.stem not in _OF_RUNS
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _make_samples(spec: SuiteSpec, tokenizer: CountingTokenizer) -> Iterator[Question]:
    """Make the samples, each of as many items as fit."""
    fit = Fit(spec, partial(tokenizer.count, as_turn=spec.chat))
    for number in range(spec.num_samples):
        yield fit.make(number)


class Fit:
    """Finds how many filler items fill a length, and learns their tokens from sample to sample.

    An item's tokens differ, and the same draws with another size give another text: a size is
    estimated, and the text it gives is counted.
    """

    def __init__(self, spec: SuiteSpec, count: Callable[[str], int]) -> None:
        """Write two small prompts to learn what an item takes."""
        self._spec, self._count, self._suite = spec, count, spec.suite
        self._vocabulary = Vocabulary(language=spec.language)
        self._limit = spec.length - spec.reserve
        self._fewest = self._suite.smallest(spec.level)
        sizes = (self._fewest, 4 * self._fewest + 16)
        tokens = [count(self.write(0, size).prompt) for size in sizes]
        self._item = max(1.0, (tokens[1] - tokens[0]) / (sizes[1] - sizes[0]))
        self._base = tokens[0] - self._item * sizes[0]

    def write(self, number: int, size: int) -> Question:
        """Write a sample with so many items, from draws of its own."""
        spec = self._spec
        draws = f"{spec.seed} {spec.benchmark} {spec.level} {spec.length} {spec.language} {number}"
        return self._suite.write(random.Random(draws), spec.level, size, self._vocabulary)

    def make(self, number: int) -> Question:
        """Return a sample of nearly as many items as fit; a ValueError where the fewest do not."""
        best, best_tokens, lowest, too_many = None, 0, self._fewest, None
        size = max(lowest, int((self._limit - self._base) / self._item))
        for _ in range(_MOST_TRIED):
            question = self.write(number, size)
            tokens = self._count(question.prompt)
            room = self._limit - tokens
            if room >= 0 and tokens > best_tokens:
                best, best_tokens, lowest = question, tokens, size
            if room < 0:
                too_many = size if too_many is None else min(size, too_many)
            self._learn(size, tokens)
            spare = max(2 * self._item, _SPARE_SHARE * self._limit)
            if 0 <= room <= spare or (room < 0 and size == self._fewest):
                break
            # Of what is over a little more is taken than it needs, so that the next try fits.
            step = int(room / self._item) if room > 0 else int(room / self._item * 1.05) - 1
            size = max(size + step, self._fewest)
            if too_many is not None and size >= too_many:
                size = too_many - 1
            if best is not None and size <= lowest:
                break
        if best is None:
            raise ValueError(self._say_length(number))
        return best

    def _learn(self, size: int, tokens: int) -> None:
        """Take what an item has in a long text, of which short ones know little."""
        if size > 8 * self._fewest:
            self._item = (tokens - self._base) / size

    def _say_length(self, number: int) -> str:
        spec, length = self._spec, self._spec.length
        needed = self.count_smallest(number)
        for _ in range(_MOST_TRIED):  # other lengths have other draws
            other = Fit(replace(spec, length=length), self._count)
            most = max(map(other.count_smallest, range(spec.num_samples))) + spec.reserve
            if most <= length:
                break
            length = most
        return (
            f"length={spec.length} is too small for level {spec.level} of {spec.benchmark}: the "
            f"smallest prompt of sample {number} has {needed} tokens (tokenizer {spec.tokenizer}) "
            f"and the answer is given {spec.reserve}; use a length of {length} or more, or a "
            "lower level."
        )

    def count_smallest(self, number: int) -> int:
        """Return the tokens of a sample with the fewest items."""
        return self._count(self.write(number, self._fewest).prompt)
