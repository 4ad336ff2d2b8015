"""Draws rows from several sources, of each a share that its weight says.

Each source is packed by itself and goes through its own epochs; a row holds one source alone. Which
row of which source comes when depends on the weights and the row's number alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction

from opencompass_llada.finetune.packing import PackingStrategy, Row


class Shares:
    """Deals numbers 0, 1, 2 ... out to sources in proportion to their weights, evenly spread.

    Weights 1 and 3: source 1, 0, 1, 1, 1, 0, 1, 1 ...
    """

    def __init__(self, weights: Sequence[float]) -> None:
        """Take positive weights, exactly as they are written: 0.1 is a tenth."""
        fractions = [Fraction(repr(weight)) for weight in weights]
        scale = math.lcm(*(fraction.denominator for fraction in fractions))
        self._weights = [int(fraction * scale) for fraction in fractions]

    def counts(self, number: int) -> list[int]:
        """Return how many of the first ``number`` numbers each source gets.

        Off the exact share by at most half the number of sources, of two or more.
        """
        counts, rest, total = [], number, sum(self._weights)
        for weight in self._weights:
            # The nearest whole number; with one number more, one source gets one more.
            counts.append((2 * rest * weight + total) // (2 * total))
            rest, total = rest - counts[-1], total - weight
            if total == 0:
                break
        return counts

    def place(self, number: int) -> tuple[int, int]:
        """Return the source that gets a number, and how many it got before."""
        before, after = self.counts(number), self.counts(number + 1)
        source = next(
            i for i, pair in enumerate(zip(before, after, strict=True)) if len({*pair}) > 1
        )
        return source, before[source]

    def share(self, source: int) -> float:
        """Return a source's part of all numbers."""
        return self._weights[source] / sum(self._weights)


class Mixture:
    """Rows of several packed sources, each of which repeats when all of its rows were used."""

    def __init__(self, parts: Sequence[PackingStrategy], weights: Sequence[float]) -> None:
        """Mix strategies that packed one source each, for the same row length."""
        self._parts, self._shares = parts, Shares(weights)

    @property
    def pad_token_id(self) -> int:
        """What fills rows up."""
        return self._parts[0].pad_token_id

    @property
    def samples_per_row(self) -> float:
        """The mean number of pieces in a row, over all rows that are drawn."""
        parts = enumerate(self._parts)
        return sum(self._shares.share(source) * part.samples_per_row for source, part in parts)

    def row(self, number: int, rng: random.Random) -> Row:
        """Return the row of that number, a function of it alone but for what ``rng`` draws."""
        source, index = self._shares.place(number)
        return self._parts[source].row(index, rng)

    def epochs(self, num_rows: int) -> list[float]:
        """Return how often each source was gone through when so many rows were made."""
        counts = self._shares.counts(num_rows)
        return [part.epochs(count)[0] for part, count in zip(self._parts, counts, strict=True)]

    def describe(self) -> str:
        """Return a line a source on its share and its packing."""
        return "\n".join(
            f"Text source {number}, {100 * self._shares.share(number - 1):.1f} % of the text rows. "
            f"{part.describe()}"
            for number, part in enumerate(self._parts, start=1)
        )
