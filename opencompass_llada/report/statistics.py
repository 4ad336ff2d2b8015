"""Computes standard errors and confidence intervals of scores between 0 and 100.

`benchmarks/interval_coverage.py` simulates how often the intervals hold the truth.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from statsmodels.stats.proportion import proportion_confint

from opencompass_llada.likelihood.estimate import satterthwaite, student_t_quantile

LEVEL = 0.95  # coverage aimed at by every interval
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
FULL_SCORE = 100.0
Interval = tuple[float, float]


def hit_rate_standard_error(num_hits: float, num_samples: int) -> float:
    """Return the standard error of a hit rate, in percentage points.

    The half-width of Wilson's score interval at one standard deviation (Wilson 1927, z = 1). Near
    50 % it is the binomial standard error; for 10 hits of 10, where that would claim 0, it is 4.5.
    """
    rate = num_hits / num_samples
    variance = rate * (1 - rate) / num_samples + 1 / (4 * num_samples**2)
    return 100 * math.sqrt(variance) / (1 + 1 / num_samples)


def mean_standard_error(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation over the root of n; None for fewer than two values."""
    number = len(values)
    if number < 2:
        return None
    mean = sum(values) / number
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (number - 1) / number)


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Scores of independent samples of one part of an average, and the part's weight."""

    weight: float  # share of the average; the weights of all parts add up to 1
    scores: tuple[float, ...]  # one a sample, 0 to 100

    def __post_init__(self) -> None:
        """Check the fields."""
        if not self.scores or not all(0 <= score <= FULL_SCORE for score in self.scores):
            raise ValueError(
                f"scores={self.scores[:5]} must be one or more numbers from 0 to 100; other "
                "metrics, such as perplexity, have intervals of their own."
            )
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight={self.weight} must be above 0 and at most 1.")


def wilson(mean: float, num_samples: float) -> Interval:
    """Return Wilson's score interval (Wilson 1927) of a rate, both in percent.

    `num_samples` are independent ones; they need not be whole.

    Raises:
        ValueError: For a mean out of range or no samples.
    """
    return _rate_interval(mean, num_samples, "wilson")


def clopper_pearson(mean: float, num_samples: float) -> Interval:
    """Return Clopper and Pearson's exact interval (1934), which holds at every rate, as `wilson`.

    Of 10 samples Wilson's holds a rate near 0 or 100 in 84 % of the cases; this is 8 to 25 % wider.
    """
    return _rate_interval(mean, num_samples, "beta")


@functools.lru_cache(maxsize=4096)  # cells of few samples have few rates
def _rate_interval(mean: float, num_samples: float, method: str) -> Interval:
    if not 0 <= mean <= FULL_SCORE or num_samples <= 0:
        raise ValueError(
            f"mean={mean} must be from 0 to 100, and num_samples={num_samples} above 0."
        )
    rate = mean / FULL_SCORE
    low, high = proportion_confint(rate * num_samples, num_samples, 1 - LEVEL, method)
    # The ends of 0 and 100 are exact; rounding leaves a rest of 1e-15.
    low, high = (0.0 if mean == 0 else low), (1.0 if mean == FULL_SCORE else high)
    return FULL_SCORE * max(float(low), 0.0), FULL_SCORE * min(float(high), 1.0)


def stratified_interval(strata: Sequence[Stratum]) -> Interval:
    """Return an interval of a weighted average of independent parts, percent.

    Wilson's interval on the effective number of samples p (1 - p) / v, where v is the average's
    estimated variance, shortened by (z / t)^2 for the degrees of freedom that v has (Korn and
    Graubard 1998). It is at least min(n_i / w_i): scores lie between 0 and 100, so no average has
    more variance than hits on so many samples (p (1 - p) is concave). That floor alone is used
    where v is unknown or 0.

    Raises:
        ValueError: If the weights do not add up to 1.
    """
    total = math.fsum(stratum.weight for stratum in strata)
    if not math.isclose(total, 1, abs_tol=1e-9):
        raise ValueError(f"the weights of the parts add up to {total}; they must add up to 1.")
    mean = clip(math.fsum(stratum.weight * fmean(stratum.scores) for stratum in strata))
    floor = min(len(stratum.scores) / stratum.weight for stratum in strata)
    if any(len(stratum.scores) < 2 for stratum in strata):
        return wilson(mean, floor)
    pieces = [(s.weight**2 * _variance_of_mean(s.scores), len(s.scores) - 1.0) for s in strata]
    variance = math.fsum(piece for piece, _ in pieces)
    rate = mean / FULL_SCORE
    if variance == 0 or not 0 < rate < 1:
        return wilson(mean, floor)
    shrinkage = (Z / student_t_quantile(LEVEL, satterthwaite(pieces))) ** 2
    effective = rate * (1 - rate) / (variance / FULL_SCORE**2) * shrinkage
    return wilson(mean, max(floor, effective))


