"""Runs a Triton kernel for products of few tokens with float8 weights, which reading these bounds.

Weights are widened to the inputs' dtype in registers, and sums are float32. What is computed is the
transposed product, whose left factor the weights are: Hopper's warp group products take that one
from registers, and hold all tokens at once. Few channels are split along the inputs, too, so that
all of the card reads; the program of a tile that ends last adds the parts, always in the same
order. No tiling changes the order of a sum, so that the same card gives the same numbers in every
run.
Shape suffixes: T tokens, K input channels, N output channels, I tiles of output channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from opencompass_llada.inference.tilings import CHANNEL_TILE, SMALL_PRODUCT

_INPUT_TILE = 256
"""Splits of the inputs are multiples of this, and so of every tile."""

_INPUTS, _WARPS = 128, 4
"""Inputs of a tile of `CHANNEL_TILE` channels, and warps: of ten tilings the fastest for all
products of LLaDA-8B and 32 tokens on an H200 (docs/experiments/inference_speed.md)."""


@triton.jit(do_not_specialize=["num_tokens"])
def multiply_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    parts_ptr,
    arrivals_ptr,
    num_tokens,
    num_channels,
    num_inputs,
    num_inputs_of_split,
    x_stride,
    SPLITS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Multiply a tile of channels with all tokens, at most as many as a tile holds."""
    tile = tl.program_id(0)
    split = tl.program_id(1)
    channels = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    tokens = tl.arange(0, BLOCK_T)
    inputs = tl.arange(0, BLOCK_K)
    rows = (channels % num_channels).to(tl.int64)
    w_place = weight_ptr + rows[:, None] * num_inputs + inputs[None, :]
    x_place = x_ptr + (tokens % num_tokens)[:, None] * x_stride + inputs[None, :]
    first = split * num_inputs_of_split
    end = tl.minimum(first + num_inputs_of_split, num_inputs)
    total = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    for place in range(first, end, BLOCK_K):
        if WHOLE:
            x = tl.load(x_place + place)
            w = tl.load(w_place + place)
        else:
            inside = place + inputs < num_inputs
            x = tl.load(x_place + place, mask=inside[None, :], other=0.0)
            w = tl.load(w_place + place, mask=inside[None, :], other=0.0)
        # By float32, since Hopper's own conversion from float16 to bfloat16 is slow.
        w = w.to(tl.float32).to(x.dtype)
        total = tl.dot(w, tl.trans(x), total, input_precision="ieee")
    places = tokens[None, :] * num_channels + channels[:, None]
    keep = (tokens < num_tokens)[None, :] & (channels < num_channels)[:, None]
    ends = True
    if SPLITS > 1:
        size = num_tokens.to(tl.int64) * num_channels
        tl.store(parts_ptr + split * size + places, total, mask=keep)
        tl.debug_barrier()  # all threads have written before one says so
        ends = tl.atomic_add(arrivals_ptr + tile, 1, sem="acq_rel") == SPLITS - 1
    if ends:
        if SPLITS > 1:
            total = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
            for part in range(SPLITS):
                part_ptr = parts_ptr + part * size
                total += tl.load(part_ptr + places, mask=keep, other=0.0, cache_modifier=".cg")
            tl.store(arrivals_ptr + tile, 0)
        kind = out_ptr.dtype.element_ty
        scales = tl.load(scales_ptr + channels, mask=channels < num_channels, other=0.0)
        out = (total * scales[:, None]).to(kind)
        if HAS_BIAS:
            bias = tl.load(bias_ptr + channels, mask=channels < num_channels, other=0.0)
            out = (out.to(tl.float32) + bias.to(tl.float32)[:, None]).to(kind)
        tl.store(out_ptr + places, out, mask=keep)


def multiply_few(
    x_TK: Tensor,
    weight_NK: Tensor,
    scales_N: Tensor,
    bias_N: Tensor | None,
    arrivals_I: Tensor,
    *,
    tiling: tuple[int, int] | None = None,
    out_TN: Tensor | None = None,
) -> Tensor:
    """Return inputs, not rounded, times float8 weights, [T, N], in the inputs' dtype.

    Args:
        x_TK: At most `SMALL_PRODUCT` tokens; channels dense, tokens may be strided.
        weight_NK: e4m3, contiguous.
        scales_N: Of each output channel, float32.
        bias_N: Added after rounding.
        arrivals_I: int32 zeros, one for each `CHANNEL_TILE` output channels, which are zeros again
            afterwards; products that may run at once have their own.
        tiling: Channels and inputs of a tile, if others than usual.
        out_TN: Where to write the product, dense; None allocates it.
    """
    (num_tokens, num_inputs), num_channels = x_TK.shape, weight_NK.shape[0]
    assert 0 < num_tokens <= SMALL_PRODUCT, num_tokens
    assert x_TK.stride(1) == 1, x_TK.stride()
    assert weight_NK.is_contiguous(), weight_NK.stride()
    if out_TN is None:
        out_TN = x_TK.new_empty((num_tokens, num_channels))
    assert out_TN.is_contiguous(), out_TN.stride()
    assert len(arrivals_I) * CHANNEL_TILE >= num_channels, (len(arrivals_I), num_channels)
    splits, of_split = _split(num_channels, num_inputs, _processors(x_TK.device))
    parts = out_TN  # not touched where nothing is split
    if splits > 1:
        parts = x_TK.new_empty((splits, num_tokens, num_channels), dtype=torch.float32)
    channels, inputs = tiling or (CHANNEL_TILE, _INPUTS)
    multiply_kernel[(triton.cdiv(num_channels, channels), splits)](
        x_TK,
        weight_NK,
        scales_N,
        scales_N if bias_N is None else bias_N,
        out_TN,
        parts,
        arrivals_I,
        num_tokens,
        num_channels,
        num_inputs,
        of_split,
        x_TK.stride(0),
        SPLITS=splits,
        HAS_BIAS=bias_N is not None,
        WHOLE=num_inputs % _INPUT_TILE == 0,
        BLOCK_T=max(16, triton.next_power_of_2(num_tokens)),
        BLOCK_N=channels,
        BLOCK_K=inputs,
        num_warps=_WARPS,
        # Three programs share a processor, so that the most that there are run at once.
        num_stages=4 if num_tokens <= 32 else 3,
    )
    return out_TN


def _split(num_channels: int, num_inputs: int, processors: int) -> tuple[int, int]:
    """Return in how many parts inputs are split, and the inputs of one, for a card's processors.

    A power of two, so that tiles of 64 channels are programs for 1.9 times the processors: of 132,
    4,096 channels are split in 4 and 12,288 in 2. More parts cost more to add than they gain.
    """
    tiles, splits = triton.cdiv(num_channels, CHANNEL_TILE), 1
    pieces = triton.cdiv(num_inputs, _INPUT_TILE)
    while tiles * splits < 1.9 * processors and 4 * splits <= pieces:
        splits *= 2
    of_split = triton.cdiv(pieces, splits) * _INPUT_TILE
    return triton.cdiv(num_inputs, of_split), of_split


def _processors(device: torch.device) -> int:
    """Return a card's processors; one elsewhere, where Triton's interpreter runs."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
