"""Triton kernels for what stands between the matrix products of a pass.

Each rounds where the plain network rounds (after the norm, after SiLU, after each addition), so
that it gives the same numbers but for the order of a sum. Memory-bound: every tensor is read and
written once. Imported only where Triton is; ``elementwise.py`` chooses.

Shape suffixes: T tokens, M hidden size, H heads, D head size, F MLP size.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

FLOAT8_MAX = 448.0
"""Largest finite value of float8_e4m3fn."""


@triton.jit
def _add_norm_kernel(
    x_ptr,
    delta_ptr,
    weight_ptr,
    sum_ptr,
    out_ptr,
    size,
    eps,
    HAS_DELTA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * size
    cols = tl.arange(0, BLOCK)
    keep = cols < size
    kind = out_ptr.dtype.element_ty
    x = tl.load(x_ptr + row + cols, mask=keep, other=0.0).to(tl.float32)
    if HAS_DELTA:
        delta = tl.load(delta_ptr + row + cols, mask=keep, other=0.0).to(tl.float32)
        rounded = (x + delta).to(kind)
        tl.store(sum_ptr + row + cols, rounded, mask=keep)
        x = rounded.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / size + eps)
    normed = (x * scale).to(kind).to(tl.float32)
    weight = tl.load(weight_ptr + cols, mask=keep, other=0.0).to(tl.float32)
    tl.store(out_ptr + row + cols, (weight * normed).to(kind), mask=keep)


@triton.jit
def _gate_kernel(gate_ptr, up_ptr, out_ptr, size, gate_stride, up_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = cols < size
    kind = out_ptr.dtype.element_ty
    gate = tl.load(gate_ptr + row * gate_stride + cols, mask=keep, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + cols, mask=keep, other=0.0).to(tl.float32)
    silu = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
    tl.store(out_ptr + row * size + cols, (silu * up).to(kind), mask=keep)


@triton.jit
def _rotate_kernel(
    x_ptr,
    positions_ptr,
    cos_ptr,
    sin_ptr,
    row_stride,
    num_heads,
    HALF: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    table = tl.load(positions_ptr + token).to(tl.int64) * (2 * HALF)
    dims = tl.arange(0, HALF)
    cos = tl.load(cos_ptr + table + dims)[None, :]
    sin = tl.load(sin_ptr + table + dims)[None, :]
    heads = tl.arange(0, BLOCK_H)
    keep = (heads < num_heads)[:, None]
    first_ptr = x_ptr + token * row_stride + heads[:, None] * (2 * HALF) + dims[None, :]
    kind = x_ptr.dtype.element_ty
    first = tl.load(first_ptr, mask=keep, other=0.0).to(tl.float32)
    second = tl.load(first_ptr + HALF, mask=keep, other=0.0).to(tl.float32)
    tl.store(first_ptr, (first * cos - second * sin).to(kind), mask=keep)
    tl.store(first_ptr + HALF, (second * cos + first * sin).to(kind), mask=keep)


@triton.jit
def _store_kernel(
    x_ptr,
    slots_ptr,
    cache_ptr,
    scales_ptr,
    row_stride,
    num_heads,
    QUANTISED: tl.constexpr,
    LARGEST: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    dims = tl.arange(0, SIZE)
    heads = tl.arange(0, BLOCK_H)
    keep = (heads < num_heads)[:, None]
    inner = heads[:, None] * SIZE + dims[None, :]
    x = tl.load(x_ptr + token * row_stride + inner, mask=keep, other=0.0)
    target = cache_ptr + slot * num_heads * SIZE + inner
    if QUANTISED:
        x32 = x.to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(x32), axis=1) / LARGEST, 1e-30)
        tl.store(scales_ptr + slot * num_heads + heads, scale, mask=heads < num_heads)
        x = (x32 / scale[:, None]).to(cache_ptr.dtype.element_ty)
    tl.store(target, x, mask=keep)


def add_norm(
    x_TM: Tensor, delta_TM: Tensor | None, weight_M: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add ``delta`` to ``x`` in place, if there is one, and return ``x`` and its norm."""
    num_tokens, size = x_TM.shape
    out_TM = torch.empty_like(x_TM)
    block = triton.next_power_of_2(size)
    _add_norm_kernel[(num_tokens,)](
        x_TM,
        x_TM if delta_TM is None else delta_TM,
        weight_M,
        x_TM,
        out_TM,
        size,
        eps,
        HAS_DELTA=delta_TM is not None,
        BLOCK=block,
        num_warps=8 if block >= 4096 else 4,
    )
    return x_TM, out_TM


def gate(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """Return ``silu(gate) * up``, contiguous; the inputs may be slices of one wider tensor."""
    num_tokens, size = gate_TF.shape
    out_TF = gate_TF.new_empty((num_tokens, size))
    block = min(triton.next_power_of_2(size), 4096)
    _gate_kernel[(num_tokens, triton.cdiv(size, block))](
        gate_TF, up_TF, out_TF, size, gate_TF.stride(0), up_TF.stride(0), BLOCK=block, num_warps=8
    )
    return out_TF


def rotate(x_THD: Tensor, positions_T: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> Tensor:
    """Rotate queries or keys in place; heads must be dense, tokens may be strided."""
    num_tokens, num_heads, size = x_THD.shape
    _rotate_kernel[(num_tokens,)](
        x_THD,
        positions_T,
        cos_LD,
        sin_LD,
        x_THD.stride(0),
        num_heads,
        HALF=size // 2,
        BLOCK_H=triton.next_power_of_2(num_heads),
        num_warps=4,
    )
    return x_THD


def store(x_TGD: Tensor, slots_T: Tensor, cache_SGD: Tensor, scales_SG: Any = None) -> None:
    """Write rows to their slots, as they are or as float8 with a scale for each head."""
    num_tokens, num_heads, size = x_TGD.shape
    _store_kernel[(num_tokens,)](
        x_TGD,
        slots_T,
        cache_SGD,
        cache_SGD if scales_SG is None else scales_SG,
        x_TGD.stride(0),
        num_heads,
        QUANTISED=scales_SG is not None,
        LARGEST=FLOAT8_MAX,
        SIZE=size,
        BLOCK_H=triton.next_power_of_2(num_heads),
        num_warps=4,
    )
