"""Rotates queries and keys by their positions.

Shape suffixes: B batch, H heads, L positions, D head size.
"""

from __future__ import annotations

import torch

from opencompass_llada.rope.frequencies import ResolvedRope


def rotation_table(
    rope: ResolvedRope, length: int, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin, float32 [length, head size], in the rotate-half layout.

    Angles are float64: at 524,288 tokens cosines of float32 angles, which published code uses, are
    off by up to 0.016, four times what rounding queries to bfloat16 costs (0.0039 at 131,072).
    """
    positions_L = torch.arange(length, device=device, dtype=torch.float64)
    angles_LD = torch.outer(positions_L, rope.inverse_frequencies_D.to(device).double())
    cos_LD, sin_LD = (
        (turned * rope.attention_factor).float() for turned in (angles_LD.cos(), angles_LD.sin())
    )
    return torch.cat((cos_LD, cos_LD), dim=-1), torch.cat((sin_LD, sin_LD), dim=-1)


def apply_rotary(x_BHLD: torch.Tensor, cos_LD: torch.Tensor, sin_LD: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys, in float32 and back (LLaDA's ``rope_full_precision``).

    Channels beyond the table's stay as they are (partial rotary embeddings).
    """
    rotated_dim = cos_LD.shape[-1]
    x32_BHLD = x_BHLD[..., :rotated_dim].float()
    first, second = x32_BHLD.chunk(2, dim=-1)
    rotated = x32_BHLD * cos_LD + torch.cat((-second, first), dim=-1) * sin_LD
    rotated = rotated.to(x_BHLD.dtype)
    if rotated_dim == x_BHLD.shape[-1]:
        return rotated
    return torch.cat((rotated, x_BHLD[..., rotated_dim:]), dim=-1)
