"""Runs Triton kernels: attention of a span's queries over long cached keys, split along the keys.

The keys are read once: float8 is widened to float16 in registers and its scales enter the scores
and the weights, so that nothing is dequantised in memory. Flash-decoding (Dao et al., 2023) is the
idea; nothing is shared with its code. Tiles and splits are chosen in ``tilings.py``.
Shape suffixes: B rows, P queries a row, T tokens of all rows, H query heads, G key heads, S slots,
D head size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from opencompass_llada.inference.tilings import (
    FEW_QUERIES,
    Tiling,
    choose_splits,
    choose_tiling,
    fit_tiling,
)

_LOG2_E = math.log2(math.e)


@triton.jit
def _load(pointers, inside, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(pointers, mask=inside, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def _attend_tile(
    q,
    k_ptr,
    v_ptr,
    k_scales_ptr,
    v_scales_ptr,
    slot,
    num_inside,
    num_groups,
    scale,
    best,
    total,
    out,
    unit,
    QUANTISED: tl.constexpr,
    MASKED: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Add one tile of keys, from a slot on, to the softmax so far: best, total, out in units."""
    keys = tl.arange(0, BLOCK_L)
    inside = keys < num_inside
    first = slot * num_groups
    places = keys[:, None] * (num_groups * SIZE) + tl.arange(0, SIZE)[None, :]
    k = _load(k_ptr + first * SIZE + places, inside[:, None], MASKED).to(q.dtype)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if QUANTISED:
        k_scales = _load(k_scales_ptr + first + keys * num_groups, inside, MASKED)
        scores = scores * (k_scales * scale)[None, :]
    if MASKED:
        scores = tl.where(inside[None, :], scores, float("-inf"))
    if QUANTISED:
        better = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp2(scores - better[:, None])
    else:  # one multiply-add a score
        better = tl.maximum(best, tl.max(scores, axis=1) * scale)
        weights = tl.exp2(scores * scale - better[:, None])
    shrink = tl.exp2(best - better)
    total = total * shrink + tl.sum(weights, axis=1)
    if QUANTISED:
        v_scales = _load(v_scales_ptr + first + keys * num_groups, inside, MASKED)
        # The largest scale so far waits until the end, or float16 would underflow.
        larger = tl.maximum(unit, tl.max(v_scales, axis=0))
        weights = weights * (v_scales / larger)[None, :]
        shrink = shrink * (unit / larger)
        unit = larger
    v = _load(v_ptr + first * SIZE + places, inside[:, None], MASKED).to(q.dtype)
    out = tl.dot(weights.to(q.dtype), v, out * shrink[:, None], input_precision="ieee")
    return better, total, out, unit


