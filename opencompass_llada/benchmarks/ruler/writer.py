"""Writes RULER samples of a number of items, and finds the number that fills a length.

The order of random draws is OpenCompass's, so that a writer whose draws are its makes its samples.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from opencompass_llada.benchmarks.ruler.prompts import RulerSpec

#: Draws that are tried with the fewest items before a length is called too small.
MAX_REDRAWS = 20


@dataclass(frozen=True, kw_only=True)
class RulerSample:
    """One prompt with its answers."""

    prompt: str
    answers: tuple[str, ...]
    """What the answer must contain: all (``match='all'``) or one of them (``'part'``)."""
    num_tokens: int = 0
    """Of the prompt."""


class NoRoom(ValueError):
    """Not even a sample with the fewest items fits."""

    def __init__(self, needed: int) -> None:
        """Keep the tokens that the sample's prompt has."""
        super().__init__(f"the smallest prompt has {needed} tokens")
        self.needed = needed


class Writer:
    """Draws and writes samples of any number of items: sentences, words, documents."""

    step = 1
    """Items that the search adds at a time."""
    fewest = 1
    """Items below which no sample can be written."""
    patience = 1
    """Draws of one size that are tried before the size is lowered."""
    most: int | None = None
    """Items at hand; None for any number."""
    last_tried: int | None = None
    """The number of items after which the search takes `most`; None if it never does."""

    def __init__(self, spec: RulerSpec) -> None:
        """Start the stream of random numbers."""
        self.seed = spec.seed
        self.rng = random.Random(spec.seed)

    def draw(self, index: int, num_items: int) -> Any:
        """Take sample ``index``'s random draws in OpenCompass's order; cheap, writes nothing."""
        raise NotImplementedError

    def write(self, drawn: Any) -> RulerSample:
        """Write the sample of a draw."""
        raise NotImplementedError

    def with_answer(self, sample: RulerSample) -> str:
        """Return the text whose tokens the search counts, as OpenCompass: prompt and answers."""
        return f"{sample.prompt} {list(sample.answers)}"


def fit_samples(
    writer: Writer, count: Callable[[str], int], num_items: int, *, limit: int, num_samples: int
) -> Iterator[RulerSample]:
    """Yield samples of `find_num_items`'s number, or fewer where a draw's prompt is too long."""
    for index in range(num_samples):
        items, tries, totals = num_items, 0, []
        while True:
            sample = writer.write(writer.draw(index, items))
            totals.append(count(sample.prompt))
            if totals[-1] <= limit:
                break
            tries += 1
            if items > writer.fewest:
                if tries >= writer.patience:
                    items, tries = max(items - writer.step, writer.fewest), 0
            elif tries >= MAX_REDRAWS:
                raise NoRoom(min(totals))
        yield replace(sample, num_tokens=totals[-1])


def find_num_items(writer: Writer, count: Callable[[str], int], limit: int) -> int:
    """Return the number of items of which a sample with its answer just fits ``limit`` tokens.

    OpenCompass writes and tokenizes samples of 1, 2, 3, ... steps and takes the last before the
    first that is too long. Sizes that cannot be near the limit are only drawn here, not written:
    from a size with t tokens the next looked at is limit / t times as large, less four standard
    deviations of the length (items that vary by half of their mean). The last sizes are all tried.
    """
    items = max(writer.step, writer.fewest)
    first = items
    skip_until = items
    while True:
        drawn = writer.draw(0, items)
        if items >= skip_until:
            total = count(writer.with_answer(writer.write(drawn)))
            if total > limit:
                if items == first:
                    raise NoRoom(total)
                return items - writer.step
            if total == limit:  # OpenCompass's loop ends here too, one step further.
                items += writer.step
                return items if writer.most is None else min(items, writer.most)
            margin = min(1.0, 2 / math.sqrt(items))
            skip_until = int(items * limit / total * (1 - margin))
        if writer.last_tried is not None and writer.most is not None:
            if items >= writer.last_tried:
                return writer.most
            skip_until = min(skip_until, writer.last_tried)
        items += writer.step
