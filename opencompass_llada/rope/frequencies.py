"""Rotary position embedding: what a scaling does to the base, the frequencies and the rotation.

Tensors and numbers only: nothing here knows a model, a checkpoint or a prompt. ``linear``,
``yarn`` and ``longrope`` are transformers' own (``modeling_rope_utils``); ``ntk`` (LongLLaDA,
arXiv 2506.14429, Eq. 6) and ``diffusion_ntk`` (UltraLLaDA, arXiv 2510.10481) change the base and
are computed here. A scaling is fixed before the network is built.

Shape suffixes: B batch, H heads, L positions, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from opencompass_llada.rope.methods import (
    LongRopeScaling,
    NTKScaling,
    RopeScaling,
    YarnScaling,
)

#: Pairs. The base of a checkpoint post-trained with an NTK scaling makes the logarithm below a
#: whole number; rounding, also of a base written with six digits, must not lift it to the next,
#: where lambda of a further scaling is 1.
ROUNDING = 1e-4


def critical_dimension(rope_theta: float, head_dim: int, trained_length: int) -> int:
    """Count the dimensions whose rotation completes a period within the trained length.

    d_crit = 2 ceil(d/2 * log_b(T_train / 2 pi)) (arXiv 2506.14429, section 4), at most d.

    Args:
        rope_theta: The base b.
        head_dim: Head size d.
        trained_length: T_train in tokens (twice that for diffusion_ntk).

    Returns:
        d_crit, an even number from 2 to d.
    """
    pairs = head_dim / 2 * math.log(trained_length / (2 * math.pi), rope_theta)
    return min(max(2 * math.ceil(pairs - ROUNDING), 2), head_dim)


def theta_multiplier(
    rope_theta: float, head_dim: int, target_length: int, critical_dim: int
) -> float:
    """Return lambda for a target length: (T_target / 2 pi)^(d / d_crit) / b.

    Args:
        rope_theta: The base b.
        head_dim: Head size d.
        target_length: T_target in tokens (twice that for diffusion_ntk).
        critical_dim: d_crit.

    Returns:
        What the base is multiplied with (arXiv 2506.14429, Eq. 6).
    """
    return (target_length / (2 * math.pi)) ** (head_dim / critical_dim) / rope_theta


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedRope:
    """A scaling worked out for one network.

    Attributes:
        method: The scaling type's name.
        rope_theta: The base after scaling.
        theta_multiplier: Lambda; 1 where the method leaves the base alone.
        critical_dimension: d_crit for the NTK methods, else None.
        trained_length: Tokens that the checkpoint was trained on.
        longest_context: Tokens up to which the scaling was computed.
        inverse_frequencies_D: float32 [head size / 2], radians per position, one per pair.
        attention_factor: Multiplies cosine and sine (1 but for yarn and longrope).
    """

    method: str
    rope_theta: float
    theta_multiplier: float
    critical_dimension: int | None
    trained_length: int
    longest_context: int
    inverse_frequencies_D: torch.Tensor
    attention_factor: float

    def describe(self) -> str:
        """Return one line for the log: method, lambda, theta, d_crit and longest context."""
        idle = self.critical_dimension and self.theta_multiplier == 1.0
        idle = idle and self.longest_context > self.trained_length
        return (
            f"RoPE scaling {self.method}: theta multiplier {self.theta_multiplier:.4g}, theta "
            f"{self.rope_theta:.6g}, critical dimension {self.critical_dimension or 'not used'}, "
            f"trained length {self.trained_length}, computed for {self.longest_context} tokens"
            + ("; CHANGES NOTHING: the critical dimension reaches that far already" if idle else "")
        )


def inverse_frequencies(rope_theta: float, head_dim: int) -> torch.Tensor:
    """Return b^(-2i/d) for i in 0 .. d/2 - 1 as float32 [head_dim / 2] (arXiv 2104.09864)."""
    exponents_D = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float() / head_dim
    return 1.0 / (rope_theta**exponents_D)


def resolve_rope(
    scaling: RopeScaling, *, rope_theta: float, head_dim: int, trained_length: int
) -> ResolvedRope:
    """Work out base and frequencies of a scaling for a network.

    Args:
        scaling: The method and its options.
        rope_theta: The checkpoint's base.
        head_dim: Head size, even.
        trained_length: The checkpoint's trained length in tokens; the scaling's own overrides it.

    Returns:
        Everything that the network and the log need.

    Raises:
        ValueError: If the target is shorter than the trained length, the critical dimension
            exceeds the head size, or longrope's factors have another length than head_dim / 2.
    """
    trained_length = scaling.trained_length or trained_length
    target_length = getattr(scaling, "target_length", None)
    if target_length is not None and target_length < trained_length:
        raise ValueError(
            f"rope_scaling {scaling.type!r}: target_length={target_length} is below the trained "
            f"length {trained_length}; scaling only lengthens. Use type='none' up to "
            f"{trained_length} tokens."
        )
    if isinstance(scaling, NTKScaling):
        return _resolve_ntk(scaling, rope_theta, head_dim, trained_length)
    if type(scaling) is RopeScaling:
        frequencies_D, attention_factor = inverse_frequencies(rope_theta, head_dim), 1.0
        longest = trained_length
    else:
        factor = getattr(scaling, "factor", None) or (target_length or 0) / trained_length
        longest = round(factor * trained_length)
        frequencies_D, attention_factor = _transformers_frequencies(
            scaling, rope_theta, head_dim, trained_length, factor
        )
    return ResolvedRope(
        method=scaling.type,
        rope_theta=rope_theta,
        theta_multiplier=1.0,
        critical_dimension=None,
        trained_length=trained_length,
        longest_context=longest,
        inverse_frequencies_D=frequencies_D,
        attention_factor=attention_factor,
    )


def _resolve_ntk(
    scaling: NTKScaling, rope_theta: float, head_dim: int, trained_length: int
) -> ResolvedRope:
    reach = scaling.reach
    critical_dim = scaling.critical_dimension or critical_dimension(
        rope_theta, head_dim, reach * trained_length
    )
    if critical_dim > head_dim:
        raise ValueError(
            f"rope_scaling {scaling.type!r}: critical_dimension={critical_dim} must be at most "
            f"the head size {head_dim}."
        )
    if scaling.theta_multiplier is not None:
        multiplier = scaling.theta_multiplier
        # Inverse of Eq. 6: the context at which a period of the critical dimension ends.
        longest = 2 * math.pi * (multiplier * rope_theta) ** (critical_dim / head_dim) / reach
        longest = max(int(longest), trained_length)
    else:
        assert scaling.target_length is not None, scaling
        longest = scaling.target_length
        # The ceiling in d_crit gives lambda < 1 near the trained length, where nothing needs
        # scaling: 1 keeps "target = trained" the identity.
        multiplier = max(1.0, theta_multiplier(rope_theta, head_dim, reach * longest, critical_dim))
    return ResolvedRope(
        method=scaling.type,
        rope_theta=multiplier * rope_theta,
        theta_multiplier=multiplier,
        critical_dimension=critical_dim,
        trained_length=trained_length,
        longest_context=longest,
        inverse_frequencies_D=inverse_frequencies(multiplier * rope_theta, head_dim),
        attention_factor=1.0,
    )


def _transformers_frequencies(
    scaling: RopeScaling, rope_theta: float, head_dim: int, trained_length: int, factor: float
) -> tuple[torch.Tensor, float]:
    """Put a scaling into transformers' terms and ask it for the frequencies."""
    options: dict[str, Any] = {"rope_type": scaling.type, "factor": factor}
    if isinstance(scaling, YarnScaling):
        options |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    if isinstance(scaling, LongRopeScaling):
        for name in ("long_factor", "short_factor"):
            if len(getattr(scaling, name)) != head_dim // 2:
                raise ValueError(
                    f"rope_scaling 'longrope': {name} has {len(getattr(scaling, name))} entries, "
                    f"it must have head size / 2 = {head_dim // 2}."
                )
        options |= {
            "long_factor": list(scaling.long_factor),
            "short_factor": list(scaling.short_factor),
        }
    if isinstance(scaling, (YarnScaling, LongRopeScaling)):
        options["original_max_position_embeddings"] = trained_length
        if scaling.attention_factor is not None:
            options["attention_factor"] = float(scaling.attention_factor)
    longest = round(factor * trained_length)
    return transformers_frequencies(
        options,
        rope_theta=rope_theta,
        head_dim=head_dim,
        max_position_embeddings=trained_length if scaling.type == "yarn" else longest,
        length=longest,
    )


