"""Lays a batch's blocks out: where each begins in each row, and which of its places are masked.

Shape suffixes: B rows, K block length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opencompass_llada.sampling.schedule import BlockPlan, count_blocks


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """The rows of one batch.

    A fully bidirectional network's blocks count from each prompt's end. A block-causal network's
    count from the row's start, so that the prompt may end inside one; as in the published samplers
    its places before the prompt's end stay, and a last block is denoised whole, though its end may
    be cut. Blocks of 4, a prompt of 6 and 4 new tokens: blocks begin at 4 and 8, and 6 to 11 are
    masked. The plan's blocks may be parts of the network's, which a pass runs whole.
    """

    plan: BlockPlan
    """With as many blocks as the row with the most has; the others skip their further ones."""
    prompt_lengths: tuple[int, ...]
    first_starts: tuple[int, ...]
    """Where each row's first block begins."""
    blocks: tuple[int, ...]
    """Blocks of each row."""
    num_masks: int
    """Tokens after each prompt that every row has."""
    prompts_B: Tensor
    """The prompts' lengths on the device, int64."""
    first_starts_B: Tensor
    """``first_starts`` on the device, int64."""
    blocks_B: Tensor
    """``blocks`` on the device, int64."""
    pass_length: int
    """Tokens of the block that a pass runs: the network's, or the plan's if it has none."""
    gives_first: bool
    """Whether the network's block gives the first token of the next one, as in a block-causal
    network whose predictions are made a position before their tokens."""
    grows: bool = False
    """Whether a row ends with the active block, and further masks are appended once it is done."""

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        plan: BlockPlan,
        causal_block: int | None,
        device: torch.device,
        *,
        logit_shift: int = 0,
        grows: bool = False,
    ) -> RowLayout:
        """Lay out prompts; ``causal_block`` is a block-causal network's block length."""
        lengths, blocks = [len(prompt) for prompt in prompts], [plan.num_blocks] * len(prompts)
        starts, num_masks = lengths, plan.padded_length
        if causal_block is not None:
            starts = [length - length % causal_block for length in lengths]
            num_masks = plan.generation_length
            blocks = [
                count_blocks(length - start + num_masks, plan.block_length)
                for length, start in zip(lengths, starts, strict=True)
            ]
            most = max(blocks)
            plan = replace(
                plan,
                generation_length=most * plan.block_length,
                num_steps=most * plan.steps_per_block,
            )
        on_device = (torch.tensor(numbers, device=device) for numbers in (lengths, starts, blocks))
        prompts_B, first_starts_B, blocks_B = on_device
        return cls(
            plan=plan,
            prompt_lengths=tuple(lengths),
            first_starts=tuple(starts),
            blocks=tuple(blocks),
            num_masks=num_masks,
            prompts_B=prompts_B,
            first_starts_B=first_starts_B,
            blocks_B=blocks_B,
            pass_length=causal_block or plan.block_length,
            gives_first=causal_block is not None and logit_shift > 0,
            grows=grows,
        )

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of each row, the blocks that it skips included, to the end of the last pass."""
        length = count_blocks(self.plan.padded_length, self.pass_length) * self.pass_length
        return [start + length for start in self.first_starts]

    def lengths_at(self, index: int) -> list[int]:
        """Return the tokens of each row that the passes of a block run over."""
        return self.starts(index + 1) if self.grows else self.row_lengths

    def starts(self, index: int) -> list[int]:
        """Return where a block begins in each row."""
        return [start + index * self.plan.block_length for start in self.first_starts]

    def pass_starts(self, index: int) -> list[int]:
        """Return where the pass over a block begins in each row."""
        return self.starts(index - index % (self.pass_length // self.plan.block_length))

    def opens_pass(self, index: int) -> bool:
        """Tell whether a block is the first that its pass runs."""
        return self.starts(index) == self.pass_starts(index)

    def has_given_first(self, index: int) -> list[bool]:
        """Return in which rows the network's block before a block gives its first token."""
        if not (self.gives_first and self.opens_pass(index)):
            return [False] * len(self.first_starts)
        finished = self.num_finished(index)
        return [s > 0 and n >= 0 for s, n in zip(self.starts(index), finished, strict=True)]

    def starts_B(self, index: int) -> Tensor:
        """Return where a block begins in each row, on the device."""
        return self.first_starts_B + index * self.plan.block_length

    def num_finished(self, index: int) -> list[int]:
        """Return how far behind its prompt's end a block begins in each row; it may be below 0."""
        return [
            start - length
            for start, length in zip(self.starts(index), self.prompt_lengths, strict=True)
        ]

    def has_block_B(self, index: int) -> Tensor:
        """Return which rows have a block, bool."""
        return index < self.blocks_B

    def masked(self, index: int) -> tuple[Tensor, tuple[int, ...]]:
        """Return a block's masked places, bool [B, K], and their number in each row."""
        length, given = self.plan.block_length, self.has_given_first(index)
        places_BK = self.starts_B(index)[:, None] + torch.arange(
            length, device=self.prompts_B.device
        )
        masked_BK = (places_BK >= self.prompts_B[:, None]) & self.has_block_B(index)[:, None]
        if any(given):
            masked_BK[:, 0] &= ~torch.tensor(given, device=masked_BK.device)
        counts = (
            min(length, max(length + finished, 0)) - first if index < blocks else 0
            for finished, blocks, first in zip(
                self.num_finished(index), self.blocks, given, strict=True
            )
        )
        return masked_BK, tuple(counts)
