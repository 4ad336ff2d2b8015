"""Runs Triton kernels that quantise to float8, and attention on float8 queries, keys and values.

The attention has no mask. It runs over all keys, or over listed tiles of keys for each tile of
queries (block-sparse). The weights are scaled by 256 before they are rounded to e4m3, so that small
ones are kept down to 2^-17 of the largest; sums are float32. FlashAttention (Dao et al., 2022) is
the idea; nothing is shared with its code.
Shape suffixes: T tokens, S keys, K channels, H query heads, G key heads, D head size; I tiles of
queries, J listed tiles of keys.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from opencompass_llada.inference.kv_cache import FLOAT8, FLOAT8_MAX
from opencompass_llada.inference.tilings import KEY_TILE, QUERY_TILE

_LOG2_E = math.log2(math.e)
_WEIGHT_SHIFT = 8.0
"""Weights of attention are 2 to this power times themselves."""


@triton.jit
def _quantise_kernel(x_ptr, out_ptr, scales_ptr, size, stride, LARGEST: tl.constexpr,
                     BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    keep = cols < size
    x = tl.load(x_ptr + row * stride + cols, mask=keep, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), axis=0) / LARGEST, 1e-30)
    tl.store(scales_ptr + row, scale)
    tl.store(out_ptr + row * size + cols, (x / scale).to(out_ptr.dtype.element_ty), mask=keep)


def quantise_rows(x_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Return float8 rows and their scales, float32 [T]; channels must be dense."""
    num_rows, size = x_TK.shape
    out_TK = torch.empty((num_rows, size), dtype=FLOAT8, device=x_TK.device)
    scales_T = torch.empty(num_rows, dtype=torch.float32, device=x_TK.device)
    block = triton.next_power_of_2(size)
    _quantise_kernel[(num_rows,)](
        x_TK, out_TK, scales_T, size, x_TK.stride(0), LARGEST=FLOAT8_MAX, BLOCK=block,
        num_warps=16 if block > 8192 else 8,
    )  # fmt: skip
    return out_TK, scales_T


@triton.jit
def _heads_kernel(x_ptr, mean_ptr, scales_ptr, out_ptr, num_tokens, token_stride, out_head_stride,
                  TRANSPOSED: tl.constexpr, CENTRED: tl.constexpr, SIZE: tl.constexpr,
                  BLOCK: tl.constexpr):  # fmt: skip
    """Write a tile of one head's tokens as float8, [tokens, D] or transposed [D, tokens]."""
    head = tl.program_id(1)
    tokens = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, SIZE)
    keep = (tokens < num_tokens)[:, None]
    places = tokens[:, None] * token_stride + head * SIZE + dims[None, :]
    x = tl.load(x_ptr + places, mask=keep, other=0.0).to(tl.float32)
    if CENTRED:
        x -= tl.load(mean_ptr + head * SIZE + dims)[None, :]
    x = (x / tl.load(scales_ptr + head)).to(out_ptr.dtype.element_ty)
    base = out_ptr + head * out_head_stride
    if TRANSPOSED:
        padded = (out_head_stride // SIZE).to(tl.int64)
        tl.store(base + dims[:, None] * padded + tokens[None, :], tl.trans(x), mask=tl.trans(keep))
    else:
        tl.store(base + tokens[:, None] * SIZE + dims[None, :], x, mask=keep)


def quantise_heads(
    x_THD: Tensor, mean_HD: Tensor | None, scales_H: Tensor, *, transposed: bool
) -> Tensor:
    """Return float8 ``(x - mean) / scale`` of each head, [H, T', D] or, transposed, [H, D, T'].

    T' is the tokens rounded up to two of `KEY_TILE`; what is beyond them is 0.
    """
    num_tokens, num_heads, size = x_THD.shape
    padded = triton.cdiv(num_tokens, 2 * KEY_TILE) * 2 * KEY_TILE
    shape = (num_heads, size, padded) if transposed else (num_heads, padded, size)
    out = torch.zeros(shape, dtype=torch.uint8, device=x_THD.device).view(FLOAT8)
    block = 64
    _heads_kernel[(triton.cdiv(num_tokens, block), num_heads)](
        x_THD, scales_H if mean_HD is None else mean_HD, scales_H, out, num_tokens,
        x_THD.stride(0), padded * size, TRANSPOSED=transposed, CENTRED=mean_HD is not None,
        SIZE=size, BLOCK=block,
    )  # fmt: skip
    return out


_TILINGS = [
    triton.Config({}, num_warps=warps, num_stages=stages)
    for warps, stages in ((8, 3), (4, 3), (8, 4), (4, 4), (8, 2))
]


@triton.autotune(configs=_TILINGS, key=["REPEATS", "SIZE", "BLOCK_L", "LISTED", "size_class"])
@triton.jit
def _attend_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    scale_ptr,
    v_scales_ptr,
    tiles_ptr,
    out_ptr,
    num_queries,
    num_keys,
    padded_queries,
    padded_keys,
    num_listed,
    num_heads,
    size_class,
    REPEATS: tl.constexpr,
    LISTED: tl.constexpr,
    SHIFT: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    tile = tl.program_id(0)
    head = tl.program_id(1)
    group = head // REPEATS
    dims = tl.arange(0, SIZE)
    rows = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    q_place = head.to(tl.int64) * padded_queries * SIZE + rows[:, None] * SIZE + dims[None, :]
    q = tl.load(q_ptr + q_place, mask=rows[:, None] < num_queries, other=0.0)
    scale = tl.load(scale_ptr + head)
    k_base = k_ptr + group.to(tl.int64) * padded_keys * SIZE
    v_base = v_ptr + group.to(tl.int64) * padded_keys * SIZE
    best = tl.full([BLOCK_P], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_P], tl.float32)
    out = tl.zeros([BLOCK_P, SIZE], tl.float32)
    listed = tiles_ptr + (head.to(tl.int64) * tl.num_programs(0) + tile) * num_listed
    count = tl.cdiv(num_keys, BLOCK_L)
    if LISTED:
        count = num_listed
    for index in range(0, count):
        first = index * BLOCK_L
        if LISTED:
            first = tl.load(listed + index) * BLOCK_L
        keys = first + tl.arange(0, BLOCK_L)
        k = tl.load(k_base + keys[None, :] * SIZE + dims[:, None])
        scores = tl.dot(q, k) * scale
        if first + BLOCK_L > num_keys:
            scores = tl.where(keys[None, :] < num_keys, scores, float("-inf"))
        better = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp2(scores - better[:, None] + SHIFT)
        shrink = tl.exp2(best - better)
        total = total * shrink + tl.sum(weights, axis=1)
        v = tl.load(v_base + dims[None, :] * padded_keys + keys[:, None])
        # Tensor cores sum float8 products in fewer bits than float32 has, so float32 takes each
        # tile's sum. Left to themselves over all of 32,768 keys they are wrong by 20 % of the norm
        # for values of mean 0.5, against 0.3 %, and no faster (H200, 2026-11-30).
        out = out * shrink[:, None]
        out = tl.dot(weights.to(q.dtype), v, out, max_num_imprecise_acc=BLOCK_L)
        best = better
    v_scale = tl.load(v_scales_ptr + group)
    out = out / total[:, None] * v_scale
    out_place = (rows[:, None].to(tl.int64) * num_heads + head) * SIZE + dims[None, :]
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + out_place, out.to(kind), mask=rows[:, None] < num_queries)


