"""Draws what chance decides of a sample: its needle, its texts and where they begin, its wording.

There are two protocols. ``published`` is NeedleBench's: sample i of every cell has the same needle
and texts, so that many cells tell no more of other needles than one does. ``independent``: each
sample draws its own, from a seed and its place alone (language, length, depths, number), so that it
is the same for every model, however many samples and whatever other cells are asked.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from opencompass_llada.benchmarks.needle.prompts import NUM_WORDINGS

PROTOCOLS = ("published", "independent")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What was drawn for one sample."""

    place: str | None
    """What the cell's independent draws follow from; None for the published ones."""
    number: int
    """The sample's, in its cell."""
    rng: random.Random
    """Draws the rest of the sample."""
    order: Sequence[int]
    """Of the haystack's documents."""
    start: float | None = None
    """Share of the first document that the context begins behind; None for its beginning."""
    wording: int = 0
    """A number below `prompts.NUM_WORDINGS`; 0 is NeedleBench's wording."""

    def pick(self, pool: Sequence[T]) -> T:
        """Pick one of a pool; an independent cell picks none twice before it had all."""
        if self.place is None:
            return self.rng.choice(pool)
        order = random.Random(self.place).sample(range(len(pool)), len(pool))
        return pool[order[self.number % len(pool)]]


def draw_samples(place: str | None, numbers: Iterable[int], num_documents: int) -> Iterator[Draw]:
    """Yield the draw of each sample of a cell, of which a haystack's samples have these numbers."""
    order = list(range(num_documents))
    for repeat, number in enumerate(numbers):
        if place is None:
            # On from the last repeat's order, as NeedleBench does.
            random.Random(repeat).shuffle(order)
            yield Draw(place=None, number=number, rng=random.Random(repeat), order=[*order])
        else:
            rng = random.Random(f"{place} sample {number}")
            yield Draw(
                place=place,
                number=number,
                order=rng.sample(order, num_documents),
                start=rng.random(),
                wording=rng.randrange(NUM_WORDINGS),
                rng=rng,
            )
