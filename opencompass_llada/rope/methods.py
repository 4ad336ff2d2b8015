"""Defines the RoPE scaling methods: what each can be asked for, and what it does to a network.

A method is one class here, checked before anything loads; `SCALING_TYPES` fills itself. ``linear``,
``yarn`` and ``longrope`` are transformers' own (``modeling_rope_utils``); ``ntk`` (LongLLaDA, arXiv
2506.14429, Eq. 6) and ``diffusion_ntk`` (UltraLLaDA, arXiv 2510.10481) change the base. A scaling
is fixed before the network is built.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from opencompass_llada.options import build, check_fields, check_value, show, unknown_name_message
from opencompass_llada.rope.frequencies import (
    ResolvedRope,
    critical_dimension,
    inverse_frequencies,
    theta_multiplier,
    transformers_frequencies,
)

SCALING_TYPES: dict[str, type[RopeScaling]] = {}
"""The methods by what ``type`` calls them."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """No scaling; also the common base of all methods, which name their `type`."""

    type: ClassVar[str] = "none"
    bidirectional_only: ClassVar[bool] = False
    """Whether the formula holds for networks alone whose tokens see those after them."""
    multipliers: ClassVar[Mapping[str, str]] = {}
    """The field that may stand in place of `target_length` -> what it multiplies."""
    trained_length: int | None = None
    """Tokens that the checkpoint was trained on, if config.json says otherwise (Dream's, say)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Enter a method into the table."""
        super().__init_subclass__(**kwargs)
        if "type" in cls.__dict__:
            SCALING_TYPES[cls.type] = cls

    def refuse_one_sided(self, model: str) -> None:
        """Refuse a method for bidirectional networks alone, for a model named as in messages."""
        if self.bidirectional_only:
            raise ValueError(
                f"rope_scaling {self.type!r} is for bidirectional models, which see relative "
                f"positions from -(T-1) to T-1 and so train on 2T of them; {model} sees 0 to T-1, "
                "and of later tokens no more than its block holds. Use type='ntk' with the same "
                "target_length."
            )

    def __post_init__(self) -> None:
        """Refuse lengths and factors that no model can have."""
        named = f"rope_scaling {self.type!r}"
        check_fields(self, f"{named}: ")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(number is not None and not number > 0 for number in numbers):
                raise ValueError(f"{named}: {field.name}={show(value)} must be a number above 0.")
        for name, multiplied in self.multipliers.items():
            pair = ("target_length", name)
            given = [field for field in pair if getattr(self, field) is not None]
            if len(given) != 1:
                raise ValueError(
                    f"{named} takes exactly one of {' and '.join(pair)}; "
                    f"got {' and '.join(given) or 'neither'}."
                )
            if given == [name] and getattr(self, name) < 1:
                raise ValueError(
                    f"{named}: {name}={getattr(self, name)} must be at least 1; it multiplies "
                    f"{multiplied}. Use type='none' for no scaling."
                )

    def frequencies(self, rope_theta: float, head_dim: int, trained_length: int) -> ResolvedRope:
        """Work the method out; called by `resolve_rope`, which has checked the lengths."""
        return ResolvedRope(
            method=self.type,
            rope_theta=rope_theta,
            trained_length=trained_length,
            longest_context=trained_length,
            inverse_frequencies_D=inverse_frequencies(rope_theta, head_dim),
        )


SCALING_TYPES[RopeScaling.type] = RopeScaling


@dataclass(frozen=True, kw_only=True)
class TransformersScaling(RopeScaling):
    """Base of the methods whose frequencies transformers computes, from the same fields."""

    def frequencies(self, rope_theta: float, head_dim: int, trained_length: int) -> ResolvedRope:
        """Put the scaling into transformers' terms and ask it for the frequencies."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        given.pop("trained_length", None)
        target_length = given.pop("target_length", None)
        factor = given.pop("factor", None) or target_length / trained_length
        longest = round(factor * trained_length)
        options = {name: list(v) if isinstance(v, tuple) else v for name, v in given.items()}
        if options:  # linear has none, and knows no trained length either
            options["original_max_position_embeddings"] = trained_length
        frequencies_D, attention_factor = transformers_frequencies(
            {"rope_type": self.type, "factor": factor, **options},
            rope_theta=rope_theta,
            head_dim=head_dim,
            max_position_embeddings=trained_length if self.type == "yarn" else longest,
            length=longest,
        )
        return dataclasses.replace(
            super().frequencies(rope_theta, head_dim, trained_length),
            longest_context=longest,
            inverse_frequencies_D=frequencies_D,
            attention_factor=attention_factor,
        )


@dataclass(frozen=True, kw_only=True)
class LinearScaling(TransformersScaling):
    """Position interpolation (arXiv 2306.15595): every frequency divided by the factor.

    Takes the context length to reach, in tokens, or its ratio to the trained length, at least 1.
    """

    type: ClassVar[str] = "linear"
    multipliers: ClassVar[Mapping[str, str]] = {"factor": "the context length"}
    target_length: int | None = None
    factor: float | None = None


@dataclass(frozen=True, kw_only=True)
class NTKScaling(RopeScaling):
    """NTK scaling of the base (LongLLaDA, arXiv 2506.14429, Eq. 6).

    Takes the context length to reach, in tokens, or lambda, what the base is multiplied with.
    """

    type: ClassVar[str] = "ntk"
    multipliers: ClassVar[Mapping[str, str]] = {"theta_multiplier": "the RoPE base"}
    reach: ClassVar[int] = 1
    target_length: int | None = None
    theta_multiplier: float | None = None
    critical_dimension: int | None = None
    """Overrides the number of dimensions whose period fits the trained length."""

    def frequencies(self, rope_theta: float, head_dim: int, trained_length: int) -> ResolvedRope:
        """Multiply the base."""
        critical_dim = self.critical_dimension or critical_dimension(
            rope_theta, head_dim, self.reach * trained_length
        )
        if critical_dim > head_dim:
            raise ValueError(
                f"rope_scaling {self.type!r}: critical_dimension={critical_dim} must be at most "
                f"the head size {head_dim}."
            )
        if self.theta_multiplier is not None:
            multiplier = self.theta_multiplier
            # Inverse of Eq. 6: the context at which a period of the critical dimension ends.
            period = 2 * math.pi * (multiplier * rope_theta) ** (critical_dim / head_dim)
            longest = max(int(period / self.reach), trained_length)
        else:
            assert self.target_length is not None, self
            longest = self.target_length
            # The ceiling in d_crit gives lambda < 1 near the trained length, where nothing needs
            # scaling: 1 keeps "target = trained" the identity.
            multiplier = max(
                1.0, theta_multiplier(rope_theta, head_dim, self.reach * longest, critical_dim)
            )
        return dataclasses.replace(
            super().frequencies(multiplier * rope_theta, head_dim, trained_length),
            theta_multiplier=multiplier,
            critical_dimension=critical_dim,
            longest_context=longest,
        )


@dataclass(frozen=True, kw_only=True)
class DiffusionNTKScaling(NTKScaling):
    """Diffusion-aware NTK scaling (UltraLLaDA, arXiv 2510.10481): 2T in T's place on both sides.

    A bidirectional model sees relative positions from -(T-1) to T-1. Same fields as NTKScaling.
    """

    type: ClassVar[str] = "diffusion_ntk"
    bidirectional_only: ClassVar[bool] = True
    reach: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class YarnScaling(LinearScaling):
    """YaRN (arXiv 2309.00071), as transformers computes it; the factor is given as in linear."""

    type: ClassVar[str] = "yarn"
    attention_factor: float | None = None
    """Multiplies cosine and sine; None takes YaRN's own rule."""
    beta_fast: float = 32.0
    """Rotations in the trained length above which a dimension is left alone."""
    beta_slow: float = 1.0
    """Rotations in the trained length below which a dimension is interpolated."""


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling(TransformersScaling):
    """LongRoPE (arXiv 2402.13753): one searched divisor per frequency, head size / 2 of them."""

    type: ClassVar[str] = "longrope"
    target_length: int
    """Context length to reach, in tokens."""
    long_factor: tuple[float, ...]
    """Divisors used when the target exceeds the trained length."""
    short_factor: tuple[float, ...]
    """Divisors used otherwise."""
    attention_factor: float | None = None
    """Multiplies cosine and sine; None takes LongRoPE's own rule."""

    def frequencies(self, rope_theta: float, head_dim: int, trained_length: int) -> ResolvedRope:
        """Check the numbers of divisors, and ask transformers."""
        for name in ("long_factor", "short_factor"):
            number = len(getattr(self, name))
            if number != head_dim // 2:
                raise ValueError(
                    f"rope_scaling 'longrope': {name} has {number} entries, "
                    f"it must have head size / 2 = {head_dim // 2}."
                )
        return super().frequencies(rope_theta, head_dim, trained_length)


def resolve_rope(
    scaling: RopeScaling, *, rope_theta: float, head_dim: int, trained_length: int
) -> ResolvedRope:
    """Work out base and frequencies of a scaling for a network; what does not fit is a ValueError.

    The network's trained length, in tokens, is overridden by the scaling's own.
    """
    trained_length = scaling.trained_length or trained_length
    target_length = getattr(scaling, "target_length", None)
    if target_length is not None and target_length < trained_length:
        raise ValueError(
            f"rope_scaling {scaling.type!r}: target_length={target_length} is below the trained "
            f"length {trained_length}; scaling only lengthens. Use type='none' up to "
            f"{trained_length} tokens."
        )
    return scaling.frequencies(rope_theta, head_dim, trained_length)


def parse_rope_scaling(options: Mapping[str, Any] | RopeScaling | None) -> RopeScaling:
    """Turn a config's ``rope_scaling``, such as ``dict(type='linear', factor=4)``, into its type.

    An unknown type or option, or a value out of range, is a ValueError that names the nearest.
    """
    if options is None:
        return RopeScaling()
    if isinstance(options, RopeScaling):
        return options
    if not isinstance(options, Mapping):
        raise ValueError(
            f"rope_scaling={show(options)} must be a dict such as "
            "dict(type='ntk', target_length=8192)."
        )
    given = dict(options)
    name = check_value("rope_scaling['type']", given.pop("type", "None"), str)
    if name not in SCALING_TYPES:
        raise ValueError(unknown_name_message("RoPE scaling type", name, SCALING_TYPES))
    return build(SCALING_TYPES[name], given, f"rope_scaling {name!r}")
