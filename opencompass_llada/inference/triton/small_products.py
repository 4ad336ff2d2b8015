"""Runs a Triton kernel for products of few tokens with float8 weights, which reading these bounds.

Weights are widened to the inputs' dtype in registers, and sums are float32. Few channels are split
along the inputs, too, so that all of the card reads; the program of a tile that ends last adds the
parts, always in the same order. No tiling changes the order of a sum, so that the same card gives
the same numbers in every run.
Shape suffixes: T tokens, K input channels, N output channels, I tiles of output channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.testing import do_bench

from opencompass_llada.inference.tilings import CHANNEL_TILE, SMALL_PRODUCT

_INPUT_TILE = 256
"""Splits of the inputs are multiples of this, and so of every tile."""

#: Output channels and inputs of a tile, warps and stages. The fewer warps share channels, the less
#: often inputs are read from shared memory.
_TILINGS = (
    *((64, 128, 2, 4), (64, 256, 2, 4), (128, 128, 2, 4)),
    *((128, 128, 4, 4), (128, 256, 4, 3), (256, 128, 4, 4)),
)


@triton.jit
def _finish(
    total, out_ptr, bias_ptr, scales, tokens, channels, num_tokens, num_channels,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Scale and round a tile of sums, then add the bias."""
    kind = out_ptr.dtype.element_ty
    inside = channels < num_channels
    out = (total * scales[None, :]).to(kind)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channels, mask=inside, other=0.0)
        out = (out.to(tl.float32) + bias.to(tl.float32)[None, :]).to(kind)
    places = tokens.to(tl.int64)[:, None] * num_channels + channels[None, :]
    tl.store(out_ptr + places, out, mask=(tokens < num_tokens)[:, None] & inside[None, :])


