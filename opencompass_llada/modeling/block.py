"""One transformer block and its parts: the arithmetic that the native networks share.

Pre-norm, RMSNorm, rotary positions, grouped heads, a gated SiLU MLP. Which keys a query sees is
decided by the ``attend`` that the caller gives; the tensors' published names by the subclass.

Shape suffixes: B batch, L positions (keys), P positions asked for (queries), M hidden size,
H query heads, G key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opencompass_llada.rope import apply_rotary

Rotation = tuple[Tensor, Tensor]
"""cos and sin, float32 [L, D], or [B, 1, P, D] where rows have positions of their own."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(queries_BHPD, keys_BGLD, values_BGLD) -> out_BHPD``; masks are bound in it."""


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, scaled in the input's dtype (as LLaDA's and Qwen2's)."""

    def __init__(self, size: int, eps: float) -> None:
        """Create the scale.

        Args:
            size: Channels.
            eps: Added to the mean square.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BLM: Tensor) -> Tensor:
        """Normalise the last dimension."""
        x32_BLM = x_BLM.float()
        scale_BL1 = torch.rsqrt(x32_BLM.square().mean(-1, keepdim=True) + self.eps)
        # Training may keep float32 scales beside 16-bit states; evaluation has one dtype for both.
        return self.weight.to(x_BLM.dtype) * (x32_BLM * scale_BL1).to(x_BLM.dtype)


class BlockParts(NamedTuple):
    """The modules of a block by what they do, whatever a checkpoint calls them."""

    attention_norm: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    attention_out: nn.Module
    mlp_norm: nn.Module
    gate: nn.Module
    up: nn.Module
    down: nn.Module


class Block(nn.Module):
    """One block; a subclass makes the modules under their published names."""

    head_dim: int

    @property
    def parts(self) -> BlockParts:
        """The modules, looked up anew each time, since adapters replace them."""
        raise NotImplementedError

    def forward(
        self,
        x_BLM: Tensor,
        rotation: Rotation,
        attend: Attend,
        positions_BP: Tensor | None = None,
    ) -> Tensor:
        """Add attention and MLP to the residual stream.

        Args:
            x_BLM: Residual stream.
            rotation: cos and sin of its positions.
            attend: The attention function.
            positions_BP: int64, the only positions whose output is wanted; None for all. Keys
                and values are of all positions either way.

        Returns:
            The new residual stream, [B, L, M] or [B, P, M].
        """
        q_BHPD, k_BGLD, v_BGLD = self.attention_inputs(x_BLM, rotation, positions_BP)
        if positions_BP is not None:
            x_BLM = take(x_BLM, positions_BP)
        return self.add_mlp(self.add_attention(x_BLM, attend(q_BHPD, k_BGLD, v_BGLD)))

    def attention_inputs(
        self, x_BLM: Tensor, rotation: Rotation, positions_BP: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, H, P, D] of the positions asked for, keys and values of all."""
        h_BLM = self.parts.attention_norm(x_BLM)
        k_BGLD, v_BGLD = self.keys_values(h_BLM, rotation)
        if positions_BP is not None:
            h_BLM = take(h_BLM, positions_BP)
            rotation = rotation_at(rotation, positions_BP)
        return self.queries(h_BLM, rotation), k_BGLD, v_BGLD

    def queries(self, h_BPM: Tensor, rotation: Rotation) -> Tensor:
        """Return the rotated queries [B, H, P, D] of normalised states."""
        return apply_rotary(self._heads(self.parts.query(h_BPM)), *rotation)

    def keys_values(self, h_BLM: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Return the rotated keys and the values, [B, G, L, D] each, of normalised states."""
        k_BGLD = apply_rotary(self._heads(self.parts.key(h_BLM)), *rotation)
        return k_BGLD, self._heads(self.parts.value(h_BLM))

    def add_attention(self, x_BPM: Tensor, out_BHPD: Tensor) -> Tensor:
        """Add the attention's output, all heads together, to the residual stream."""
        return x_BPM + self.parts.attention_out(out_BHPD.transpose(1, 2).flatten(-2))

    def add_mlp(self, x_BPM: Tensor) -> Tensor:
        """Add the gated MLP of the normalised states to the residual stream."""
        return x_BPM + self.parts.down(self.inner_states(x_BPM))

    def inner_states(self, x_BPM: Tensor) -> Tensor:
        """Return the gated MLP's inner states of the residual stream."""
        parts = self.parts
        h_BPM = parts.mlp_norm(x_BPM)
        return F.silu(parts.gate(h_BPM)) * parts.up(h_BPM)

    def _heads(self, x_BLM: Tensor) -> Tensor:
        return x_BLM.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def take(x_BLM: Tensor, positions_BP: Tensor) -> Tensor:
    """Return x at each row's own positions, [B, P, M]."""
    return x_BLM.gather(1, positions_BP[..., None].expand(-1, -1, x_BLM.shape[-1]))


def rotation_at(rotation: Rotation, positions_BP: Tensor) -> Rotation:
    """Return cos and sin [B, 1, P, D] at each row's own positions of a table [L, D]."""
    cos_LD, sin_LD = rotation
    return cos_LD[positions_BP][:, None], sin_LD[positions_BP][:, None]
