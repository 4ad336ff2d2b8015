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
    masked.
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
        grows: bool = False,
    ) -> RowLayout:
        """Lay out prompts; ``causal_block`` is a block-causal network's block length."""
        lengths, blocks = [len(prompt) for prompt in prompts], [plan.num_blocks] * len(prompts)
        starts, num_masks = lengths, plan.padded_length
        if causal_block is not None:
            starts = [length - length % causal_block for length in lengths]
            num_masks = plan.generation_length
            blocks = [
                count_blocks(length - start + num_masks, causal_block)
                for length, start in zip(lengths, starts, strict=True)
            ]
            most = max(blocks)
            plan = replace(
                plan,
                generation_length=most * causal_block,
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
            grows=grows,
        )

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of each row, the blocks that it skips included."""
        return self.starts(self.plan.num_blocks)

    def lengths_at(self, index: int) -> list[int]:
        """Return the tokens of each row that the passes of a block run over."""
        return self.starts(index + 1) if self.grows else self.row_lengths

    def starts(self, index: int) -> list[int]:
        """Return where a block begins in each row."""
        return [start + index * self.plan.block_length for start in self.first_starts]

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
        length = self.plan.block_length
        places_BK = self.starts_B(index)[:, None] + torch.arange(
            length, device=self.prompts_B.device
        )
        masked_BK = (places_BK >= self.prompts_B[:, None]) & self.has_block_B(index)[:, None]
        counts = (
            min(length, length + finished) if index < blocks else 0
            for finished, blocks in zip(self.num_finished(index), self.blocks, strict=True)
        )
        return masked_BK, tuple(counts)
