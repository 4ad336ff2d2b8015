"""Runs Triton kernels for what stands between the matrix products of a pass.

Each rounds where the plain network rounds (after the norm, after SiLU, after each addition), so
that it gives the same numbers but for the order of a sum.
Shape suffixes: T tokens, M hidden size, H heads, D head size, F MLP size, K channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from opencompass_llada.inference.elementwise import PlainElementwise, Rows
from opencompass_llada.inference.kv_cache import FLOAT8, FLOAT8_MAX, LayerCache
from opencompass_llada.networks.transformer import RMSNorm, Rotation


@triton.jit
def _store_float8(values, out_ptr, scale_ptr, keep, LARGEST: tl.constexpr):
    """Write a row, zeros where it is not kept, as float8 with its scale."""
    scale = tl.maximum(tl.max(tl.abs(values), axis=0) / LARGEST, 1e-30)
    tl.store(scale_ptr, scale)
    tl.store(out_ptr, (values / scale).to(out_ptr.dtype.element_ty), mask=keep)


@triton.jit
def _add_norm_kernel(
    x_ptr,
    delta_ptr,
    weight_ptr,
    sum_ptr,
    out_ptr,
    scales_ptr,
    size,
    eps,
    HAS_DELTA: tl.constexpr,
    QUANTISED: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * size
    cols = tl.arange(0, BLOCK)
    keep = cols < size
    kind = x_ptr.dtype.element_ty
    x = tl.load(x_ptr + row + cols, mask=keep, other=0.0).to(tl.float32)
    if HAS_DELTA:
        delta = tl.load(delta_ptr + row + cols, mask=keep, other=0.0).to(tl.float32)
        rounded = (x + delta).to(kind)
        tl.store(sum_ptr + row + cols, rounded, mask=keep)
        x = rounded.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / size + eps)
    normed = (x * scale).to(kind).to(tl.float32)
    weight = tl.load(weight_ptr + cols, mask=keep, other=0.0).to(tl.float32)
    out = (weight * normed).to(kind)
    if QUANTISED:
        _store_float8(out.to(tl.float32), out_ptr + row + cols, scales_ptr + tl.program_id(0), keep,
                      LARGEST)  # fmt: skip
    else:
        tl.store(out_ptr + row + cols, out, mask=keep)


@triton.jit
def _gated(gate, up):
    """Return ``silu(gate) * up``, rounded twice to the type of both."""
    kind = gate.dtype
    gate = gate.to(tl.float32)
    silu = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
    return (silu * up.to(tl.float32)).to(kind)


@triton.jit
def _gate_kernel(
    gate_ptr, up_ptr, out_ptr, num_rows, size, gate_stride, up_stride, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    keep = (rows < num_rows) & (cols < size)
    gate = tl.load(gate_ptr + rows * gate_stride + cols, mask=keep, other=0.0)
    up = tl.load(up_ptr + rows * up_stride + cols, mask=keep, other=0.0)
    tl.store(out_ptr + rows * size + cols, _gated(gate, up), mask=keep)


@triton.jit
def _gate_rows_kernel(
    gate_ptr, up_ptr, out_ptr, scales_ptr, size, gate_stride, up_stride, LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    keep = cols < size
    gate = tl.load(gate_ptr + row * gate_stride + cols, mask=keep, other=0.0)
    up = tl.load(up_ptr + row * up_stride + cols, mask=keep, other=0.0)
    gated = _gated(gate, up).to(tl.float32)
    _store_float8(gated, out_ptr + row * size + cols, scales_ptr + row, keep, LARGEST)


def gate_over(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """Return ``silu(gate) * up``, contiguous; tokens may be strided."""
    num_tokens, size = gate_TF.shape
    out_TF = gate_TF.new_empty((num_tokens, size))
    block = min(triton.next_power_of_2(size), 4096)
    # Narrow rows share a program, as long as enough programs are left for the card.
    rows = min(4096 // block, triton.next_power_of_2(max(1, num_tokens // 1024)))
    strides = gate_TF.stride(0), up_TF.stride(0)
    _gate_kernel[(triton.cdiv(num_tokens, rows), triton.cdiv(size, block))](
        gate_TF, up_TF, out_TF, num_tokens, size, *strides, ROWS=rows, BLOCK=block, num_warps=8
    )
    return out_TF


@triton.jit
def _rotated(x_ptr, row, num_heads, cos, sin, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """Return both halves of a token's heads, rotated and rounded to the tensor's type."""
    heads = tl.arange(0, BLOCK)
    keep = (heads < num_heads)[:, None]
    place = x_ptr + row + heads[:, None] * (2 * HALF) + tl.arange(0, HALF)[None, :]
    kind = x_ptr.dtype.element_ty
    first = tl.load(place, mask=keep, other=0.0).to(tl.float32)
    second = tl.load(place + HALF, mask=keep, other=0.0).to(tl.float32)
    rotated_first = (first * cos - second * sin).to(kind)
    rotated_second = (second * cos + first * sin).to(kind)
    tl.store(place, rotated_first, mask=keep)
    tl.store(place + HALF, rotated_second, mask=keep)
    return rotated_first, rotated_second


@triton.jit
def _keep_halves(
    first,
    second,
    slot,
    cache_ptr,
    scales_ptr,
    num_heads,
    QUANTISED: tl.constexpr,
    LARGEST: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write both halves of a token's heads to its slot, as they are or as float8 with scales."""
    heads = tl.arange(0, BLOCK)
    keep = (heads < num_heads)[:, None]
    base = cache_ptr + slot * num_heads * (2 * HALF)
    target = base + heads[:, None] * (2 * HALF) + tl.arange(0, HALF)[None, :]
    if QUANTISED:
        wide_first, wide_second = first.to(tl.float32), second.to(tl.float32)
        largest = tl.maximum(
            tl.max(tl.abs(wide_first), axis=1), tl.max(tl.abs(wide_second), axis=1)
        )
        scale = tl.maximum(largest / LARGEST, 1e-30)
        tl.store(scales_ptr + slot * num_heads + heads, scale, mask=heads < num_heads)
        first = (wide_first / scale[:, None]).to(cache_ptr.dtype.element_ty)
        second = (wide_second / scale[:, None]).to(cache_ptr.dtype.element_ty)
    tl.store(target, first, mask=keep)
    tl.store(target + HALF, second, mask=keep)


