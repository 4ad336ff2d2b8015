"""Computes the base and the frequencies of rotary position embeddings.

Imports torch where it is needed: scalings are checked before anything heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Pairs. The base of a checkpoint post-trained with an NTK scaling makes the logarithm below a
#: whole number; rounding, also of a base written with six digits, must not lift it to the next,
#: where lambda of a further scaling is 1.
ROUNDING = 1e-4


def critical_dimension(rope_theta: float, head_dim: int, trained_length: int) -> int:
    """Count the dimensions whose rotation completes a period within the trained length.

    d_crit = 2 ceil(d/2 * log_b(T_train / 2 pi)) (arXiv 2506.14429, section 4), from 2 to d; the
    trained length is doubled for diffusion_ntk.
    """
    pairs = head_dim / 2 * math.log(trained_length / (2 * math.pi), rope_theta)
    return min(max(2 * math.ceil(pairs - ROUNDING), 2), head_dim)


def theta_multiplier(
    rope_theta: float, head_dim: int, target_length: int, critical_dim: int
) -> float:
    """Return lambda, what the base is multiplied with: (T_target / 2 pi)^(d / d_crit) / b.

    Source: arXiv 2506.14429, Eq. 6; the target length is doubled for diffusion_ntk.
    """
    return (target_length / (2 * math.pi)) ** (head_dim / critical_dim) / rope_theta


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedRope:
    """A scaling worked out for one network."""

    method: str
    rope_theta: float
    """The base after scaling."""
    theta_multiplier: float = 1.0
    """Lambda; 1 where the method leaves the base alone."""
    critical_dimension: int | None = None
    """d_crit, for the NTK methods alone."""
    trained_length: int
    longest_context: int
    """Tokens up to which the scaling was computed."""
    inverse_frequencies_D: torch.Tensor
    """float32 [head size / 2], radians per position, one per pair."""
    attention_factor: float = 1.0
    """Multiplies cosine and sine."""

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
    import torch

    exponents_D = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float() / head_dim
    return 1.0 / (rope_theta**exponents_D)


def transformers_frequencies(
    options: Mapping[str, Any],
    *,
    rope_theta: float,
    head_dim: int,
    max_position_embeddings: int,
    length: int | None = None,
) -> tuple[torch.Tensor, float]:
    """Ask transformers for frequencies [head size / 2] and the factor on cosine and sine.

    ``options`` are as in a config.json; ``length`` are the tokens to read, None for the first.
    """
    import torch
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
