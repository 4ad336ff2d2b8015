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
    head = tl.program_id(1).to(tl.int64)  # 32 heads of half a million tokens are 2^31 numbers
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
    padded = triton.cdiv(num_tokens, _PAIR * KEY_TILE) * _PAIR * KEY_TILE
    shape = (num_heads, size, padded) if transposed else (num_heads, padded, size)
    out = torch.zeros(shape, dtype=torch.uint8, device=x_THD.device).view(FLOAT8)
    block = 64
    _heads_kernel[(triton.cdiv(num_tokens, block), num_heads)](
        x_THD, scales_H if mean_HD is None else mean_HD, scales_H, out, num_tokens,
        x_THD.stride(0), padded * size, TRANSPOSED=transposed, CENTRED=mean_HD is not None,
        SIZE=size, BLOCK=block,
    )  # fmt: skip
    return out


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
    scale = tl.load(scale_ptr + head)
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
    mean_GD = k_SGD.mean(dim=0, dtype=torch.float32)
    scales_q = _scales(q_THD, None)
    scales_k, scales_v = _scales(k_SGD, mean_GD), _scales(v_SGD, None)
    q_HTD = quantise_heads(q_THD, None, scales_q, transposed=False)
    k = quantise_heads(k_SGD, mean_GD, scales_k, transposed=False)
    v = quantise_heads(v_SGD, None, scales_v, transposed=True)
    repeats = num_heads // num_groups
    scale_H = scales_q * scales_k.repeat_interleave(repeats) * (_LOG2_E / math.sqrt(size))
    out_THD = torch.empty((num_queries, num_heads, size), dtype=q_THD.dtype, device=q_THD.device)

    def launch(first: int, end: int, tiles: Tensor | None) -> None:
        _attend_kernel[(triton.cdiv(end - first, QUERY_TILE), num_heads)](
            q_HTD[:, first:], k, v, scale_H, scales_v, scale_H if tiles is None else tiles,
            out_THD[first:], end - first, num_keys, q_HTD.shape[1], k.shape[1],
            0 if tiles is None else tiles.shape[2], num_heads,
            REPEATS=repeats, LISTED=tiles is not None, SHIFT=_WEIGHT_SHIFT, SIZE=size,
            BLOCK_P=QUERY_TILE, BLOCK_L=_PAIR * KEY_TILE, TILE=KEY_TILE, num_warps=4, num_stages=3,
        )  # fmt: skip

    listed = 0
    if tiles_HIJ is not None:
        assert tiles_HIJ.shape[2] % _PAIR == 0, tiles_HIJ.shape
        listed = tiles_HIJ.shape[1] * QUERY_TILE
        launch(0, listed, tiles_HIJ)
    if listed < num_queries:
        launch(listed, num_queries, None)
    return out_THD


def _scales(x_THD: Tensor, mean_HD: Tensor | None) -> Tensor:
    """Return each head's largest magnitude (from its mean) over float8's, float32 [H]."""
    low_HD, high_HD = (x.float() for x in torch.aminmax(x_THD.flatten(1), dim=0))
    low_HD, high_HD = (x.view(x_THD.shape[1:]) for x in (low_HD, high_HD))
    if mean_HD is not None:
        low_HD, high_HD = low_HD - mean_HD, high_HD - mean_HD
    largest_H = torch.maximum(low_HD.abs(), high_HD.abs()).amax(dim=-1)
    return (largest_H / FLOAT8_MAX).clamp(min=1e-30)