def transformers_frequencies(
    options: Mapping[str, Any],
    *,
    rope_theta: float,
    head_dim: int,
    max_position_embeddings: int,
    length: int | None = None,
) -> tuple[torch.Tensor, float]:
    """Ask transformers for frequencies, through a config that both majors understand.

    Args:
        options: ``rope_type`` and its numbers, as in a config.json.
        rope_theta: The base.
        head_dim: Head size, even.
        max_position_embeddings: As in that config.json.
        length: Tokens that are to be read; None for what a network starts with.

    Returns:
        float32 [head size / 2], and the factor on cosine and sine.
    """
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        rope_theta=float(rope_theta),
        rope_scaling=dict(options),
    )
    if options["rope_type"] == "longrope":
        original = options["original_max_position_embeddings"]
        config.original_max_position_embeddings = original
    with torch.device("cpu"):  # also while the network is built on the meta device
        frequencies_D, attention_factor = ROPE_INIT_FUNCTIONS[options["rope_type"]](
            config, torch.device("cpu"), seq_len=length
        )
    return frequencies_D.float(), float(attention_factor)


def rotation_table(
    rope: ResolvedRope, length: int, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Build cosine and sine for positions 0 .. length - 1.

    Args:
        rope: The resolved scaling.
        length: Number of positions.
        device: Where the table lives.

    Returns:
        cos and sin, float32 [length, head size]; the second half repeats the first
        (rotate-half layout).
    """
    positions_L = torch.arange(length, device=device, dtype=torch.float32)
    angles_LD = torch.outer(positions_L, rope.inverse_frequencies_D.to(device))
    angles_LD = torch.cat((angles_LD, angles_LD), dim=-1)
    return angles_LD.cos() * rope.attention_factor, angles_LD.sin() * rope.attention_factor


def apply_rotary(x_BHLD: torch.Tensor, cos_LD: torch.Tensor, sin_LD: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys, in float32 and back (LLaDA's ``rope_full_precision``).

    Args:
        x_BHLD: Any float dtype [batch, heads, positions, head size].
        cos_LD: float32 [positions, head size] (or anything that broadcasts to x).
        sin_LD: Same.

    Returns:
        The rotated tensor in x's dtype.
    """
    x32_BHLD = x_BHLD.float()
    first, second = x32_BHLD.chunk(2, dim=-1)
    rotated = x32_BHLD * cos_LD + torch.cat((-second, first), dim=-1) * sin_LD
    return rotated.to(x_BHLD.dtype)