def attend(q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, tiles_HIJ: Tensor | None = None) -> Tensor:
    """Return attention without a mask, [T, H, D], in the dtype of the queries.

    Args:
        q_THD: Rotated queries, bfloat16; heads dense, tokens may be strided, as of the others.
        k_SGD: Rotated keys.
        v_SGD: Values.
        tiles_HIJ: For each head and tile of `QUERY_TILE` queries the tiles of `KEY_TILE` keys that
            it sees, int32; None is all keys.
    """
    (num_queries, num_heads, size), (num_keys, num_groups, _) = q_THD.shape, k_SGD.shape
    # A softmax does not change where all keys are moved alike, and they are smaller without
    # their mean (SageAttention, arXiv 2410.02367).
    mean_GD = k_SGD.mean(dim=0, dtype=torch.float32)
    scales_q = _scales(q_THD, None)
    scales_k, scales_v = _scales(k_SGD, mean_GD), _scales(v_SGD, None)
    q = quantise_heads(q_THD, None, scales_q, transposed=False)
    k = quantise_heads(k_SGD, mean_GD, scales_k, transposed=False)
    v = quantise_heads(v_SGD, None, scales_v, transposed=True)
    repeats = num_heads // num_groups
    scale_H = scales_q * scales_k.repeat_interleave(repeats) * (_LOG2_E / math.sqrt(size))
    out_THD = torch.empty((num_queries, num_heads, size), dtype=q_THD.dtype, device=q_THD.device)
    is_listed = tiles_HIJ is not None
    _attend_kernel[(triton.cdiv(num_queries, QUERY_TILE), num_heads)](
        q, k, v, scale_H, scales_v, scale_H if tiles_HIJ is None else tiles_HIJ, out_THD,
        num_queries, num_keys, q.shape[1], k.shape[1],
        0 if tiles_HIJ is None else tiles_HIJ.shape[2], num_heads,
        size_class=num_keys.bit_length(), REPEATS=repeats, LISTED=is_listed, SHIFT=_WEIGHT_SHIFT,
        SIZE=size, BLOCK_P=QUERY_TILE, BLOCK_L=KEY_TILE if is_listed else 2 * KEY_TILE,
    )  # fmt: skip
    return out_THD


def _scales(x_THD: Tensor, mean_HD: Tensor | None) -> Tensor:
    """Return each head's largest magnitude (from its mean) over float8's, float32 [H]."""
    low_HD, high_HD = (x.float() for x in torch.aminmax(x_THD.flatten(1), dim=0))
    low_HD, high_HD = (x.view(x_THD.shape[1:]) for x in (low_HD, high_HD))
    if mean_HD is not None:
        low_HD, high_HD = low_HD - mean_HD, high_HD - mean_HD
    largest_H = torch.maximum(low_HD.abs(), high_HD.abs()).amax(dim=-1)
    return (largest_H / FLOAT8_MAX).clamp(min=1e-30)
