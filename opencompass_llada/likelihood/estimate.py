"""Holds the options of likelihood estimates, and estimates with their errors; adds several up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import ndtri, stdtrit

from opencompass_llada.options import check_at_least, check_fields, check_value, reject_unknown

#: Estimator -> draws where none are given: LongLLaDA's own number, and one that this package's
#: tiny model gives a standard error of a few percent with.
_DEFAULT_DRAWS = {"bound": 16, "longllada": 8, "confidence": 0}


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions:
    """How a target is scored by a masked diffusion model; others are scored exactly."""

    estimator: str = "bound"
    """``bound``: the likelihood bound. ``longllada``: as LongLLaDA's script estimates it.
    ``confidence``: of options alone, our reading of iLLaDA's confidence-based scoring (arXiv
    2606.25331): see `scorers.most_confident_first`."""
    num_draws: int | None = None
    """Masks drawn for a target (``bound``) or for a chunk (``longllada``); each is one forward
    pass of one row. None is 16 and 8; ``confidence`` draws none."""
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
        check_at_least(self, 0, "seed")
        check_at_least(self, 1, "chunk_length", "batch_size")
        if self.estimator == "confidence":
            if self.num_draws is not None:
                raise ValueError(
                    f"num_draws={self.num_draws} has no effect with estimator='confidence', which "
                    "draws nothing; leave it out"
                )
            return
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


_SCORING_NAMES = ("estimator", "num_draws", "seed", "batch_size")
_SCORING_ESTIMATORS = ("bound", "confidence")
#: 128 draws are LLaDA's own for a log-likelihood (its mc_num); options are short as a rule.
_SCORING = LikelihoodOptions(num_draws=128, batch_size=8)


def parse_scoring(
    given: Mapping[str, Any] | None, base: LikelihoodOptions = _SCORING
) -> LikelihoodOptions:
    """Read a ``likelihood`` option over the base: ``estimator``, ``num_draws`` and others.

    Draws of the base are no option of another estimator.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"likelihood={given!r} must be a dict of {', '.join(_SCORING_NAMES)}")
    reject_unknown("likelihood option", given or {}, _SCORING_NAMES)
    options = {
        name: check_value(f"likelihood[{name!r}]", value, str if name == "estimator" else int)
        for name, value in (given or {}).items()
    }
    estimator = options.get("estimator", base.estimator)
    reject_unknown("likelihood estimator", [estimator], _SCORING_ESTIMATORS)
    if estimator != base.estimator:
        own = _SCORING.num_draws if estimator == _SCORING.estimator else None
        base = replace(base, estimator=estimator, num_draws=own)
    return replace(base, **options)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimated negative log-likelihood of some tokens, in nats, with its Monte-Carlo error.

    The error is that of the masks drawn for these very tokens, not of the choice of the text.
    """

    estimator: str
    """``bound``, ``longllada``, ``confidence`` or ``autoregressive``."""
    nll: float
    """Of all tokens together, nats."""
    variance: float = 0.0
    """Of ``nll`` over the draws; 0 for what is exact."""
    degrees_of_freedom: float = math.inf
    """Of the variance; infinite where it is known to be 0."""
    num_tokens: int
    num_draws: int
    """Masks drawn in all; 0 for an autoregressive model, and by confidence."""
    num_forward_passes: int
    """Forward passes of one row each."""

    @property
    def nll_per_token(self) -> float:
        """Nats a token; its exponential is the perplexity."""
        return self.nll / self.num_tokens

    @property
    def standard_error(self) -> float:
        """Of ``nll_per_token``."""
        return math.sqrt(self.variance) / self.num_tokens

    @property
    def perplexity(self) -> float:
        """The exponential of the nats a token."""
        return safe_exp(self.nll_per_token)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return an interval of ``nll_per_token`` with this coverage, by Student's t."""
        half = student_t_quantile(level, self.degrees_of_freedom) * self.standard_error
        return self.nll_per_token - half, self.nll_per_token + half


def safe_exp(value: float) -> float:
    """Return the exponential, infinite where it overflows."""
    return math.exp(value) if value < 709 else math.inf


def pool(estimates: Sequence[Estimate]) -> Estimate:
    """Add up estimates of different tokens, at least one, made with independent draws."""
    kinds = {estimate.estimator for estimate in estimates}
    if len(kinds) != 1:
        raise ValueError(
            f"Estimates by {sorted(kinds) or 'nobody'} cannot be added up; they must be at least "
            "one, all by the same estimator."
        )
    variances = [(estimate.variance, estimate.degrees_of_freedom) for estimate in estimates]
    return Estimate(
        estimator=kinds.pop(),
        nll=math.fsum(estimate.nll for estimate in estimates),
        variance=math.fsum(variance for variance, _ in variances),
        degrees_of_freedom=satterthwaite(variances),
        num_tokens=sum(estimate.num_tokens for estimate in estimates),
        num_draws=sum(estimate.num_draws for estimate in estimates),
        num_forward_passes=sum(estimate.num_forward_passes for estimate in estimates),
    )


def satterthwaite(variances: Sequence[tuple[float, float]]) -> float:
    """Return the degrees of freedom of a sum of variance estimates (Satterthwaite 1946).

    Takes pairs of an estimate and its own degrees of freedom. Infinite if the sum is 0.
    """
    total = math.fsum(variance for variance, _ in variances)
    squares = math.fsum(variance**2 / freedom for variance, freedom in variances)
    return total**2 / squares if squares else math.inf


def student_t_quantile(level: float, degrees_of_freedom: float) -> float:
    """Return the two-sided quantile of Student's t; infinite degrees give the normal's."""
    half = (1 + level) / 2
    infinite = math.isinf(degrees_of_freedom)
    return float(ndtri(half) if infinite else stdtrit(degrees_of_freedom, half))
