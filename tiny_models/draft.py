"""Puts the parts of a retrieval row together to an exact length.

Knows token lists; no wording and no draws of needles.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from opencompass_llada.finetune.packing import Row

EOS_WEIGHT = 0.1  # of each end-of-sequence token after the first, which is easy to predict
MIN_CONTEXT = 24
_MOST_PADDING = 24


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A row before it is made to fit its length: its parts as token lists.

    Attributes:
        head: What stands before the context.
        facts: What is hidden in the context, in the order of the text.
        queries: Pairs of question and answer, which follow the context.
        context: The text that facts are hidden in, cut where it is too long; None for a window of
            the training text.
        is_whole: There is no context to fill up: other text goes in front.
    """

    head: Sequence[int] = ()
    facts: Sequence[Sequence[int]] = ()
    queries: Sequence[tuple[Sequence[int], Sequence[int]]] = ()
    context: np.ndarray | None = None
    is_whole: bool = False

    @property
    def fixed_length(self) -> int:
        """Tokens that are neither context nor padding."""
        queries = sum(len(question) + len(answer) for question, answer in self.queries)
        return len(self.head) + sum(map(len, self.facts)) + queries

    def fits(self, length: int) -> bool:
        """Tell whether a row of that length can hold the parts."""
        return length - self.fixed_length >= (1 if self.is_whole else MIN_CONTEXT)


def assemble(
    draft: Draft,
    length: int,
    rng: random.Random,
    draw_text: Callable[[int], np.ndarray],
    eos_token_id: int,
) -> Row:
    """Make a row of exactly ``length`` tokens; only answers and what follows them have a weight.

    The draft must fit. ``eos_token_id`` ends an answer, fills the rest, and parts other text from
    the draft; ``draw_text`` returns that many tokens of training text.
    """
    room = length - draft.fixed_length
    padding = rng.randint(1, _MOST_PADDING) if room > 2 * _MOST_PADDING else 1
    room -= padding
    num_context = 0 if draft.is_whole else room
    if draft.context is not None:
        num_context = min(num_context, len(draft.context))
    elif num_context > 2 * MIN_CONTEXT and rng.random() < 0.25:
        num_context = rng.randint(MIN_CONTEXT, room - 1)
    before = draw_text(room - num_context).tolist()
    if before:
        before[-1] = eos_token_id
    context = draw_text(num_context) if draft.context is None else draft.context[:num_context]
    ids = before + list(draft.head) + _insert(context.tolist(), draft.facts, rng)
    weights = [0.0] * len(ids)
    for question, answer in draft.queries:
        ids += [*question, *answer]
        weights += [0.0] * len(question) + [1.0] * len(answer)
    ids += [eos_token_id] * padding
    weights += [1.0] + [EOS_WEIGHT] * (padding - 1)
    assert len(ids) == length, (len(ids), length)
    return Row(input_ids=np.array(ids, np.int64), weights=np.array(weights, np.float32))


def _insert(context: list[int], facts: Sequence[Sequence[int]], rng: random.Random) -> list[int]:
    """Insert facts in their order at random places."""
    places = sorted(rng.randint(0, len(context)) for _ in facts)
    out: list[int] = []
    previous = 0
    for place, fact in zip(places, facts, strict=True):
        out += context[previous:place]
        out += fact
        previous = place
    return out + context[previous:]
