"""Computes what stands between the matrix products: norms, rotation, the gate, writing to a cache.

`PlainElementwise` is plain PyTorch, the oracle; `FusedElementwise` of ``triton/elementwise.py`` are
kernels for CUDA, which round in the same places.
Shape suffixes: T tokens, M hidden size, H heads, G key/value heads, D head size, F MLP size,
K channels.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opencompass_llada.inference.kv_cache import LayerCache, quantise
from opencompass_llada.networks.experts import PLAIN_STEPS, ExpertSteps
from opencompass_llada.networks.transformer import Rotation
from opencompass_llada.rope.rotation import apply_rotary


class Rows(NamedTuple):
    """Inputs of a product in float8, each row with its scale."""

    values_TK: Tensor
    """e4m3."""
    scales_T: Tensor
    """float32."""
    dtype: torch.dtype
    """What the product of them is in."""

    def split(self, size: int) -> list[Rows]:
        """Return views of so many rows each, the last of what is left."""
        parts = zip(self.values_TK.split(size), self.scales_T.split(size), strict=True)
        return [Rows(*part, self.dtype) for part in parts]


class PlainElementwise:
    """The operations; each may write to its first argument and returns what to use."""

    experts: ExpertSteps = PLAIN_STEPS

    def add_norm(
        self, x_TM: Tensor, delta_TM: Tensor | None, norm: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return ``x + delta`` (``x`` without one) and its norm."""
        if delta_TM is not None:
            x_TM = x_TM + delta_TM
        return x_TM, norm(x_TM)

    def add_norm_rows(
        self, x_TM: Tensor, delta_TM: Tensor | None, norm: nn.Module
    ) -> tuple[Tensor, Rows]:
        """Return what `add_norm` does, the norm as float8 rows."""
        x_TM, h_TM = self.add_norm(x_TM, delta_TM, norm)
        return x_TM, Rows(*quantise(h_TM), x_TM.dtype)

    def head_norm(self, x_THD: Tensor, norm: nn.Module) -> Tensor:
        """Return the norm of each head of queries or keys."""
        return norm(x_THD)

    def gate(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        """Return ``silu(gate) * up``."""
        return F.silu(gate_TF) * up_TF

    def gate_rows(self, gate_TF: Tensor, up_TF: Tensor) -> Rows:
        """Return what `gate` does as float8 rows."""
        return Rows(*quantise(self.gate(gate_TF, up_TF)), gate_TF.dtype)

    def rotate(self, x_THD: Tensor, positions_T: Tensor, rotation: Rotation) -> Tensor:
        """Rotate queries or keys to their positions in tables [L, D]."""
        cos_LD, sin_LD = rotation
        return apply_rotary(x_THD, cos_LD[positions_T][:, None], sin_LD[positions_T][:, None])

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
        """Rotate queries, if any, and keys; write keys and values to a layer's slots, if any."""
        if q_THD is not None:
            q_THD = self.rotate(q_THD, positions_T, rotation)
        k_TGD = self.rotate(k_TGD, positions_T, rotation)
        if layer is not None:
            assert slots_T is not None, "what is cached has slots"
            layer.write(slots_T, k_TGD, v_TGD)
        return q_THD, k_TGD


def kernels_fit(device: torch.device, head_dim: int) -> str | None:
    """Return why the Triton kernels cannot be used, or None if they can."""
    if device.type != "cuda":
        return f"the device is {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if head_dim & (head_dim - 1) or not 16 <= head_dim <= 256:
        return f"the head size {head_dim} is no power of two from 16 to 256"
    return None
