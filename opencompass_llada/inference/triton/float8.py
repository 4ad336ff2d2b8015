"""Runs Triton kernels that quantise to float8, and attention on float8 queries, keys and values.

The attention has no mask. It runs over all keys, or over listed tiles of keys for the leading tiles
of queries (block-sparse). The weights are scaled by 256 before they are rounded to e4m3, so that
small ones are kept down to 2^-17 of the largest; sums are float32. FlashAttention (Dao et al.,
2022) is the idea; nothing is shared with its code.
Shape suffixes: T tokens, S keys, K channels, H query heads, G key heads, D head size; I tiles of
queries, J listed tiles of keys.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from opencompass_llada.inference.kv_cache import FLOAT8, FLOAT8_MAX
from opencompass_llada.inference.tilings import KEY_TILE, QUERY_TILE

_LOG2_E = math.log2(math.e)
_WEIGHT_SHIFT = 8.0
"""Weights of attention are 2 to this power times themselves."""
_PAIR = 2
"""Tiles of keys that a step takes at once."""
_MOST_PARTS = 64
"""Most stretches of a head's tokens that are measured apart."""


@triton.jit
def _quantise_kernel(x_ptr, channel_scales_ptr, out_ptr, scales_ptr, size, stride,
                     SCALED: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    keep = cols < size
    x = tl.load(x_ptr + row * stride + cols, mask=keep, other=0.0).to(tl.float32)
    if SCALED:
        x *= tl.load(channel_scales_ptr + cols, mask=keep, other=0.0)
    scale = tl.maximum(tl.max(tl.abs(x), axis=0) / LARGEST, 1e-30)
    tl.store(scales_ptr + row, scale)
    tl.store(out_ptr + row * size + cols, (x / scale).to(out_ptr.dtype.element_ty), mask=keep)


def quantise_rows(x_TK: Tensor, channel_scales_K: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return float8 rows and their scales, float32 [T]; channels must be dense.

    Of inputs times ``channel_scales_K``, float32, if these are given.
    """
    num_rows, size = x_TK.shape
    out_TK = torch.empty((num_rows, size), dtype=FLOAT8, device=x_TK.device)
    scales_T = torch.empty(num_rows, dtype=torch.float32, device=x_TK.device)
    block = triton.next_power_of_2(size)
    _quantise_kernel[(num_rows,)](
        x_TK, scales_T if channel_scales_K is None else channel_scales_K, out_TK, scales_T, size,
        x_TK.stride(0), SCALED=channel_scales_K is not None, LARGEST=FLOAT8_MAX, BLOCK=block,
        num_warps=16 if block > 8192 else 8,
    )  # fmt: skip
    return out_TK, scales_T


@triton.jit
def _heads_kernel(x_ptr, mean_ptr, scales_ptr, out_ptr, num_tokens, token_stride, out_head_stride,
                  TRANSPOSED: tl.constexpr, CENTRED: tl.constexpr, SIZE: tl.constexpr,
                  BLOCK: tl.constexpr):  # fmt: skip
    """Write a tile of one head's tokens as float8, [tokens, D] or transposed [D, tokens].

    Tokens beyond those that there are become 0.
    """
    head = tl.program_id(1).to(tl.int64)  # 32 heads of half a million tokens are 2^31 numbers
    tokens = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, SIZE)
    keep = (tokens < num_tokens)[:, None]
    places = tokens[:, None] * token_stride + head * SIZE + dims[None, :]
    x = tl.load(x_ptr + places, mask=keep, other=0.0).to(tl.float32)
    if CENTRED:
        x -= tl.load(mean_ptr + head * SIZE + dims)[None, :]
    x = tl.where(keep, x / tl.load(scales_ptr + head), 0.0).to(out_ptr.dtype.element_ty)
    base = out_ptr + head * out_head_stride
    if TRANSPOSED:
        padded = (out_head_stride // SIZE).to(tl.int64)
        tl.store(base + dims[:, None] * padded + tokens[None, :], tl.trans(x))
    else:
        tl.store(base + tokens[:, None] * SIZE + dims[None, :], x)


def quantise_heads(
    x_THD: Tensor, mean_HD: Tensor | None, scales_H: Tensor, *, transposed: bool
) -> Tensor:
    """Return float8 ``(x - mean) / scale`` of each head, [H, T', D] or, transposed, [H, D, T'].

    T' is the tokens rounded up to two of `KEY_TILE`; what is beyond them is 0.
    """
    num_tokens, num_heads, size = x_THD.shape
    padded = triton.cdiv(num_tokens, _PAIR * KEY_TILE) * _PAIR * KEY_TILE
    shape = (num_heads, size, padded) if transposed else (num_heads, padded, size)
    out = torch.empty(shape, dtype=FLOAT8, device=x_THD.device)
    _heads_kernel[(padded // KEY_TILE, num_heads)](
        x_THD, scales_H if mean_HD is None else mean_HD, scales_H, out, num_tokens,
        x_THD.stride(0), padded * size, TRANSPOSED=transposed, CENTRED=mean_HD is not None,
        SIZE=size, BLOCK=KEY_TILE,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["num_steps"])
def _extents_kernel(q_ptr, k_ptr, v_ptr, parts_ptr, num_queries, num_keys, q_stride, k_stride,
                    v_stride, num_heads, num_groups, num_steps, SIZE: tl.constexpr,
                    BLOCK: tl.constexpr):  # fmt: skip
    """Write each channel's least, largest and summed value over a stretch of one head's tokens."""
    head = tl.program_id(1)
    x_ptr, num_tokens, stride, own = q_ptr, num_queries, q_stride, head
    if head >= num_heads + num_groups:
        x_ptr, num_tokens, stride, own = v_ptr, num_keys, v_stride, head - num_heads - num_groups
    elif head >= num_heads:
        x_ptr, num_tokens, stride, own = k_ptr, num_keys, k_stride, head - num_heads
    dims = tl.arange(0, SIZE)
    low = tl.full([BLOCK, SIZE], float("inf"), tl.float32)
    high = tl.full([BLOCK, SIZE], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK, SIZE], tl.float32)
    for step in range(num_steps):
        tokens = (tl.program_id(0) * num_steps + step) * BLOCK + tl.arange(0, BLOCK)
        inside = (tokens < num_tokens)[:, None]
        places = tokens.to(tl.int64)[:, None] * stride + own * SIZE + dims[None, :]
        x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
        low = tl.minimum(low, tl.where(inside, x, float("inf")))
        high = tl.maximum(high, tl.where(inside, x, float("-inf")))
        total += x
    part_ptr = parts_ptr + (head.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 3 * SIZE
    tl.store(part_ptr + dims, tl.min(low, axis=0))
    tl.store(part_ptr + SIZE + dims, tl.max(high, axis=0))
    tl.store(part_ptr + 2 * SIZE + dims, tl.sum(total, axis=0))


@triton.jit
def _scales_kernel(parts_ptr, mean_ptr, scales_ptr, num_parts, num_heads, num_groups, num_keys,
                   LARGEST: tl.constexpr, SIZE: tl.constexpr, PARTS: tl.constexpr):  # fmt: skip
    """Join what `_extents_kernel` wrote of a head: its scale and, of a head of keys, its mean."""
    head = tl.program_id(0)
    dims = tl.arange(0, SIZE)
    parts = tl.arange(0, PARTS)
    places = (head.to(tl.int64) * num_parts + parts)[:, None] * 3 * SIZE + dims[None, :]
    keep = (parts < num_parts)[:, None]
    low = tl.min(tl.load(parts_ptr + places, mask=keep, other=float("inf")), axis=0)
    high = tl.max(tl.load(parts_ptr + SIZE + places, mask=keep, other=float("-inf")), axis=0)
    if (head >= num_heads) & (head < num_heads + num_groups):
        total = tl.sum(tl.load(parts_ptr + 2 * SIZE + places, mask=keep, other=0.0), axis=0)
        mean = total / num_keys
        tl.store(mean_ptr + (head - num_heads) * SIZE + dims, mean)
        low -= mean
        high -= mean
    largest = tl.max(tl.maximum(tl.abs(low), tl.abs(high)), axis=0)
    tl.store(scales_ptr + head, tl.maximum(largest / LARGEST, 1e-30))


class Extents(NamedTuple):
    """What attention rounds its inputs by, float32."""

    mean_GD: Tensor
    """Of the keys."""
    scale_q_H: Tensor
    """Largest magnitude over float8's; of keys that of what is left without their mean."""
    scale_k_G: Tensor
    scale_v_G: Tensor


def measure(q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Extents:
    """Return the scales of each head; heads and channels must be dense."""
    (num_queries, num_heads, size), (num_keys, num_groups, _) = q_THD.shape, k_SGD.shape
    heads, block = num_heads + 2 * num_groups, 32
    blocks = triton.cdiv(max(num_queries, num_keys), block)
    num_steps = triton.cdiv(blocks, min(_MOST_PARTS, triton.cdiv(blocks, 8)))
    num_parts = triton.cdiv(blocks, num_steps)
    parts, mean_GD, scales = (
        torch.empty(shape, dtype=torch.float32, device=q_THD.device)
        for shape in ((heads, num_parts, 3, size), (num_groups, size), (heads,))
    )
    _extents_kernel[(num_parts, heads)](
        q_THD, k_SGD, v_SGD, parts, num_queries, num_keys, q_THD.stride(0), k_SGD.stride(0),
        v_SGD.stride(0), num_heads, num_groups, num_steps, SIZE=size, BLOCK=block,
    )  # fmt: skip
    _scales_kernel[(heads,)](
        parts, mean_GD, scales, num_parts, num_heads, num_groups, num_keys,
        LARGEST=FLOAT8_MAX, SIZE=size, PARTS=_MOST_PARTS,
    )  # fmt: skip
    return Extents(mean_GD, *scales.split((num_heads, num_groups, num_groups)))


@triton.jit
def _weigh_tile(q, scale, k_base, v_base, keys, num_keys, padded_keys, best, total, out,
                MASKED: tl.constexpr, SHIFT: tl.constexpr, SIZE: tl.constexpr,
                BLOCK_L: tl.constexpr):  # fmt: skip
    """Add a tile of keys to the largest score of each query, its weights' sum and its output."""
    dims = tl.arange(0, SIZE)
    scores = tl.dot(q, tl.load(k_base + keys[None, :] * SIZE + dims[:, None]))
    if MASKED:
        scores = tl.where(keys[None, :] < num_keys, scores, float("-inf"))
    better = tl.maximum(best, tl.max(scores, axis=1) * scale)
    shrink = tl.exp2(best - better)
    total = total * shrink
    out = out * shrink[:, None]
    # One multiply-add a score: shift and largest score are one number a query.
    weights = tl.exp2(scores * scale + (SHIFT - better)[:, None])
    total += tl.sum(weights, axis=1)
    v = tl.load(v_base + dims[None, :] * padded_keys + keys[:, None])
    if MASKED:  # one sum in fewer bits does no harm, and takes fewer registers
        out = tl.dot(weights.to(q.dtype), v, out)
    else:
        # Tensor cores sum float8 products in fewer bits than float32 has, so float32 takes each
        # tile's sum: benchmarks/records/float8_attention_h200.json has what is lost without.
        out = tl.dot(weights.to(q.dtype), v, out, max_num_imprecise_acc=BLOCK_L)
    return better, total, out


@triton.jit
def _attend_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    q_scales_ptr,
    k_scales_ptr,
    v_scales_ptr,
    tiles_ptr,
    out_ptr,
    num_queries,
    num_keys,
    padded_queries,
    padded_keys,
    num_listed,
    num_heads,
    softmax_scale,
    REPEATS: tl.constexpr,
    LISTED: tl.constexpr,
    SHIFT: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
    TILE: tl.constexpr,
):
    tile = tl.program_id(0)
    head = tl.program_id(1)
    group = head // REPEATS
    dims = tl.arange(0, SIZE)
    rows = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    q_place = head.to(tl.int64) * padded_queries * SIZE + rows[:, None] * SIZE + dims[None, :]
    q = tl.load(q_ptr + q_place, mask=rows[:, None] < num_queries, other=0.0)
    scale = tl.load(q_scales_ptr + head) * tl.load(k_scales_ptr + group) * softmax_scale
    k_base = k_ptr + group.to(tl.int64) * padded_keys * SIZE
    v_base = v_ptr + group.to(tl.int64) * padded_keys * SIZE
    best = tl.full([BLOCK_P], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_P], tl.float32)
    out = tl.zeros([BLOCK_P, SIZE], tl.float32)
    listed = tiles_ptr + (head.to(tl.int64) * tl.num_programs(0) + tile) * num_listed
    inner = tl.arange(0, BLOCK_L)
    # Only the last step can reach beyond the keys, since lists ascend.
    whole, count = num_keys // BLOCK_L, tl.cdiv(num_keys, BLOCK_L)
    if LISTED:
        count = num_listed * TILE // BLOCK_L
        whole = count - tl.where(num_keys % TILE > 0, 1, 0)
    for index in range(0, whole):
        keys = index * BLOCK_L + inner
        if LISTED:
            keys = tl.load(listed + index * (BLOCK_L // TILE) + inner // TILE) * TILE + inner % TILE
        best, total, out = _weigh_tile(
            q, scale, k_base, v_base, keys, num_keys, padded_keys, best, total, out,
            MASKED=False, SHIFT=SHIFT, SIZE=SIZE, BLOCK_L=BLOCK_L,
        )  # fmt: skip
    if whole < count:
        keys = whole * BLOCK_L + inner
        if LISTED:
            keys = tl.load(listed + whole * (BLOCK_L // TILE) + inner // TILE) * TILE + inner % TILE
        best, total, out = _weigh_tile(
            q, scale, k_base, v_base, keys, num_keys, padded_keys, best, total, out,
            MASKED=True, SHIFT=SHIFT, SIZE=SIZE, BLOCK_L=BLOCK_L,
        )  # fmt: skip
    out = out / total[:, None] * tl.load(v_scales_ptr + group)
    out_place = (rows[:, None].to(tl.int64) * num_heads + head) * SIZE + dims[None, :]
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + out_place, out.to(kind), mask=rows[:, None] < num_queries)


def attend(q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, tiles_HIJ: Tensor | None = None) -> Tensor:
    """Return attention without a mask, [T, H, D], in the dtype of the queries.

    Args:
        q_THD: Rotated queries, bfloat16; heads dense, tokens may be strided, as of the others.
        k_SGD: Rotated keys.
        v_SGD: Values.
        tiles_HIJ: For each head and leading tile of `QUERY_TILE` queries the tiles of `KEY_TILE`
            keys that it sees, int32, ascending, an even number. The queries after those tiles see
            all keys, and all do where it is None.
    """
    (num_queries, num_heads, size), (num_keys, num_groups, _) = q_THD.shape, k_SGD.shape
    # A softmax does not change where all keys are moved alike, and they are smaller without
    # their mean (SageAttention, arXiv 2410.02367).
    mean_GD, scale_q_H, scale_k_G, scale_v_G = measure(q_THD, k_SGD, v_SGD)
    q_HTD = quantise_heads(q_THD, None, scale_q_H, transposed=False)
    k = quantise_heads(k_SGD, mean_GD, scale_k_G, transposed=False)
    v = quantise_heads(v_SGD, None, scale_v_G, transposed=True)
    out_THD = torch.empty((num_queries, num_heads, size), dtype=q_THD.dtype, device=q_THD.device)

    def launch(first: int, end: int, tiles: Tensor | None) -> None:
        _attend_kernel[(triton.cdiv(end - first, QUERY_TILE), num_heads)](
            q_HTD[:, first:], k, v, scale_q_H, scale_k_G, scale_v_G,
            scale_q_H if tiles is None else tiles, out_THD[first:], end - first, num_keys,
            q_HTD.shape[1], k.shape[1], 0 if tiles is None else tiles.shape[2], num_heads,
            _LOG2_E / math.sqrt(size), REPEATS=num_heads // num_groups, LISTED=tiles is not None,
            SHIFT=_WEIGHT_SHIFT, SIZE=size, BLOCK_P=QUERY_TILE, BLOCK_L=_PAIR * KEY_TILE,
            TILE=KEY_TILE, num_warps=4, num_stages=3,
        )  # fmt: skip

    listed = 0
    if tiles_HIJ is not None:
        assert tiles_HIJ.shape[2] % _PAIR == 0, tiles_HIJ.shape
        listed = tiles_HIJ.shape[1] * QUERY_TILE
        launch(0, listed, tiles_HIJ)
    if listed < num_queries:
        launch(listed, num_queries, None)
    return out_THD
