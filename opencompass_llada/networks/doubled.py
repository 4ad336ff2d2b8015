"""Runs clean rows and noisy copies of them in one pass, as block diffusion is trained.

A clean token sees its block and the blocks before it; a noisy one the clean blocks before its own,
and its own noisy block (arXiv 2503.09573, section 3). Each document of a row counts its blocks from
its own start and sees itself alone. Shape suffixes: B rows, L positions, W = 2 L places of a clean
row and its noisy copy, Q queries, K keys, N and S tiles of queries and keys, M hidden size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from opencompass_llada.networks.attention import attend_with
from opencompass_llada.networks.transformer import Attend, BidirectionalNetwork, rotation_at

TILE = 128
"""Queries and keys of FlexAttention's tiles."""
DENSE_PLACES = 4096
"""Places from which a mask of all places by all is not made on CUDA, but FlexAttention's tiles."""


@dataclass(frozen=True)
class DoubledMask:
    """Who sees whom in rows ``[clean | noisy]``, as two stretches of keys for each place."""

    bounds_B4W: Tensor
    """int32: first and end clean key, then first and end noisy key, of each place; ends are
    exclusive. One row stands for all where all are alike."""

    def dense(self) -> Tensor:
        """Return the mask, bool [B, 1, W, W], queries by keys."""
        keys_W = torch.arange(self.bounds_B4W.shape[-1], device=self.bounds_B4W.device)
        return _sees(self.bounds_B4W[..., None], keys_W)[:, None]

    def tiles(self) -> BlockMask:
        """Return the mask in tiles for FlexAttention, made without a place-by-place mask."""
        width = self.bounds_B4W.shape[-1]
        # A part of the queries at a time: at 131,072 places all would take gigabytes.
        parts = [_seen_tiles(part, width) for part in self.bounds_B4W.split(64 * TILE, dim=-1)]
        some_BNS, full_BNS = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        return BlockMask.from_kv_blocks(
            *_ordered(some_BNS & ~full_BNS),
            *_ordered(full_BNS),
            BLOCK_SIZE=TILE,
            mask_mod=self._rule(),
            seq_lengths=(width, width),
        )

    def _rule(self) -> Callable[..., Tensor]:
        """Return FlexAttention's rule of single places, which may index tensors and no more."""
        first_BW, end_BW, own_first_BW, own_end_BW = (
            bound_BW.contiguous() for bound_BW in self.bounds_B4W.unbind(1)
        )
        if len(first_BW) > 1:

            def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                seen = (first_BW[row, query] <= key) & (key < end_BW[row, query])
                own = (own_first_BW[row, query] <= key) & (key < own_end_BW[row, query])
                return seen | own

            return sees
        first_W, end_W, own_first_W, own_end_W = (
            bound_BW[0] for bound_BW in (first_BW, end_BW, own_first_BW, own_end_BW)
        )

        def sees_in_any_row(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = (first_W[query] <= key) & (key < end_W[query])
            return seen | ((own_first_W[query] <= key) & (key < own_end_W[query]))

        return sees_in_any_row


def _sees(bounds_B4Q1: Tensor, keys_K: Tensor) -> Tensor:
    first, end, own_first, own_end = bounds_B4Q1.unbind(1)
    return ((first <= keys_K) & (keys_K < end)) | ((own_first <= keys_K) & (keys_K < own_end))


def _seen_tiles(bounds_B4Q: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return which tiles of keys a tile of queries sees any and all of, bool [B, N, S]."""
    starts_S = torch.arange(0, width, TILE, device=bounds_B4Q.device, dtype=torch.int32)
    ends_S = (starts_S + TILE).clamp(max=width)
    first_BQ1, end_BQ1, own_first_BQ1, own_end_BQ1 = bounds_B4Q[..., None].unbind(1)

    def share(first_BQ1: Tensor, end_BQ1: Tensor) -> Tensor:
        """Count a stretch's keys in each tile."""
        return (torch.minimum(end_BQ1, ends_S) - torch.maximum(first_BQ1, starts_S)).clamp(min=0)

    seen_BQS = share(first_BQ1, end_BQ1) + share(own_first_BQ1, own_end_BQ1)
    return _by_tile(seen_BQS > 0, False).any(2), _by_tile(seen_BQS == TILE, True).all(2)


def _by_tile(x_BQS: Tensor, fill: bool) -> Tensor:
    """Return x with its queries in tiles, the last of which is filled up."""
    short = -x_BQS.shape[1] % TILE
    filling = x_BQS.new_full((x_BQS.shape[0], short, x_BQS.shape[2]), fill)
    return torch.cat([x_BQS, filling], 1).unflatten(1, (-1, TILE))


def _ordered(x_BNS: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many tiles of keys each tile of queries has, and which, those first."""
    order = x_BNS.int().argsort(dim=-1, descending=True, stable=True)
    return x_BNS.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None]


def document_blocks(lengths: Sequence[int], block_length: int) -> Tensor:
    """Return each position's document's start, block's start and block's end, int32 [3, L].

    The last block of a document may be short.
    """
    sizes = torch.tensor(lengths)
    ends_L = sizes.cumsum(0).repeat_interleave(sizes)
    starts_L = ends_L - sizes.repeat_interleave(sizes)
    places_L = torch.arange(len(ends_L))
    blocks_L = places_L - (places_L - starts_L) % block_length
    return torch.stack([starts_L, blocks_L, torch.minimum(blocks_L + block_length, ends_L)]).int()


def doubled_mask(
    documents: Sequence[Sequence[int]], block_length: int, device: torch.device | str = "cpu"
) -> DoubledMask:
    """Return the mask of rows, each the lengths of its documents, whose sum is the row's."""
    rows = [document_blocks(lengths, block_length) for lengths in documents]
    starts_BL, blocks_BL, ends_BL = torch.stack(rows).to(device).unbind(1)
    none_BL, length = torch.zeros_like(starts_BL), starts_BL.shape[1]
    clean_B4L = torch.stack([starts_BL, ends_BL, none_BL, none_BL], 1)
    noisy_B4L = torch.stack([starts_BL, blocks_BL, blocks_BL + length, ends_BL + length], 1)
    return DoubledMask(torch.cat([clean_B4L, noisy_B4L], -1))


def attend_under(mask: BlockMask | Tensor) -> Attend:
    """Return attention under a mask: FlexAttention's, which is compiled, or one of all places."""
    if isinstance(mask, Tensor):
        return functools.partial(attend_with, None, mask=mask)
    flex: Callable[..., Any] = flex_attention
    if not torch.compiler.is_compiling():
        flex = _compiled_flex()

    def attend(q_BHWD: Tensor, k_BGWD: Tensor, v_BGWD: Tensor) -> Tensor:
        k_BGWD, v_BGWD = (x.to(q_BHWD.dtype) for x in (k_BGWD, v_BGWD))
        grouped = q_BHWD.shape[1] != k_BGWD.shape[1]
        return flex(q_BHWD, k_BGWD, v_BGWD, block_mask=mask, enable_gqa=grouped)

    return attend


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)


def noisy_states(
    model: BidirectionalNetwork, clean_BL: Tensor, noisy_BL: Tensor, block_length: int
) -> Tensor:
    """Return the states, [B, L, M], of noisy rows whose blocks see the clean ones before them."""
    length, device = clean_BL.shape[1], clean_BL.device
    mask = doubled_mask([(length,)], block_length, device)
    in_tiles = device.type == "cuda" and 2 * length >= DENSE_PLACES
    attend = attend_under(mask.tiles() if in_tiles else mask.dense())
    positions_1W = torch.arange(length, device=device).repeat(2)[None]
    rotation = rotation_at(model.prepare(length, device), positions_1W)
    x_BWM = model.get_input_embeddings()(torch.cat([clean_BL, noisy_BL], 1))
    return model.run_blocks(x_BWM, rotation, attend)[:, length:]
