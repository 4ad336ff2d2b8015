"""The token rows that are being written, and which positions of a block are still masked.

Row i is ``[prompt i | masks | right padding]``: the masks start at the row's own prompt length, so
that positions and results equal those of a batch of one. Whether a position is revealed is a
boolean of its own and never read off the token: a prompt may hold the mask id, and the model may
predict it.

Shape letters: B rows, L row length, K block length, P masked positions of the active block.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A batch of prompts with room for the tokens to generate."""

    ids_BL: Tensor
    """Tokens, int64; masks after each prompt, padding (the mask id too) after the masks."""

    prompt_lengths: tuple[int, ...]
    """Tokens of each prompt."""

    lengths_B: Tensor | None
    """Real tokens of each row, int64; None if no row is padded."""

    @property
    def prompt_lengths_B(self) -> Tensor:
        """Tokens of each prompt, int64, on the device of the tokens."""
        return torch.tensor(self.prompt_lengths, dtype=torch.int64, device=self.ids_BL.device)

    @property
    def prompt_mask_BL(self) -> Tensor:
        """Bool, True at each row's prompt."""
        columns_L = torch.arange(self.ids_BL.shape[1], device=self.ids_BL.device)
        return columns_L < self.prompt_lengths_B[:, None]


def make_canvas(
    prompts: Sequence[Sequence[int]],
    *,
    num_masks: int,
    mask_token_id: int,
    device: torch.device,
) -> Canvas:
    """Lay out prompts, masks and padding.

    Prompts ``[7, 8]`` and ``[9]`` with 2 masks M give the rows ``[7, 8, M, M]`` and
    ``[9, M, M, M]`` with lengths 4 and 3: the last M is padding.

    Args:
        prompts: Token ids, one sequence a row, at least one row; they may differ in length.
        num_masks: Masks after each prompt.
        mask_token_id: Id of the mask.
        device: Where the tensors live.

    Returns:
        The canvas.
    """
    prompt_lengths = tuple(len(prompt) for prompt in prompts)
    row_length = max(prompt_lengths) + num_masks
    ids_BL = torch.full((len(prompts), row_length), mask_token_id, dtype=torch.int64)
    for ids_L, prompt in zip(ids_BL, prompts, strict=True):
        if len(prompt):  # by way of an array, which is ten times as fast as from a list
            ids_L[: len(prompt)] = torch.frombuffer(array("q", prompt), dtype=torch.int64)
    padded = len(set(prompt_lengths)) > 1
    lengths = [length + num_masks for length in prompt_lengths]
    return Canvas(
        ids_BL=ids_BL.to(device),
        prompt_lengths=prompt_lengths,
        lengths_B=torch.tensor(lengths, dtype=torch.int64, device=device) if padded else None,
    )


@dataclass(frozen=True, kw_only=True)
class BlockState:
    """What is revealed of the active block."""

    starts_B: Tensor
    """First position of the block in each row, int64."""

    masked_BK: Tensor
    """Bool, True where the block's position is not revealed yet."""

    counts: tuple[int, ...]
    """Masked positions left in each row, known without asking the device."""

    @property
    def num_positions(self) -> int:
        """Masked positions of the row that has most."""
        return max(self.counts)

    @property
    def valid_BP(self) -> Tensor:
        """Bool, False at the filler of rows that have fewer masked positions than others."""
        device, shape = self.masked_BK.device, (len(self.counts), self.num_positions)
        if min(self.counts) == self.num_positions:
            return torch.ones(shape, dtype=torch.bool, device=device)
        counts_B = torch.tensor(self.counts, device=device)
        return torch.arange(self.num_positions, device=device) < counts_B[:, None]

    def offsets_BP(self) -> Tensor:
        """Return the masked positions of each row, from the block's start, ascending, int64.

        Filler follows in rows that have fewer: positions of the block that are revealed already.
        """
        order_BK = self.masked_BK.logical_not().byte().argsort(dim=-1, stable=True)
        return order_BK[:, : self.num_positions]


def open_block(starts_B: Tensor, block_length: int) -> BlockState:
    """Return the state of a block of which nothing is revealed.

    Args:
        starts_B: First position of the block in each row, int64.
        block_length: Tokens in the block.

    Returns:
        The state.
    """
    num_rows = starts_B.shape[0]
    return BlockState(
        starts_B=starts_B,
        masked_BK=torch.ones((num_rows, block_length), dtype=torch.bool, device=starts_B.device),
        counts=(block_length,) * num_rows,
    )


def write_tokens(
    ids_BL: Tensor, positions_BP: Tensor, tokens_BP: Tensor, accepted_BP: Tensor
) -> Tensor:
    """Return the tokens with the accepted predictions in their places.

    Args:
        ids_BL: Current tokens, int64; not changed.
        positions_BP: Distinct positions in each row, int64.
        tokens_BP: Predicted tokens, int64.
        accepted_BP: Bool, True where the prediction is written.

    Returns:
        New tokens, int64 [B, L].
    """
    kept_BP = ids_BL.gather(1, positions_BP)
    return ids_BL.scatter(1, positions_BP, torch.where(accepted_BP, tokens_BP, kept_BP))
