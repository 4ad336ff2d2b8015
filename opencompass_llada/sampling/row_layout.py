"""Lays a batch's blocks out: where each begins in each row, and which of its places are masked.

Shape suffixes: B rows, K block length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    prompt_lengths: tuple[int, ...]
    first_starts: tuple[int, ...]
    """Where each row's first block begins."""
    blocks: tuple[int, ...]
    """Blocks of each row; the rows of a batch share the largest number, and skip the others."""
    num_masks: int
    """Tokens after each prompt that every row has."""
    prompts_B: Tensor
    """The prompts' lengths on the device, int64."""

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        plan: BlockPlan,
        causal_block: int | None,
        device: torch.device,
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
        return cls(
            plan=plan,
            prompt_lengths=tuple(lengths),
            first_starts=tuple(starts),
            blocks=tuple(blocks),
            num_masks=num_masks,
            prompts_B=torch.tensor(lengths, device=device),
        )

    @property
    def num_blocks(self) -> int:
        """Blocks of the row that has the most."""
        return max(self.blocks)

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of each row, all blocks included."""
        return [start + self.num_blocks * self.plan.block_length for start in self.first_starts]

    def starts(self, index: int) -> list[int]:
        """Return where a block begins in each row."""
        return [start + index * self.plan.block_length for start in self.first_starts]

    def starts_B(self, index: int) -> Tensor:
        """Return where a block begins in each row, on the device."""
        return self.prompts_B + torch.tensor(self.num_finished(index), device=self.prompts_B.device)

    def num_finished(self, index: int) -> list[int]:
        """Return each row's places before a block from the prompt's end on; may be below 0."""
        return [
            start - length
            for start, length in zip(self.starts(index), self.prompt_lengths, strict=True)
        ]

    def has_block(self, index: int) -> Tensor:
        """Return which rows have a block, bool [B]."""
        return torch.tensor([index < n for n in self.blocks], device=self.prompts_B.device)

    def masked(self, index: int) -> tuple[Tensor, tuple[int, ...]]:
        """Return a block's masked places, bool [B, K], and their number in each row."""
        length = self.plan.block_length
        first = [min(max(-n, 0), length) for n in self.num_finished(index)]
        first = [f if index < n else length for f, n in zip(first, self.blocks, strict=True)]
        device = self.prompts_B.device
        first_B1 = torch.tensor(first, device=device)[:, None]
        return torch.arange(length, device=device) >= first_B1, tuple(length - f for f in first)