@triton.jit
def _place_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    positions_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    keys_ptr,
    values_ptr,
    key_scales_ptr,
    value_scales_ptr,
    q_stride,
    k_stride,
    v_stride,
    num_heads,
    num_groups,
    FIRST_PART: tl.constexpr,
    KEEP: tl.constexpr,
    QUANTISED: tl.constexpr,
    LARGEST: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1) + FIRST_PART
    dims = tl.arange(0, HALF)
    table = tl.load(positions_ptr + token).to(tl.int64) * (2 * HALF)
    cos = tl.load(cos_ptr + table + dims)[None, :]
    sin = tl.load(sin_ptr + table + dims)[None, :]
    slot = token
    if KEEP:
        slot = tl.load(slots_ptr + token).to(tl.int64)
    if part == 0:
        _rotated(q_ptr, token * q_stride, num_heads, cos, sin, HALF, BLOCK_H)
    elif part == 1:
        first, second = _rotated(k_ptr, token * k_stride, num_groups, cos, sin, HALF, BLOCK_G)
        if KEEP:
            _keep_halves(first, second, slot, keys_ptr, key_scales_ptr, num_groups,
                         QUANTISED, LARGEST, HALF, BLOCK_G)  # fmt: skip
    else:
        heads = tl.arange(0, BLOCK_G)
        keep = (heads < num_groups)[:, None]
        place = v_ptr + token * v_stride + heads[:, None] * (2 * HALF) + dims[None, :]
        first = tl.load(place, mask=keep, other=0.0)
        second = tl.load(place + HALF, mask=keep, other=0.0)
        if KEEP:
            _keep_halves(first, second, slot, values_ptr, value_scales_ptr, num_groups,
                         QUANTISED, LARGEST, HALF, BLOCK_G)  # fmt: skip


def _add_norm(
    x_TM: Tensor,
    delta_TM: Tensor | None,
    norm: nn.Module,
    out_TM: Tensor,
    scales_T: Tensor | None,
) -> None:
    """Add in place, if there is a delta, and write the norm, quantised if there are scales."""
    assert isinstance(norm, RMSNorm), f"the kernel is RMSNorm's, got {type(norm).__name__}"
    num_tokens, size = x_TM.shape
    block = triton.next_power_of_2(size)
    _add_norm_kernel[(num_tokens,)](
        x_TM,
        x_TM if delta_TM is None else delta_TM,
        norm.weight,
        x_TM,
        out_TM,
        out_TM if scales_T is None else scales_T,
        size,
        norm.eps,
        HAS_DELTA=delta_TM is not None,
        QUANTISED=scales_T is not None,
        LARGEST=FLOAT8_MAX,
        BLOCK=block,
        num_warps=_warps(block),
    )