@triton.jit(do_not_specialize=["num_queries", "num_query_tiles", "splits"])
def split_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    k_scales_ptr,
    v_scales_ptr,
    offsets_ptr,
    lengths_ptr,
    out_ptr,
    partial_ptr,
    stats_ptr,
    scale,
    num_queries,
    num_query_tiles,
    num_heads,
    num_groups,
    q_stride,
    splits,
    REPEATS: tl.constexpr,
    WHOLE: tl.constexpr,
    PEELED: tl.constexpr,
    QUANTISED: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Attend from a tile of queries to one split of a row's keys; an only split is the result.

    A tile's queries are of all heads that share keys, so that these are read once.
    """
    split = tl.program_id(0)
    group = tl.program_id(1)
    row = tl.program_id(2) // num_query_tiles
    tile = tl.program_id(2) % num_query_tiles
    length = tl.load(lengths_ptr + row)
    offset = tl.load(offsets_ptr + row).to(tl.int64)
    share = tl.cdiv(tl.cdiv(length, splits), BLOCK_L) * BLOCK_L
    start = tl.minimum(split * share, length)
    end = tl.minimum(start + share, length)
    loop_end = end
    if PEELED:
        loop_end = start + (end - start) // BLOCK_L * BLOCK_L
    dims = tl.arange(0, SIZE)
    queries = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    valid = queries < num_queries * REPEATS
    token = row * num_queries + queries // REPEATS
    head = group * REPEATS + queries % REPEATS
    q = tl.load(
        q_ptr + token[:, None] * q_stride + head[:, None] * SIZE + dims[None, :],
        mask=valid[:, None],
        other=0.0,
    )
    if QUANTISED:
        q = q.to(tl.float16)
    k_ptr += group * SIZE
    v_ptr += group * SIZE
    k_scales_ptr += group
    v_scales_ptr += group
    best = tl.full([BLOCK_P], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_P], tl.float32)
    out = tl.zeros([BLOCK_P, SIZE], tl.float32)
    unit = tl.full([], 1e-30, tl.float32)  # the smallest scale there is
    for first in range(start, loop_end, BLOCK_L):
        best, total, out, unit = _attend_tile(
            q, k_ptr, v_ptr, k_scales_ptr, v_scales_ptr, offset + first, end - first, num_groups,
            scale, best, total, out, unit, QUANTISED, not PEELED, SIZE, BLOCK_L,
        )  # fmt: skip
    if PEELED and loop_end < end:
        best, total, out, unit = _attend_tile(
            q, k_ptr, v_ptr, k_scales_ptr, v_scales_ptr, offset + loop_end, end - loop_end,
            num_groups, scale, best, total, out, unit, QUANTISED, True, SIZE, BLOCK_L,
        )  # fmt: skip
    if QUANTISED:
        out = out * unit
    place = token * num_heads + head
    if WHOLE:
        tl.store(
            out_ptr + place[:, None] * SIZE + dims[None, :],
            (out / total[:, None]).to(out_ptr.dtype.element_ty),
            mask=valid[:, None],
        )
    else:
        place = place * splits + split
        tl.store(partial_ptr + place[:, None] * SIZE + dims[None, :], out, mask=valid[:, None])
        tl.store(stats_ptr + place * 2, best, mask=valid)
        tl.store(stats_ptr + place * 2 + 1, total, mask=valid)


@triton.jit
def combine_kernel(partial_ptr, stats_ptr, out_ptr, SPLITS: tl.constexpr, SIZE: tl.constexpr):
    """Join the splits of one token and head."""
    place = tl.program_id(0).to(tl.int64)
    splits = place * SPLITS + tl.arange(0, SPLITS)
    dims = tl.arange(0, SIZE)
    best = tl.load(stats_ptr + splits * 2)
    total = tl.load(stats_ptr + splits * 2 + 1)
    weights = tl.exp2(best - tl.max(best, axis=0))
    partial = tl.load(partial_ptr + splits[:, None] * SIZE + dims[None, :])
    out = tl.sum(partial * weights[:, None], axis=0) / tl.sum(total * weights, axis=0)
    tl.store(out_ptr + place * SIZE + dims, out.to(out_ptr.dtype.element_ty))


def attend_cached(
    q_THD: Tensor,
    k_SGD: Tensor,
    v_SGD: Tensor,
    offsets_B: Tensor,
    lengths_B: Tensor,
    k_scales_SG: Tensor | None = None,
    v_scales_SG: Tensor | None = None,
    *,
    tiling: Tiling | None = None,
) -> Tensor:
    """Attend from every row's queries, as many in each, to the row's cached keys: [T, H, D].

    Keys and values are contiguous, of the queries' dtype, or float8 with float32 scales. A row has
    at least one key; its first slot and their number are int32. No tiling chooses one.
    """
    quantised, dtype = k_scales_SG is not None, q_THD.dtype
    num_tokens, num_heads, size = q_THD.shape
    num_rows, num_groups = offsets_B.shape[0], k_SGD.shape[1]
    num_queries, repeats = num_tokens // num_rows, num_heads // num_groups
    sharing = num_queries * repeats  # queries that share keys
    if tiling is None:
        tiling = _fitting_tiling(sharing, k_SGD)
    if quantised and sharing > FEW_QUERIES:
        q_THD = q_THD.half()  # what the kernel converts itself takes its registers
    block = _tile_queries(tiling, sharing)
    query_tiles = triton.cdiv(sharing, block)
    busy = num_groups * num_rows * query_tiles
    splits = choose_splits(tiling, busy, _processors(q_THD.device))
    out_THD = q_THD.new_empty((num_tokens, num_heads, size), dtype=dtype)
    partial, stats = out_THD, out_THD  # not touched where nothing is split
    if splits > 1:
        partial = q_THD.new_empty((num_tokens, num_heads, splits, size), dtype=torch.float32)
        stats = q_THD.new_empty((num_tokens, num_heads, splits, 2), dtype=torch.float32)
    split_kernel[(splits, num_groups, num_rows * query_tiles)](
        q_THD,
        k_SGD,
        v_SGD,
        k_scales_SG if quantised else k_SGD,
        v_scales_SG if quantised else v_SGD,
        offsets_B,
        lengths_B,
        out_THD,
        partial,
        stats,
        size**-0.5 * _LOG2_E,
        num_queries,
        query_tiles,
        num_heads,
        num_groups,
        q_THD.stride(0),
        splits,
        REPEATS=repeats,
        WHOLE=splits == 1,
        PEELED=tiling.peeled,
        QUANTISED=quantised,
        SIZE=size,
        BLOCK_P=block,
        BLOCK_L=tiling.keys,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    if splits > 1:
        combine_kernel[(num_tokens * num_heads,)](
            partial, stats, out_THD, SPLITS=splits, SIZE=size, num_warps=2
        )
    return out_THD


def _tile_queries(tiling: Tiling, num_queries: int) -> int:
    return min(max(triton.next_power_of_2(num_queries), 16), tiling.queries)


def _fitting_tiling(num_queries: int, k_SGD: Tensor) -> Tiling:
    """Return the tiling for queries and keys on their card."""
    key_bytes = k_SGD.element_size()
    tiling = choose_tiling(num_queries, quantised=key_bytes == 1)
    if k_SGD.device.type != "cuda":
        return tiling
    properties: Any = torch.cuda.get_device_properties(k_SGD.device)  # the stubs lack a field
    return fit_tiling(
        tiling,
        num_queries=_tile_queries(tiling, num_queries),
        head_dim=k_SGD.shape[2],
        key_bytes=key_bytes,
        shared_memory=properties.shared_memory_per_block_optin,
    )


def _processors(device: torch.device) -> int:
    """Return a card's processors; one elsewhere, where Triton's interpreter runs."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
