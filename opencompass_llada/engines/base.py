"""What every engine offers: prompt ids in, generated ids or likelihoods out, batches, and counts.

Knows token ids only. How a family generates is in the file of its own kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from opencompass_llada.likelihood import Estimate, LikelihoodOptions
from opencompass_llada.sampling import IsComplete


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one prompt gave."""

    token_ids: list[int]
    """Generated ids. A diffusion model gives as many as were asked for and nothing is cut; an
    autoregressive model stops after its first end token."""

    num_forward_passes: int
    """Forward passes that this row went through until its answer was complete (NFE), whatever
    batch it was in. An autoregressive model's first pass reads the prompt, each further one a
    token."""

    seconds: float
    """Wall time of the batch divided by its rows."""


class Totals:
    """Counts of everything that an engine generated."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.num_prompts = 0
        self.num_generated_tokens = 0
        self.num_forward_passes = 0
        self.num_batch_passes = 0
        self.seconds = 0.0

    def add(self, generations: Sequence[Generation], num_batch_passes: int) -> None:
        """Count a batch.

        Args:
            generations: What its prompts gave.
            num_batch_passes: Passes of the batch as a whole.
        """
        self.num_prompts += len(generations)
        self.num_generated_tokens += sum(len(g.token_ids) for g in generations)
        self.num_forward_passes += sum(g.num_forward_passes for g in generations)
        self.num_batch_passes += num_batch_passes
        self.seconds += sum(g.seconds for g in generations)

    def describe(self) -> str:
        """Return one line."""
        rate = self.num_generated_tokens / self.seconds if self.seconds else 0.0
        return (
            f"{self.num_prompts} prompts, {self.num_generated_tokens} generated tokens, "
            f"{self.num_forward_passes} forward passes of prompts in {self.num_batch_passes} of "
            f"batches, {self.seconds:.1f} s "
            f"({rate:.1f} generated tokens/s)"
        )


class Engine(Protocol):
    """A loaded model with its settings."""

    model: Any
    """The network."""

    totals: Totals
    """Counts of everything generated so far."""

    generates_by: str
    """``masked_diffusion`` or ``autoregressive``; recorded with every run."""

    @property
    def longest_context(self) -> int | None:
        """Tokens up to which the model's RoPE was computed; None if nobody knows."""
        ...

    @property
    def is_scaled(self) -> bool:
        """Whether that is by a RoPE scaling, and not the length that the model was trained on."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        is_complete: IsComplete | None = None,
    ) -> list[Generation]:
        """Generate after each prompt of one batch.

        Args:
            prompts: Token ids; lengths may differ.
            max_new_tokens: Tokens to generate, at least 1.
            is_complete: Whether an answer is complete, given its first ids; an engine may stop
                early then, and must not let it change an answer before its end.

        Returns:
            One generation a prompt, in order; each equals that of the prompt alone.
        """
        ...

    def score(
        self,
        prefix: Sequence[int],
        target: Sequence[int],
        options: LikelihoodOptions,
        draw_key: Sequence[int] | None = None,
    ) -> Estimate:
        """Return the negative log-likelihood of a target given a clean prefix, or its bound.

        Args:
            prefix: Ids before the target; may be empty.
            target: Ids to score, at least one.
            options: How; an autoregressive model needs none of them.
            draw_key: What drawn masks depend on in the target's place; see `estimate_bound`.
        """
        ...

    def score_next(self, prefix: Sequence[int], candidates: Sequence[int]) -> list[Estimate]:
        """Return the exact negative log-likelihood of each of several single tokens.

        Args:
            prefix: Ids before them; an autoregressive model needs at least one.
            candidates: Token ids, each an alternative to the others.

        Returns:
            One estimate a token; one forward pass in all.
        """
        ...


def length_buckets(
    lengths: Sequence[int], batch_size: int, *, spread: float = 2.0
) -> list[list[int]]:
    """Sort prompts into batches of like lengths.

    Rows of a batch share their small passes, whose time goes by the longest row, and stay together
    until all are done; full passes cost each row its own tokens whatever the batch. Lengths
    5, 90, 6, 80 in batches of 3 give ``[[0, 2], [3, 1]]``.

    Args:
        lengths: Tokens of each prompt.
        batch_size: Most prompts of a batch, at least 1.
        spread: Longest over shortest length of a batch, at most; empty prompts count as 1.

    Returns:
        Places of the prompts, shortest first; equal lengths stay in their order.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        length = max(lengths[place], 1)
        last = batches[-1] if batches else None
        if last and len(last) < batch_size and length <= spread * max(lengths[last[0]], 1):
            last.append(place)
        else:
            batches.append([place])
    return batches