def _empty_rows(x_TK: Tensor) -> Rows:
    values_TK = torch.empty(x_TK.shape, dtype=FLOAT8, device=x_TK.device)
    scales_T = torch.empty(len(x_TK), dtype=torch.float32, device=x_TK.device)
    return Rows(values_TK, scales_T, x_TK.dtype)


def _warps(block: int) -> int:
    """Return the warps of a program that holds so much of a row."""
    return 16 if block > 8192 else 8 if block >= 4096 else 4


class FusedElementwise(PlainElementwise):
    """The kernels, which write in place; heads must be dense, tokens may be strided."""

    def add_norm(
        self, x_TM: Tensor, delta_TM: Tensor | None, norm: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Add in place, if there is a delta, and normalise."""
        out_TM = torch.empty_like(x_TM)
        _add_norm(x_TM, delta_TM, norm, out_TM, None)
        return x_TM, out_TM

    def add_norm_rows(
        self, x_TM: Tensor, delta_TM: Tensor | None, norm: nn.Module
    ) -> tuple[Tensor, Rows]:
        """Add in place, if there is a delta; normalise and quantise in one launch."""
        rows = _empty_rows(x_TM)
        _add_norm(x_TM, delta_TM, norm, rows.values_TK, rows.scales_T)
        return x_TM, rows

    def head_norm(self, x_THD: Tensor, norm: nn.Module) -> Tensor:
        """Normalise; the result is contiguous."""
        x_TD = x_THD.contiguous().view(-1, x_THD.shape[-1])
        return self.add_norm(x_TD, None, norm)[1].view(x_THD.shape)

    def gate(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        """Gate; the result is contiguous."""
        return gate_over(gate_TF, up_TF)

    def gate_rows(self, gate_TF: Tensor, up_TF: Tensor) -> Rows:
        """Gate and quantise in one launch."""
        rows, size = _empty_rows(gate_TF), gate_TF.shape[1]
        block = triton.next_power_of_2(size)
        _gate_rows_kernel[(len(gate_TF),)](
            gate_TF, up_TF, rows.values_TK, rows.scales_T, size, gate_TF.stride(0),
            up_TF.stride(0), LARGEST=FLOAT8_MAX, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
        return rows

    def rotate(self, x_THD: Tensor, positions_T: Tensor, rotation: Rotation) -> Tensor:
        """Rotate in place."""
        return self.place(None, x_THD, x_THD, positions_T, rotation, None, None)[1]

    def place(
        self,
        q_THD: Tensor | None,
        k_TGD: Tensor,
        v_TGD: Tensor,
        positions_T: Tensor,
        rotation: Rotation,
        layer: LayerCache | None,
        slots_T: Tensor | None,
    ) -> tuple[Tensor | None, Tensor]:
        """Rotate in place and write to the slots, in one launch."""
        num_tokens, num_groups, size = k_TGD.shape
        first_part = 1 if q_THD is None else 0
        rotated = k_TGD if q_THD is None else q_THD
        num_heads = rotated.shape[1]
        stored = (slots_T, *(layer or [None] * 4))
        # The kernel takes a tensor even where it reads and writes none.
        tensors = [positions_T if tensor is None else tensor for tensor in stored]
        _place_kernel[(num_tokens, (2 if layer is None else 3) - first_part)](
            rotated,
            k_TGD,
            v_TGD,
            positions_T,
            *rotation,
            *tensors,
            rotated.stride(0),
            k_TGD.stride(0),
            v_TGD.stride(0),
            num_heads,
            num_groups,
            FIRST_PART=first_part,
            KEEP=layer is not None,
            QUANTISED=layer is not None and layer.key_scales_SG is not None,
            LARGEST=FLOAT8_MAX,
            HALF=size // 2,
            BLOCK_H=triton.next_power_of_2(num_heads),
            BLOCK_G=triton.next_power_of_2(num_groups),
            num_warps=4,
        )
        return q_THD, k_TGD


class PartlyFused(FusedElementwise):
    """The kernels but for rotation, where RoPE turns only a part of each head."""

    rotate = PlainElementwise.rotate
    place = PlainElementwise.place
