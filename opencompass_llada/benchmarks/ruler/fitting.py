"""How much context goes into a sample: the search for the number of items, and each sample's fit.

Knows writers and a token counter; no wording. The order of random draws is OpenCompass's, so that
a writer whose draws are OpenCompass's makes its samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

#: Draws that are tried with the fewest items before a length is called too small.
MAX_REDRAWS = 20


@dataclass(frozen=True, kw_only=True)
class RulerSample:
    """One prompt with its answers."""

    prompt: str
    """The prompt, ending in the answer prefix."""
    answers: tuple[str, ...]
    """What the answer must contain: all (``match='all'``) or one of them (``'part'``)."""
    num_tokens: int = 0
    """Tokens of the prompt."""


class NoRoom(ValueError):
    """Not even a sample with the fewest items fits."""

    def __init__(self, needed: int) -> None:
        """Keep the tokens that the sample's prompt has."""
        super().__init__(f"the smallest prompt has {needed} tokens")
        self.needed = needed


class Writer(Protocol):
    """Draws and writes samples of any number of items (sentences, words, documents)."""

    step: int
    """Items that the search adds at a time."""
    fewest: int
    """Items below which no sample can be written."""
    patience: int
    """Draws of one size that are tried before the size is lowered."""

    @property
    def most(self) -> int | None:
        """Items at hand; None for any number."""

    @property
    def last_tried(self) -> int | None:
        """The number of items after which the search takes `most`; None if it never does."""

    def draw(self, index: int, num_items: int) -> Any:
        """Take sample ``index``'s random draws; cheap, writes nothing."""

    def write(self, drawn: Any) -> RulerSample:
        """Write the sample of a draw."""

    def with_answer(self, sample: RulerSample) -> str:
        """Return the text whose tokens the search counts: the prompt with its answer."""


def fit_samples(
    writer: Writer, count: Callable[[str], int], num_items: int, *, limit: int, num_samples: int
) -> Iterator[RulerSample]:
    """Yield samples whose prompts have at most ``limit`` tokens.

    Args:
        writer: What makes them.
        count: Counts a text's tokens.
        num_items: From `find_num_items`; a sample that is too long of so many gets fewer.
        limit: Tokens of the longest prompt.
        num_samples: How many.

    Raises:
        NoRoom: If a sample does not fit with the fewest items.
    """
    for index in range(num_samples):
        yield _fit(writer, count, index, num_items, limit)


def find_num_items(writer: Writer, count: Callable[[str], int], limit: int) -> int:
    """Return the number of items of which a sample with its answer just fits.

    OpenCompass writes and tokenizes samples of 1, 2, 3, ... steps and takes the last before the
    first that is too long. Sizes that cannot be near the limit are only drawn here, not written:
    from a size with t tokens the next looked at is limit / t times as large, less four standard
    deviations of the length (items that vary by half of their mean). The last sizes are all tried.

    Args:
        writer: What makes samples.
        count: Counts a text's tokens.
        limit: Tokens of the longest prompt with its answer.

    Raises:
        NoRoom: If the fewest items are too many.
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


def _fit(
    writer: Writer, count: Callable[[str], int], index: int, num_items: int, limit: int
) -> RulerSample:
    """Write one sample, with fewer items where its draw is too long."""
    items, tries = num_items, 0
    fewest_tokens: int | None = None
    while True:
        sample = writer.write(writer.draw(index, items))
        total = count(sample.prompt)
        if total <= limit:
            return RulerSample(prompt=sample.prompt, answers=sample.answers, num_tokens=total)
        fewest_tokens = total if fewest_tokens is None else min(fewest_tokens, total)
        tries += 1
        if items > writer.fewest:
            if tries >= writer.patience:
                items, tries = max(items - writer.step, writer.fewest), 0
        elif tries >= MAX_REDRAWS:
            raise NoRoom(fewest_tokens)
