"""The RoPE scaling methods as typed options, checked before anything loads.

Says what can be asked for; opencompass_llada.rope.frequencies works it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from opencompass_llada.options import (
    build,
    check_fields,
    check_value,
    show,
    unknown_name_message,
)


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """No scaling; also the common base of all methods.

    Attributes:
        trained_length: Tokens that the checkpoint was trained on, if it differs from what its
            config.json says (Dream, say); None takes the checkpoint's own.
    """

    type: ClassVar[str] = "none"
    trained_length: int | None = None

    def __post_init__(self) -> None:
        """Refuse lengths and factors that no model can have."""
        check_fields(self, f"rope_scaling {self.type!r}: ")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if any(not number > 0 for number in _numbers(value)):
                raise ValueError(
                    f"rope_scaling {self.type!r}: {field.name}={show(value)} must be a number "
                    "above 0."
                )


@dataclass(frozen=True, kw_only=True)
class _FactorScaling(RopeScaling):
    """Shared fields of the methods that stretch positions by a factor.

    Attributes:
        target_length: Context length to reach, in tokens; the factor is its ratio to the trained
            length. Give this or ``factor``.
        factor: The stretch itself, at least 1.
    """

    target_length: int | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        """Require exactly one of target_length and factor."""
        super().__post_init__()
        _require_one_of(self, "target_length", "factor")
        if self.factor is not None and self.factor < 1:
            raise ValueError(
                f"rope_scaling {self.type!r}: factor={self.factor} must be at least 1; "
                "it multiplies the context length. Use type='none' for no scaling."
            )


@dataclass(frozen=True, kw_only=True)
class LinearScaling(_FactorScaling):
    """Position interpolation (arXiv 2306.15595): every frequency divided by the factor."""

    type: ClassVar[str] = "linear"


@dataclass(frozen=True, kw_only=True)
class YarnScaling(_FactorScaling):
    """YaRN (arXiv 2309.00071), as transformers computes it.

    Attributes:
        attention_factor: Multiplies cosine and sine; None takes YaRN's own rule.
        beta_fast: Rotations in the trained length above which a dimension is left alone.
        beta_slow: Rotations in the trained length below which a dimension is interpolated.
    """

    type: ClassVar[str] = "yarn"
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling(RopeScaling):
    """LongRoPE (arXiv 2402.13753): one searched divisor per frequency.

    Attributes:
        target_length: Context length to reach, in tokens.
        long_factor: Divisors, head size / 2 of them, used when the target exceeds the trained
            length.
        short_factor: Divisors, head size / 2 of them, used otherwise.
        attention_factor: Multiplies cosine and sine; None takes LongRoPE's own rule.
    """

    type: ClassVar[str] = "longrope"
    target_length: int
    long_factor: tuple[float, ...]
    short_factor: tuple[float, ...]
    attention_factor: float | None = None


@dataclass(frozen=True, kw_only=True)
class NTKScaling(RopeScaling):
    """NTK scaling of the base (LongLLaDA, arXiv 2506.14429, Eq. 6).

    Attributes:
        target_length: Context length to reach, in tokens. Give this or ``theta_multiplier``.
        theta_multiplier: Lambda itself, what the base is multiplied with, at least 1.
        critical_dimension: Overrides the number of dimensions whose period fits the trained
            length (1 to the head size).
    """

    type: ClassVar[str] = "ntk"
    reach: ClassVar[int] = 1
    target_length: int | None = None
    theta_multiplier: float | None = None
    critical_dimension: int | None = None

    def __post_init__(self) -> None:
        """Require exactly one of target_length and theta_multiplier."""
        super().__post_init__()
        _require_one_of(self, "target_length", "theta_multiplier")
        if self.theta_multiplier is not None and self.theta_multiplier < 1:
            raise ValueError(
                f"rope_scaling {self.type!r}: theta_multiplier={self.theta_multiplier} must be at "
                "least 1; it multiplies the RoPE base. Use type='none' for no scaling."
            )


@dataclass(frozen=True, kw_only=True)
class DiffusionNTKScaling(NTKScaling):
    """Diffusion-aware NTK scaling (UltraLLaDA, arXiv 2510.10481).

    A bidirectional model sees relative positions from -(T-1) to T-1, so 2T takes the place of T
    on both sides of the formula. Same fields as NTKScaling.
    """

    type: ClassVar[str] = "diffusion_ntk"
    reach: ClassVar[int] = 2


SCALING_TYPES: dict[str, type[RopeScaling]] = {
    scaling.type: scaling
    for scaling in (
        RopeScaling,
        LinearScaling,
        NTKScaling,
        DiffusionNTKScaling,
        YarnScaling,
        LongRopeScaling,
    )
}


def _numbers(value: float | tuple[float, ...] | None) -> tuple[float, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def _require_one_of(scaling: RopeScaling, first: str, second: str) -> None:
    given = [name for name in (first, second) if getattr(scaling, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"rope_scaling {scaling.type!r} takes exactly one of {first} and {second}; "
            f"got {' and '.join(given) or 'neither'}."
        )


def parse_rope_scaling(options: Mapping[str, Any] | RopeScaling | None) -> RopeScaling:
    """Turn a config's ``rope_scaling`` into its typed form.

    Args:
        options: ``dict(type='ntk', target_length=32768)`` and the like, a RopeScaling, or None
            for no scaling.

    Returns:
        The typed, checked scaling.

    Raises:
        ValueError: For an unknown type or option (naming the nearest) or a value out of range.
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
