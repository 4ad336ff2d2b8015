"""What stands between the matrix products: norms, rotation, the gate, writing to a cache.

Two implementations of one interface: plain PyTorch, which is the oracle and runs everywhere, and
Triton kernels for CUDA (``kernels.py``), which round in the same places. `choose_elementwise`
picks one and logs why.

Shape suffixes: T tokens, M hidden size, H heads, G key/value heads, D head size, F MLP size.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opencompass_llada.inference.kv_cache import LayerCache
from opencompass_llada.logs import get_logger
from opencompass_llada.networks.transformer import RMSNorm, Rotation
from opencompass_llada.rope.frequencies import apply_rotary

logger = get_logger(__name__)


class Elementwise(Protocol):
    """The operations; every method may write to its first argument and returns what to use."""

    def add_norm(
        self, x_TM: Tensor, delta_TM: Tensor | None, norm: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return ``x + delta`` (``x`` without one) and its norm."""
        ...

    def gate(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        """Return ``silu(gate) * up``."""
        ...

    def rotate(self, x_THD: Tensor, positions_T: Tensor, rotation: Rotation) -> Tensor:
        """Rotate queries or keys to their positions in tables [L, D]."""
        ...

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
        """Rotate queries and keys of the same tokens, and keep keys and values in a layer's slots.

        Without a layer nothing is kept; without queries the rest is done alone.
        """
        ...


class PlainElementwise:
    """Plain PyTorch, with the network's own functions."""

    def add_norm(
        self, x_TM: Tensor, delta_TM: Tensor | None, norm: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Add and normalise; see `Elementwise`."""
        if delta_TM is not None:
            x_TM = x_TM + delta_TM
        return x_TM, norm(x_TM)

    def gate(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        """Gate; see `Elementwise`."""
        return F.silu(gate_TF) * up_TF

    def rotate(self, x_THD: Tensor, positions_T: Tensor, rotation: Rotation) -> Tensor:
        """Rotate; see `Elementwise`."""
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
        """Rotate and keep; see `Elementwise`."""
        if q_THD is not None:
            q_THD = self.rotate(q_THD, positions_T, rotation)
        k_TGD = self.rotate(k_TGD, positions_T, rotation)
        if layer is not None:
            assert slots_T is not None, "what is kept has slots"
            layer.write(slots_T, k_TGD, v_TGD)
        return q_THD, k_TGD


class FusedElementwise:
    """Triton kernels; needs head sizes that are powers of two."""

    def add_norm(
        self, x_TM: Tensor, delta_TM: Tensor | None, norm: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Add in place and normalise; see `Elementwise`."""
        from opencompass_llada.inference.triton import elementwise as kernels

        assert isinstance(norm, RMSNorm), f"the kernel is RMSNorm's, got {type(norm).__name__}"
        return kernels.add_norm(x_TM, delta_TM, norm.weight, norm.eps)

    def gate(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        """Gate; see `Elementwise`."""
        from opencompass_llada.inference.triton import elementwise as kernels

        return kernels.gate(gate_TF, up_TF)

    def rotate(self, x_THD: Tensor, positions_T: Tensor, rotation: Rotation) -> Tensor:
        """Rotate in place; see `Elementwise`."""
        from opencompass_llada.inference.triton import elementwise as kernels

        return kernels.rotate(x_THD, positions_T, *rotation)

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
        """Rotate in place and keep, in one launch; see `Elementwise`."""
        from opencompass_llada.inference.triton import elementwise as kernels

        kernels.place(q_THD, k_TGD, v_TGD, positions_T, *rotation, layer, slots_T)
        return q_THD, k_TGD


def kernels_fit(device: torch.device, head_dim: int) -> str | None:
    """Return why the Triton kernels cannot be used, or None if they can.

    Args:
        device: Where the network runs.
        head_dim: Head size.
    """
    if device.type != "cuda":
        return f"the device is {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if head_dim & (head_dim - 1) or not 16 <= head_dim <= 256:
        return f"the head size {head_dim} is no power of two from 16 to 256"
    return None


@functools.cache
def choose_elementwise(device: torch.device, head_dim: int) -> Elementwise:
    """Return the fused kernels where they can run, else plain PyTorch; the choice is logged.

    Args:
        device: Where the network runs.
        head_dim: Head size.
    """
    obstacle = kernels_fit(device, head_dim)
    if obstacle is None:
        logger.info("Norms, rotation and gate: fused Triton kernels on %s", device)
        return FusedElementwise()
    logger.info("Norms, rotation and gate: plain PyTorch, because %s", obstacle)
    return PlainElementwise()
