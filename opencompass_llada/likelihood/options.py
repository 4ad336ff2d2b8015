"""Checks the options of a likelihood estimate before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from opencompass_llada.options import check_fields, check_value, reject_unknown

#: Estimator -> draws where none are given: LongLLaDA's own number, and one that this package's
#: tiny model gives a standard error of a few percent with.
_DEFAULT_DRAWS = {"bound": 16, "longllada": 8}


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions:
    """How the tokens of a target are scored.

    An autoregressive model is scored exactly: of these options it uses none.
    """

    estimator: str = "bound"
    """``bound``: the likelihood bound. ``longllada``: as LongLLaDA's script estimates it."""
    num_draws: int | None = None
    """Masks drawn for a target (``bound``) or for a chunk (``longllada``); each is one forward
    pass of one row. None is 16 and 8."""
    chunk_length: int = 64
    """``longllada``: tokens that are masked together, given all text before them."""
    batch_size: int = 1
    """Rows in one call of the model."""
    seed: int = 0
    """Same seed, same masks: two models or two prefixes then differ by no noise of the masks."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        reject_unknown("estimator", [self.estimator], _DEFAULT_DRAWS)
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be at least 0; use 0 or more")
        for name in ("chunk_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.draws < 2:
            raise ValueError(
                f"num_draws={self.num_draws} must be at least 2: one draw gives no standard error."
            )
        if self.estimator == "bound" and (self.draws < 4 or self.draws % 2):
            raise ValueError(
                f"num_draws={self.num_draws} must be even and at least 4 for estimator='bound': "
                "two draws in each of at least two strata give the standard error; use "
                f"{max(4, self.draws + self.draws % 2)}."
            )

    @property
    def draws(self) -> int:
        """The number of draws, the default put in its place."""
        return _DEFAULT_DRAWS[self.estimator] if self.num_draws is None else self.num_draws


_SCORING_NAMES = ("num_draws", "seed", "batch_size")
#: 128 draws are LLaDA's own for a log-likelihood (its mc_num); options are short as a rule.
_SCORING = LikelihoodOptions(num_draws=128, batch_size=8)


def parse_scoring(
    given: Mapping[str, Any] | None, base: LikelihoodOptions = _SCORING
) -> LikelihoodOptions:
    """Read a ``likelihood`` option: how answers and texts are scored for OpenCompass.

    It may give ``num_draws``, ``seed`` and ``batch_size``; the base holds where nothing is given.

    Raises:
        ValueError: If a name is unknown (the nearest is named) or a value does not fit.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"likelihood={given!r} must be a dict of {', '.join(_SCORING_NAMES)}")
    options = dict(given or {})
    reject_unknown("likelihood option", options, _SCORING_NAMES)
    for name, value in options.items():
        check_value(f"likelihood[{name!r}]", value, int)
    return replace(base, **options)
