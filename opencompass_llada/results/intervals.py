"""Confidence intervals of scores between 0 and 100. Knows numbers only.

Wilson's interval for the hit rate of one cell, and for averages the same interval on an effective
number of samples, as surveys use it. `benchmarks/interval_coverage.py` simulates how often they
hold the truth; a percentile bootstrap, compared there, gives a cell with ten hits of ten no width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from opencompass_llada.likelihood.estimate import satterthwaite, student_t_quantile

LEVEL = 0.95
FULL_SCORE = 100.0


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Scores of independent samples of one part of an average, and the part's weight."""

    weight: float
    """Share of the average; the weights of all parts add up to 1."""
    scores: tuple[float, ...]
    """One a sample, 0 to 100."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: For no scores, or a score or weight out of range.
        """
        if not self.scores or not all(0 <= score <= FULL_SCORE for score in self.scores):
            raise ValueError(
                f"scores={self.scores[:5]} must be one or more numbers from 0 to 100; other "
                "metrics, such as perplexity, have intervals of their own."
            )
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight={self.weight} must be above 0 and at most 1.")


def wilson(mean: float, num_samples: float, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval (Wilson 1927) of a rate.

    Args:
        mean: Percent, 0 to 100.
        num_samples: Independent samples, above 0; need not be whole.
        level: Coverage aimed at.

    Returns:
        Lower and upper end, percent.

    Raises:
        ValueError: For a mean out of range or no samples.
    """
    if not 0 <= mean <= FULL_SCORE or num_samples <= 0:
        raise ValueError(
            f"mean={mean} must be from 0 to 100, and num_samples={num_samples} above 0."
        )
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = mean / FULL_SCORE
    spread = z * math.sqrt(rate * (1 - rate) / num_samples + z**2 / (4 * num_samples**2))
    centre = rate + z**2 / (2 * num_samples)
    scale = FULL_SCORE / (1 + z**2 / num_samples)
    # The ends of 0 and 100 are exact; the root leaves a rest of 1e-15.
    low = 0.0 if mean == 0 else (centre - spread) * scale
    high = FULL_SCORE if mean == FULL_SCORE else (centre + spread) * scale
    return max(low, 0.0), min(high, FULL_SCORE)


def stratified_interval(strata: Sequence[Stratum], level: float = LEVEL) -> tuple[float, float]:
    """Return an interval of a weighted average of independent parts.

    Wilson's interval on the effective number of samples p (1 - p) / v, where v is the average's
    estimated variance, shortened by (z / t)^2 for the degrees of freedom that v has (Korn and
    Graubard 1998). It is at least min(n_i / w_i): scores lie between 0 and 100, so no average has
    more variance than hits on so many samples (p (1 - p) is concave). That floor alone is used
    where v is unknown or 0.

    Args:
        strata: The parts.
        level: Coverage aimed at.

    Returns:
        Lower and upper end, percent.

    Raises:
        ValueError: If the weights do not add up to 1.
    """
    total = math.fsum(stratum.weight for stratum in strata)
    if not math.isclose(total, 1, abs_tol=1e-9):
        raise ValueError(f"the weights of the parts add up to {total}; they must add up to 1.")
    mean = math.fsum(stratum.weight * _mean(stratum.scores) for stratum in strata)
    floor = min(len(stratum.scores) / stratum.weight for stratum in strata)
    pieces = []
    for stratum in strata:
        num_samples = len(stratum.scores)
        if num_samples < 2:
            return wilson(_clip(mean), floor, level)
        pieces.append((stratum.weight**2 * _variance(stratum.scores), num_samples - 1.0))
    variance = math.fsum(piece for piece, _ in pieces)
    rate = mean / FULL_SCORE
    if variance == 0 or not 0 < rate < 1:
        return wilson(_clip(mean), floor, level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    shrinkage = (z / t_quantile(level, satterthwaite(pieces))) ** 2
    effective = rate * (1 - rate) / (variance / FULL_SCORE**2) * shrinkage
    return wilson(_clip(mean), max(floor, effective), level)


def clustered_interval(clusters: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Return an interval of a mean whose samples come in dependent clusters.

    Needle in a haystack asks for the same needles at every depth and length, so the needle is what
    was drawn: its mean over all cells is one observation, and the interval is Wilson's on as many
    samples as there are needles. Estimating the variance between them would give shorter intervals
    that hold the truth in 81 % instead of 95 % of the cases where few needles in many are hard.

    Args:
        clusters: The mean score of each cluster, 0 to 100; clusters are of equal size.
        level: Coverage aimed at, and exceeded where clusters are not all or nothing.

    Raises:
        ValueError: For no clusters, or a mean out of range.
    """
    if not clusters:
        raise ValueError("clusters=[] must be at least one mean score.")
    return wilson(_clip(_mean(clusters)), len(clusters), level)


def t_quantile(level: float, degrees_of_freedom: float) -> float:
    """Return Student's two-sided quantile; exact at 1 and 2 degrees of freedom.

    Args:
        level: Coverage.
        degrees_of_freedom: From 1; a fraction below 2 takes the exact value at 1.
    """
    if degrees_of_freedom < 2:
        return math.tan(math.pi * level / 2)
    if degrees_of_freedom < 3:
        return level * math.sqrt(2 / (1 - level**2))
    return student_t_quantile(level, degrees_of_freedom)


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _variance(scores: Sequence[float]) -> float:
    """Return the variance of the scores' mean."""
    mean = _mean(scores)
    squares = math.fsum((score - mean) ** 2 for score in scores)
    return squares / (len(scores) - 1) / len(scores)


def _clip(mean: float) -> float:
    return min(max(mean, 0.0), FULL_SCORE)