@triton.jit
def _sum_parts(
    parts_ptr, tokens, channels, num_tokens, num_channels, SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Add what the splits of a tile wrote, first to last."""
    places = tokens.to(tl.int64)[:, None] * num_channels + channels[None, :]
    keep = (tokens < num_tokens)[:, None] & (channels < num_channels)[None, :]
    total = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    for split in tl.static_range(SPLITS):
        part_ptr = parts_ptr + split * num_tokens.to(tl.int64) * num_channels
        total += tl.load(part_ptr + places, mask=keep, other=0.0, cache_modifier=".cg")
    return total


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
    HALVES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Multiply all tokens, at most as many as one or two tiles hold, with a tile of channels.

    Two tiles of tokens share what is read of the weights; one of 64 rows would be given to
    Hopper's larger products, whose weights cannot come from registers.
    """
    tile = tl.program_id(0)
    split = tl.program_id(1)
    channels = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    tokens = tl.arange(0, BLOCK_T)
    inputs = tl.arange(0, BLOCK_K)
    rows = (channels % num_channels).to(tl.int64)
    w_place = weight_ptr + rows[None, :] * num_inputs + inputs[:, None]
    x_place = x_ptr + (tokens % num_tokens)[:, None] * x_stride + inputs[None, :]
    more_place = x_ptr + ((BLOCK_T + tokens) % num_tokens)[:, None] * x_stride + inputs[None, :]
    first = split * num_inputs_of_split
    end = tl.minimum(first + num_inputs_of_split, num_inputs)
    total = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    more = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    for place in range(first, end, BLOCK_K):
        if WHOLE:
            x = tl.load(x_place + place)
            w = tl.load(w_place + place)
        else:
            inside = place + inputs < num_inputs
            x = tl.load(x_place + place, mask=inside[None, :], other=0.0)
            w = tl.load(w_place + place, mask=inside[:, None], other=0.0)
        # By float32, since Hopper's own conversion from float16 to bfloat16 is slow.
        w = w.to(tl.float32).to(x.dtype)
        total = tl.dot(x, w, total, input_precision="ieee")
        if HALVES == 2:
            if WHOLE:
                x = tl.load(more_place + place)
            else:
                x = tl.load(more_place + place, mask=inside[None, :], other=0.0)
            more = tl.dot(x, w, more, input_precision="ieee")
    scales = tl.load(scales_ptr + channels, mask=channels < num_channels, other=0.0)
    if SPLITS == 1:
        _finish(total, out_ptr, bias_ptr, scales, tokens, channels, num_tokens, num_channels,
                HAS_BIAS)  # fmt: skip
        if HALVES == 2:
            _finish(more, out_ptr, bias_ptr, scales, BLOCK_T + tokens, channels, num_tokens,
                    num_channels, HAS_BIAS)  # fmt: skip
    else:
        inside = channels < num_channels
        part_ptr = parts_ptr + split * num_tokens.to(tl.int64) * num_channels
        places = tokens.to(tl.int64)[:, None] * num_channels + channels[None, :]
        tl.store(part_ptr + places, total, mask=(tokens < num_tokens)[:, None] & inside[None, :])
        if HALVES == 2:
            later = BLOCK_T + tokens
            places = later.to(tl.int64)[:, None] * num_channels + channels[None, :]
            tl.store(part_ptr + places, more, mask=(later < num_tokens)[:, None] & inside[None, :])
        tl.debug_barrier()  # all threads have written before one says so
        arrived = tl.atomic_add(arrivals_ptr + tile, 1, sem="acq_rel")
        if arrived == SPLITS - 1:
            total = _sum_parts(parts_ptr, tokens, channels, num_tokens, num_channels, SPLITS,
                               BLOCK_T, BLOCK_N)  # fmt: skip
            _finish(total, out_ptr, bias_ptr, scales, tokens, channels, num_tokens, num_channels,
                    HAS_BIAS)  # fmt: skip
            if HALVES == 2:
                later = BLOCK_T + tokens
                more = _sum_parts(parts_ptr, later, channels, num_tokens, num_channels, SPLITS,
                                  BLOCK_T, BLOCK_N)  # fmt: skip
                _finish(more, out_ptr, bias_ptr, scales, later, channels, num_tokens,
                        num_channels, HAS_BIAS)  # fmt: skip
            tl.store(arrivals_ptr + tile, 0)


_tuned_kernel = triton.autotune(
    configs=[
        triton.Config({"BLOCK_N": channels, "BLOCK_K": inputs}, num_warps=warps, num_stages=stages)
        for channels, inputs, warps, stages in _TILINGS
    ],
    key=["num_channels", "num_inputs", "BLOCK_T", "HALVES", "SPLITS"],
    do_bench=lambda call, quantiles: do_bench(call, warmup=5, rep=20, quantiles=quantiles),
)(multiply_kernel)


def multiply_few(
    x_TK: Tensor,
    weight_NK: Tensor,
    scales_N: Tensor,
    bias_N: Tensor | None,
    arrivals_I: Tensor,
    *,
    tiling: tuple[int, int] | None = None,
) -> Tensor:
    """Return inputs, not rounded, times float8 weights, [T, N], in the inputs' dtype.

    Args:
        x_TK: At most `SMALL_PRODUCT` tokens; channels dense, tokens may be strided.
        weight_NK: e4m3, contiguous.
        scales_N: Of each output channel, float32.
        bias_N: Added after rounding.
        arrivals_I: int32 zeros, one for each `CHANNEL_TILE` output channels, which are zeros again
            afterwards; products that may run at once have their own.
        tiling: Channels and inputs of a tile; None tunes them on the first call for a shape.
    """
    (num_tokens, num_inputs), num_channels = x_TK.shape, weight_NK.shape[0]
    assert 0 < num_tokens <= SMALL_PRODUCT, num_tokens
    assert x_TK.stride(1) == 1, x_TK.stride()
    assert weight_NK.is_contiguous(), weight_NK.stride()
    out_TN = x_TK.new_empty((num_tokens, num_channels))
    assert len(arrivals_I) * CHANNEL_TILE >= num_channels, (len(arrivals_I), num_channels)
    splits, of_split = _split(num_channels, num_inputs, _processors(x_TK.device))
    parts = out_TN  # not touched where nothing is split
    if splits > 1:
        parts = x_TK.new_empty((splits, num_tokens, num_channels), dtype=torch.float32)
    options = {} if tiling is None else dict(zip(("BLOCK_N", "BLOCK_K"), tiling, strict=True))
    kernel = multiply_kernel if options else _tuned_kernel
    kernel[lambda given: (triton.cdiv(num_channels, given["BLOCK_N"]), splits)](
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
        HALVES=2 if num_tokens > 32 else 1,
        BLOCK_T=16 if num_tokens <= 16 else 32,
        **options,
    )
    return out_TN


def _split(num_channels: int, num_inputs: int, processors: int) -> tuple[int, int]:
    """Return in how many parts inputs are split, and the inputs of one, for a card's processors.

    A power of two, so that tiles of 128 channels are programs for four in five processors: of 132,
    4,096 channels are split in 4 and 12,288 in 2.
    """
    tiles, splits = triton.cdiv(num_channels, 128), 1
    pieces = triton.cdiv(num_inputs, _INPUT_TILE)
    while tiles * splits < 0.8 * processors and 4 * splits <= pieces:
        splits *= 2
    of_split = triton.cdiv(pieces, splits) * _INPUT_TILE
    return triton.cdiv(num_inputs, of_split), of_split


def _processors(device: torch.device) -> int:
    """Return a card's processors; one elsewhere, where Triton's interpreter runs."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
