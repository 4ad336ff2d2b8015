"""Stores keys and values of the tokens of a batch, in the network's dtype or in float8.

float8 is e4m3 with one float32 scale for each token and head (the largest magnitude over 448), so
that a value's error is at most 1/16 of itself, or 2^-10 x 448 scales near zero.
Shape suffixes: S slots, T tokens, G key/value heads, D head size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = 448.0
_SMALLEST_SCALE = 1e-30


class LayerCache(NamedTuple):
    """The rotated keys and the values of one layer; of float8 ones float32 scales, too."""

    keys_SGD: Tensor
    values_SGD: Tensor
    key_scales_SG: Tensor | None = None
    value_scales_SG: Tensor | None = None

    def write(self, slots_T: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> None:
        """Put rotated keys and values into their slots, int64 and distinct."""
        if self.key_scales_SG is None or self.value_scales_SG is None:
            self.keys_SGD[slots_T] = k_TGD
            self.values_SGD[slots_T] = v_TGD
            return
        self.keys_SGD[slots_T], self.key_scales_SG[slots_T] = quantise(k_TGD)
        self.values_SGD[slots_T], self.value_scales_SG[slots_T] = quantise(v_TGD)

    def read(self, first: int, end: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return keys and values of slots ``first`` to ``end`` in a dtype, [end - first, G, D]."""
        k_TGD, v_TGD = self.keys_SGD[first:end], self.values_SGD[first:end]
        if self.key_scales_SG is None or self.value_scales_SG is None:
            return k_TGD, v_TGD
        key_scales_TG, value_scales_TG = (
            self.key_scales_SG[first:end],
            self.value_scales_SG[first:end],
        )
        return dequantise(k_TGD, key_scales_TG, dtype), dequantise(v_TGD, value_scales_TG, dtype)


class KeyValueCache:
    """One `LayerCache` a layer, over a fixed number of slots."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_slots: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Take the memory of ``num_slots`` tokens and so many key/value heads."""
        self.num_slots, self.dtype = num_slots, dtype
        shape = (num_slots, num_heads, head_dim)

        def layer() -> LayerCache:
            stored = [torch.empty(shape, dtype=dtype, device=device) for _ in range(2)]
            if dtype != FLOAT8:
                return LayerCache(*stored)
            scales = [torch.ones(shape[:2], dtype=torch.float32, device=device) for _ in range(2)]
            return LayerCache(*stored, *scales)

        self.layers = [layer() for _ in range(num_layers)]


def quantise(x_TGD: Tensor) -> tuple[Tensor, Tensor]:
    """Return float8 values and their scales, float32 [T, G]."""
    x32_TGD = x_TGD.float()
    scales_TG = (x32_TGD.abs().amax(dim=-1) / FLOAT8_MAX).clamp(min=_SMALLEST_SCALE)
    return (x32_TGD / scales_TG[..., None]).to(FLOAT8), scales_TG


def dequantise(x_TGD: Tensor, scales_TG: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float8 values times their scales in another dtype."""
    return (x_TGD.float() * scales_TG[..., None]).to(dtype)
