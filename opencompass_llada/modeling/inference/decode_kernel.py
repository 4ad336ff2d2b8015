"""Triton attention of a few queries over long kept keys and values, split along the keys.

The keys are read once, in their own dtype: float8 is widened in registers, to float16, for which
there is one instruction, and its scales enter the scores and the weights, so that nothing is
dequantised in memory. Row lengths and offsets are
read from the device, so that one captured graph serves every prompt length. Flash-decoding
(Dao et al., 2023) is the idea; nothing is shared with its code.

Shape suffixes: B rows, P queries a row, H query heads, G key heads, S slots, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = math.log2(math.e)


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How the work is cut; found by measurement (``benchmarks/inference.py``)."""

    keys: int
    """Keys in a tile."""

    stages: int
    """Tiles in flight."""

    warps: int = 4
    """Warps of a program."""

    programs: int = 512
    """Programs to aim for over all splits."""


TILINGS = {
    "16 bit": Tiling(keys=64, stages=4),
    "float8": Tiling(keys=128, stages=2),
}
"""The fastest of the sweep on an H100 at 32K keys and 32 queries."""


@triton.jit
def _split_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    k_scales_ptr,
    v_scales_ptr,
    offsets_ptr,
    lengths_ptr,
    partial_ptr,
    stats_ptr,
    scale,
    num_queries,
    num_query_tiles,
    num_heads,
    num_groups,
    q_stride,
    SPLITS: tl.constexpr,
    QUANTISED: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    split = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.program_id(2) // num_query_tiles
    tile = tl.program_id(2) % num_query_tiles
    group = head // (num_heads // num_groups)
    length = tl.load(lengths_ptr + row)
    offset = tl.load(offsets_ptr + row).to(tl.int64)
    share = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK_L) * BLOCK_L
    start = split * share
    end = tl.minimum(start + share, length)
    dims = tl.arange(0, SIZE)
    queries = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    valid = queries < num_queries
    token = row * num_queries + queries
    q = tl.load(
        q_ptr + token[:, None] * q_stride + head * SIZE + dims[None, :],
        mask=valid[:, None],
        other=0.0,
    )
    if QUANTISED:
        q = q.to(tl.float16)
    best = tl.full([BLOCK_P], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_P], tl.float32)
    out = tl.zeros([BLOCK_P, SIZE], tl.float32)
    for first in range(start, end, BLOCK_L):
        keys = first + tl.arange(0, BLOCK_L)
        inside = keys < end
        slots = offset + keys
        places = (slots * num_groups + group)[:, None] * SIZE + dims[None, :]
        k = tl.load(k_ptr + places, mask=inside[:, None], other=0.0).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if QUANTISED:
            k_scales = tl.load(k_scales_ptr + slots * num_groups + group, mask=inside, other=0.0)
            scores = scores * k_scales[None, :]
        scores = tl.where(inside[None, :], scores, float("-inf"))
        better = tl.maximum(best, tl.max(scores, axis=1))
        shrink = tl.exp2(best - better)
        weights = tl.exp2(scores - better[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        if QUANTISED:
            v_scales = tl.load(v_scales_ptr + slots * num_groups + group, mask=inside, other=0.0)
            # The tile's largest scale waits until after the product, or float16 would underflow.
            largest = tl.max(v_scales, axis=0)
            weights = weights * (v_scales / largest)[None, :]
        v = tl.load(v_ptr + places, mask=inside[:, None], other=0.0).to(q.dtype)
        out = out * shrink[:, None]
        if QUANTISED:
            out += tl.dot(weights.to(q.dtype), v) * largest
        else:
            out += tl.dot(weights.to(q.dtype), v, input_precision="ieee")
        best = better
    place = (token * num_heads + head) * SPLITS + split
    tl.store(
        partial_ptr + place[:, None] * SIZE + dims[None, :],
        out,
        mask=valid[:, None],
    )
    tl.store(stats_ptr + place * 2, best, mask=valid)
    tl.store(stats_ptr + place * 2 + 1, total, mask=valid)


@triton.jit
def _combine_kernel(
    partial_ptr,
    stats_ptr,
    out_ptr,
    SPLITS: tl.constexpr,
    SIZE: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    splits = place * SPLITS + tl.arange(0, SPLITS)
    dims = tl.arange(0, SIZE)
    best = tl.load(stats_ptr + splits * 2)
    total = tl.load(stats_ptr + splits * 2 + 1)
    weights = tl.exp2(best - tl.max(best, axis=0))
    partial = tl.load(partial_ptr + splits[:, None] * SIZE + dims[None, :])
    out = tl.sum(partial * weights[:, None], axis=0) / tl.sum(total * weights, axis=0)
    tl.store(out_ptr + place * SIZE + dims, out.to(out_ptr.dtype.element_ty))


def attend_kept(
    q_THD: Tensor,
    k_SGD: Tensor,
    v_SGD: Tensor,
    offsets_B: Tensor,
    lengths_B: Tensor,
    *,
    k_scales_SG: Tensor | None = None,
    v_scales_SG: Tensor | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """Attend from every row's queries to all of the row's kept keys.

    Args:
        q_THD: Queries, rows one after the other, as many in each; tokens may be strided.
        k_SGD: Kept keys, contiguous, of the queries' dtype or float8.
        v_SGD: Kept values.
        offsets_B: int32, first slot of each row.
        lengths_B: int32, kept keys of each row, at least 1.
        k_scales_SG: float32, with float8 keys.
        v_scales_SG: float32, with float8 values.
        tiling: How the work is cut.

    Returns:
        [T, H, D] in the queries' dtype.
    """
    quantised = k_scales_SG is not None
    tiling = tiling or TILINGS["float8" if quantised else "16 bit"]
    num_tokens, num_heads, size = q_THD.shape
    num_rows, num_groups = offsets_B.shape[0], k_SGD.shape[1]
    num_queries = num_tokens // num_rows
    block = min(max(triton.next_power_of_2(num_queries), 16), 64)
    query_tiles = triton.cdiv(num_queries, block)
    busy = num_heads * num_rows * query_tiles
    splits = min(max(triton.next_power_of_2(tiling.programs // busy), 1), 64)
    partial: Any = q_THD.new_empty((num_tokens, num_heads, splits, size), dtype=torch.float32)
    stats = q_THD.new_empty((num_tokens, num_heads, splits, 2), dtype=torch.float32)
    out_THD = q_THD.new_empty((num_tokens, num_heads, size))
    _split_kernel[(splits, num_heads, num_rows * query_tiles)](
        q_THD,
        k_SGD,
        v_SGD,
        k_scales_SG if quantised else k_SGD,
        v_scales_SG if quantised else v_SGD,
        offsets_B,
        lengths_B,
        partial,
        stats,
        size**-0.5 * _LOG2_E,
        num_queries,
        query_tiles,
        num_heads,
        num_groups,
        q_THD.stride(0),
        SPLITS=splits,
        QUANTISED=quantised,
        SIZE=size,
        BLOCK_P=block,
        BLOCK_L=tiling.keys,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    _combine_kernel[(num_tokens * num_heads,)](
        partial, stats, out_THD, SPLITS=splits, SIZE=size, num_warps=2
    )
    return out_THD