def clustered_interval(clusters: Sequence[float], sizes: Sequence[float] | None = None) -> Interval:
    """Return an interval of a mean whose samples come in dependent clusters, percent.

    Needle in a haystack asks for the same needles at every depth and length, so the needle is what
    was drawn: its mean over all its samples is one observation, and the interval is Wilson's on as
    many samples as there are needles (`effective_number` where they do not occur equally often).
    Estimating the variance between them would give shorter intervals that hold the truth in 81 %
    instead of 95 % of the cases where few needles in many are hard; so the level is exceeded where
    clusters are not all or nothing. `clusters` are mean scores, 0 to 100, and `sizes` their samples
    or shares, equal by default.

    Raises:
        ValueError: For no clusters, or a mean out of range.
    """
    if not clusters:
        raise ValueError("clusters=[] must be at least one mean score.")
    shares = _shares(sizes or [1] * len(clusters))
    mean = math.fsum(share * score for share, score in zip(shares, clusters, strict=True))
    return wilson(clip(mean), effective_number(shares))


def paired_interval(
    differences: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Interval | None:
    """Return an interval of the mean difference of two scores of the same samples, points.

    The difference is the mean gain less the mean loss, both shares of the full score. Each has
    Clopper and Pearson's exact limits on the number of independent clusters, and the two are put
    together by MOVER (Zou and Donner 2008) with the correlation of shares of one sample. Gains and
    losses of part of the score vary less than all or nothing with the same mean, so the interval
    is wider than need be for them, and never too narrow; a bootstrap or Student's t would have no
    width where no sample of few differs, and one that differs in fifty is what is asked for.

    Args:
        differences: Second less first score, one a sample, both 0 to 100; None is returned where
            one is beyond 100 points, since no limit of such a metric is known.
        clusters: What each sample depends on, such as its needle; by default each is its own.

    Raises:
        ValueError: For no differences, or another number of clusters.
    """
    if not differences:
        raise ValueError("differences=[] must be at least one.")
    if not all(abs(value) <= FULL_SCORE for value in differences):
        return None
    members: dict[Hashable, list[float]] = defaultdict(list)
    names = range(len(differences)) if clusters is None else clusters
    for name, value in zip(names, differences, strict=True):
        members[name].append(value)
    number = effective_number(_shares([len(own) for own in members.values()]))
    # A needle that gains at one depth and loses at another counts with what is left of both.
    means = [(fmean(own), len(own)) for own in members.values()]
    total = len(differences)
    gain = math.fsum(max(mean, 0.0) * size for mean, size in means) / total
    loss = math.fsum(max(-mean, 0.0) * size for mean, size in means) / total
    return combine_limits(clip(gain), clip(loss), number)


def combine_limits(gain: float, loss: float, number: float) -> Interval:
    """Return the limits of a mean gain less a mean loss over so many clusters, points.

    Each has exact limits of its own, put together by MOVER (`paired_interval`).
    """
    gain_low, gain_high = clopper_pearson(gain, number)
    loss_low, loss_high = clopper_pearson(loss, number)
    # Half a sample each of gains, losses and neither: at 0 the correlation would be lost.
    a, b = (((mean / FULL_SCORE * number + 0.5) / (number + 1.5)) for mean in (gain, loss))
    twice = 2 * math.sqrt(a * b / ((1 - a) * (1 - b)))

    def reach(first: float, second: float) -> float:
        return math.sqrt(first**2 + second**2 + twice * first * second)

    low = gain - loss - reach(gain - gain_low, loss_high - loss)
    high = gain - loss + reach(gain_high - gain, loss - loss_low)
    return max(low, -FULL_SCORE), min(high, FULL_SCORE)


def effective_number(shares: Sequence[float]) -> float:
    """Return how many equal clusters say as much as clusters of these shares of a mean (Kish)."""
    return round(1 / math.fsum(share**2 for share in shares), 9)  # 20 equal ones are 20


def clip(mean: float) -> float:
    """Return a mean without what rounding did: within 0 and 100, and at them where it nearly is."""
    return round(min(max(mean, 0.0), FULL_SCORE), 9)


def _shares(sizes: Sequence[float]) -> list[float]:
    return [size / sum(sizes) for size in sizes]


def _variance_of_mean(scores: Sequence[float]) -> float:
    mean = fmean(scores)
    return math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1) / len(scores)
