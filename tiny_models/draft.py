"""Puts the parts of a retrieval row, token lists, together to an exact length."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from opencompass_llada.finetune.packing import Row

EOS_WEIGHT = 0.1  # of each end-of-sequence token after the first, which is easy to predict
MIN_CONTEXT = 24
_MOST_PADDING = 24

Query = tuple[Sequence[int], Sequence[int]]  # question and answer
DrawText = Callable[[int], np.ndarray]  # returns that many tokens of training text


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A row before it is made to fit its length."""

    head: Sequence[int] = ()
    """What stands before the context."""
    facts: Sequence[Sequence[int]] = ()
    """What is hidden in the context, in the order of the text."""
    queries: Sequence[Query] = ()
    context: np.ndarray | None = None
    """The text that facts are hidden in, cut where it is too long; None for training text."""
    is_whole: bool = False
    """There is no context to fill up: other text goes in front."""

    @property
    def fixed_length(self) -> int:
        """Tokens that are neither context nor padding."""
        queries = sum(len(question) + len(answer) for question, answer in self.queries)
        return len(self.head) + sum(map(len, self.facts)) + queries

    def fits(self, length: int) -> bool:
        """Tell whether a row of that length can hold the parts."""
        return length - self.fixed_length >= (1 if self.is_whole else MIN_CONTEXT)

    def make_row(
        self, length: int, rng: random.Random, draw_text: DrawText, eos_token_id: int
    ) -> Row:
        """Make a row of exactly ``length`` tokens, which the draft must fit.

        Only answers and what follows them have a weight.
        """
        room = length - self.fixed_length
        padding = rng.randint(1, _MOST_PADDING) if room > 2 * _MOST_PADDING else 1
        room -= padding
        num_context = 0 if self.is_whole else room
        if self.context is not None:
            num_context = min(num_context, len(self.context))
        elif num_context > 2 * MIN_CONTEXT and rng.random() < 0.25:
            num_context = rng.randint(MIN_CONTEXT, room - 1)
        before = draw_text(room - num_context).tolist()
        if before:
            before[-1] = eos_token_id
        context = draw_text(num_context) if self.context is None else self.context[:num_context]
        filled = context.tolist()
        places = sorted(rng.randint(0, len(filled)) for _ in self.facts)
        for place, fact in zip(reversed(places), reversed(self.facts), strict=True):
            filled[place:place] = fact
        ids = [*before, *self.head, *filled]
        weights = [0.0] * len(ids)
        for question, answer in self.queries:
            ids += [*question, *answer]
            weights += [0.0] * len(question) + [1.0] * len(answer)
        ids += [eos_token_id] * padding
        weights += [1.0] + [EOS_WEIGHT] * (padding - 1)
        assert len(ids) == length, (len(ids), length)
        return Row(input_ids=np.array(ids, np.int64), weights=np.array(weights, np.float32))
