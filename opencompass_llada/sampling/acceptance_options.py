"""The settings of the acceptance rule: which one, and its number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.options import build, check_fields, unknown_name_message
from opencompass_llada.sampling.acceptance import AcceptanceRule
from opencompass_llada.sampling.confident_acceptance import ACCEPTANCE_RULES


@dataclass(frozen=True, kw_only=True)
class AcceptanceOptions:
    """Which predictions a step reveals beyond those that the schedule plans."""

    type: str = "scheduled"
    """``scheduled`` (none, the published samplers' way) or a name in ``ACCEPTANCE_RULES``."""

    value: float | None = None
    """The rule's number; None is its default."""

    def __post_init__(self) -> None:
        """Fill the default in and check both.

        Raises:
            ValueError: If the name is unknown or the number does not fit; says what does.
        """
        check_fields(self, "acceptance ")
        if self.type == "scheduled":
            if self.value is not None:
                raise ValueError(
                    f"acceptance value={self.value!r} has no effect with type='scheduled'; leave "
                    "it out, or use type='threshold'"
                )
            return
        kind = ACCEPTANCE_RULES.get(self.type)
        if kind is None:
            names = ("scheduled", *ACCEPTANCE_RULES)
            raise ValueError(unknown_name_message("acceptance rule", str(self.type), names))
        if self.value is None:
            object.__setattr__(self, "value", kind.default)
        assert self.value is not None, "the default is filled in"
        if not kind.check(self.value):
            raise ValueError(
                f"acceptance value={self.value!r} must be {kind.rule} for type={self.type!r}; its "
                f"default is {kind.default}"
            )

    @property
    def needs_probabilities(self) -> bool:
        """Whether scores must be probabilities of the predicted tokens."""
        return self.type != "scheduled" and ACCEPTANCE_RULES[self.type].needs_probabilities

    def make(self) -> AcceptanceRule | None:
        """Return the rule, or None for the one that the remasking strategy goes with."""
        if self.type == "scheduled":
            return None
        assert self.value is not None, "the default is filled in"
        return ACCEPTANCE_RULES[self.type].make(self.value)

    def describe(self) -> str:
        """Return a short name, such as ``threshold 0.9``."""
        return self.type if self.value is None else f"{self.type} {self.value:g}"


def parse_acceptance_options(
    options: Mapping[str, Any] | AcceptanceOptions | str | None,
) -> AcceptanceOptions:
    """Make options of a mapping such as ``dict(type='threshold', value=0.9)`` or a rule's name.

    Args:
        options: Field names and values; a name alone; None for the default; options are returned
            as they are.

    Returns:
        The checked options.

    Raises:
        ValueError: If a name is unknown (the nearest valid one is named) or a value does not fit.
    """
    return build(AcceptanceOptions, options, "acceptance", by_name="type")
