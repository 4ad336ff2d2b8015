"""Stores float32 numbers in fewer bytes: in two exact halves, or rounded at random without bias.

Functions of plain tensors on any device; nothing here knows of optimisers. They work on the bits of
float32 with integers, which all devices do alike.

Formats:
    halves: a bfloat16 number, rounded to nearest, and 16 bits that complete it to the float32 one.
    bfloat16: rounded up or down at random, in proportion to what is cut off.
    8 bit: a block of numbers (the last dimension) shares a power of two, an exponent byte as in the
        OCP microscaling formats. A signed number has 1 sign bit, 4 of exponent and 3 of fraction; a
        number that is never negative has 5 of exponent and 3 of fraction. Rounded at random.

Shape suffixes: N blocks, B numbers of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HALF = 0x8000
#: The fraction bits of a float32 that 8 bits leave out, and where its exponent is 0.
_CUT, _BIAS = 20, 127
#: The exponent that stands for 1, by whether there is a sign.
_ONE = {True: 15, False: 31}


def split_float32(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bits of the nearest bfloat16 and those that complete it, both int16.

    Of two that are equally near it is the larger magnitude; `join_float32` gives the value back.
    """
    bits = value.view(torch.int32)
    high = (bits + _HALF) >> 16
    return high.to(torch.int16), (bits - (high << 16)).to(torch.int16)


def join_float32(high: Tensor, low: Tensor) -> Tensor:
    """Return the float32 numbers that `split_float32` split."""
    return ((high.to(torch.int32) << 16) + low.to(torch.int32)).view(torch.float32)


def random_bits(index: Tensor, key: Tensor) -> Tensor:
    """Return 32 random bits for each index under a key, all int32.

    Source: the integer hash lowbias32 (github.com/skeeto/hash-prospector). A function of the index,
    so that neither shards, chunks nor devices change the bits, and no generator has a state.
    """
    bits = index ^ key
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * (0x846CA68B - 2**32)
    return bits ^ ((bits >> 16) & 0xFFFF)


def round_to_bfloat16(value: Tensor, random: Tensor) -> Tensor:
    """Return the bits of a bfloat16 above or below, int16; ``random`` is int32 below 2**16."""
    return ((value.view(torch.int32) + random) >> 16).to(torch.int16)


def read_bfloat16(bits: Tensor) -> Tensor:
    """Return the float32 numbers of bfloat16's bits, given as int16."""
    return (bits.to(torch.int32) << 16).view(torch.float32)


def encode(value_NB: Tensor, random_NB: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Return the codes [N, B] and the blocks' exponents [N], uint8; ``random`` as in bfloat16's.

    What is below 2**-14 of the block's scale (2**-30 without sign) becomes that or 0, at random.
    """
    magnitude_NB = value_NB.abs() if signed else value_NB
    # The power of two above the largest, so that rounding up never leaves the format.
    exponent_N = (magnitude_NB.amax(-1).view(torch.int32) >> 23) + 1
    inverse_N = ((2 * _BIAS - exponent_N) << 23).view(torch.float32)
    scaled_NB = magnitude_NB * inverse_N.unsqueeze(-1)
    bits_NB = scaled_NB.view(torch.int32) + (random_NB << (_CUT - 16))
    one = _ONE[signed]
    code_NB = (bits_NB >> _CUT) - 8 * (_BIAS - one)
    lowest = 2.0 ** (1 - one)
    rounded_NB = 8 * (random_NB < scaled_NB * (65536 / lowest)).to(torch.int32)
    code_NB = torch.where(scaled_NB < lowest, rounded_NB, code_NB)
    if signed:
        code_NB = code_NB + 128 * (value_NB < 0).to(torch.int32)
    return code_NB.to(torch.uint8), exponent_N.to(torch.uint8)


def decode(code_NB: Tensor, exponent_N: Tensor, *, signed: bool) -> Tensor:
    """Return the float32 numbers [N, B] of what `encode` returned."""
    code_NB = code_NB.to(torch.int32)
    magnitude_NB = code_NB & 127 if signed else code_NB
    value_NB = ((magnitude_NB + 8 * (_BIAS - _ONE[signed])) << _CUT).view(torch.float32)
    scale_N = (exponent_N.to(torch.int32) << 23).view(torch.float32)
    value_NB = torch.where(magnitude_NB == 0, 0.0, value_NB * scale_N.unsqueeze(-1))
    return torch.where(code_NB >= 128, -value_NB, value_NB) if signed else value_NB
