"""Compares lines that answered the same samples: p-values and intervals of differences by cluster.

A cluster is what was drawn: a needle, a question, a document; all its samples move together. Knows
arrays alone. `benchmarks/interval_coverage.py` simulates how often the intervals hold the truth.

Shapes: C clusters, L lines, P pairs of lines, R sign patterns.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from opencompass_llada.likelihood.estimate import satterthwaite, student_t_quantile
from opencompass_llada.report.statistics import (
    FULL_SCORE,
    LEVEL,
    Interval,
    clip,
    combine_limits,
    effective_number,
)

ALPHA = 1 - LEVEL
POWER = 0.8  # of the number of clusters that would decide
MOST_EXACT = 12  # clusters of which every pattern of signs is tried; of more, so many at random:
NUM_PATTERNS = 9_999
#: Below so many clusters with a difference, their spread tells too little of the variance.
FEWEST_DIFFERENT = 6
_CHUNK = 256  # pairs at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """One line's scores in one column, by cluster."""

    keys: tuple[Hashable, ...]  # what tells clusters apart, the same in all lines
    strata: tuple[Hashable, ...]  # the part of the average that each cluster is drawn for
    weights_C: np.ndarray  # share of each cluster of the average; adds up to 1
    means_C: np.ndarray  # weighted mean of each cluster's samples
    num_samples: int
    is_bounded: bool = True  # whether scores are from 0 to 100

    @property
    def effective_number(self) -> float:
        """How many equal clusters say as much (Kish)."""
        return effective_number(self.weights_C.tolist())

    def is_paired_with(self, other: Clusters) -> bool:
        """Whether both are of the same clusters, in the same shares."""
        return self.keys == other.keys and bool(np.allclose(self.weights_C, other.weights_C))


def make_clusters(
    samples: Iterable[tuple[Hashable, Hashable, float, float]], *, is_bounded: bool = True
) -> Clusters:
    """Put samples, each (stratum, key, weight, score), together by cluster."""
    found: dict[tuple[Hashable, Hashable], list[float]] = {}
    for stratum, key, weight, score in samples:
        sums = found.setdefault((stratum, key), [0.0, 0.0, 0.0])
        sums[0] += weight
        sums[1] += weight * score
        sums[2] += 1
    sums_C3 = np.array(list(found.values()))
    return Clusters(
        keys=tuple(found),
        strata=tuple(stratum for stratum, _ in found),
        weights_C=sums_C3[:, 0] / sums_C3[:, 0].sum(),
        means_C=sums_C3[:, 1] / sums_C3[:, 0],
        num_samples=int(sums_C3[:, 2].sum()),
        is_bounded=is_bounded,
    )


def pair_p_values(lines: list[Clusters], first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    """Return the two-sided p-value of each pair of lines, given by their indices.

    Of scores from 0 to 100 by flipping signs of the clusters' differences: if no line is better,
    each could as well have the other sign. Where all differences are of one size, as of hits of one
    sample a cluster, that is McNemar's exact test. `scipy.stats.permutation_test` does the same for
    one pair; a column of 200 lines has 19,900. Others (nats a token) are compared by Student's t.

    Returns:
        [P]; never 0.
    """
    means_LC = np.stack([line.means_C for line in lines])
    if not lines[0].is_bounded:
        return _student_p_values(means_LC[first_P] - means_LC[second_P])
    shares_LC = means_LC * lines[0].weights_C
    signs_CR = _sign_patterns(shares_LC.shape[1])
    flipped_LR: np.ndarray | None = None
    p_values_P = np.ones(len(first_P))
    for start in range(0, len(first_P), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        first, second = first_P[chunk], second_P[chunk]
        parts_PC = shares_LC[first] - shares_LC[second]
        p_values_P[chunk], is_exact_P = _mcnemar(parts_PC)
        if is_exact_P.all():
            continue
        if flipped_LR is None:
            flipped_LR = shares_LC @ signs_CR
        first, second, rest = first[~is_exact_P], second[~is_exact_P], ~is_exact_P
        seen_P = np.abs(parts_PC[rest].sum(axis=1))
        reached_PR = np.abs(flipped_LR[first] - flipped_LR[second]) >= seen_P[:, None] * (1 - 1e-9)
        count_P, number = reached_PR.sum(axis=1), signs_CR.shape[1]
        if shares_LC.shape[1] <= MOST_EXACT:
            p_values = count_P / number
        else:
            p_values = (count_P + 1) / (number + 1)
            # Hoeffding's bound of the exact p-value tells those that no pattern of many reaches.
            bound_P = 2 * np.exp(-(seen_P**2) / 2 / (parts_PC[rest] ** 2).sum(axis=1))
            p_values = np.where(bound_P < 1 / (number + 1), bound_P, p_values)
        p_values_P[np.flatnonzero(rest) + start] = p_values
    return p_values_P


def _sign_patterns(num_clusters: int) -> np.ndarray:
    """Return all patterns with a positive first sign, as mirrors reach as far; or random ones."""
    if num_clusters <= MOST_EXACT:
        codes_R = np.arange(2 ** (num_clusters - 1))
        bits_CR = codes_R[None] >> np.arange(num_clusters)[:, None] & 1
    else:
        bits_CR = np.random.default_rng(0).integers(0, 2, (num_clusters, NUM_PATTERNS))
    return 1.0 - 2.0 * bits_CR


def _mcnemar(parts_PC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return McNemar's exact p-value of each pair, and whether it is of one: equal differences."""
    from scipy.stats import binom

    sizes_PC = np.abs(parts_PC)
    largest_P = sizes_PC.max(axis=1)
    differs_PC = sizes_PC > 1e-9 * np.maximum(largest_P, 1e-300)[:, None]
    differs_PC &= sizes_PC > 1e-12
    smallest_P = np.where(differs_PC, sizes_PC, np.inf).min(axis=1)
    number_P = differs_PC.sum(axis=1)
    fewer_P = np.minimum((differs_PC & (parts_PC > 0)).sum(axis=1),
                         (differs_PC & (parts_PC < 0)).sum(axis=1))  # fmt: skip
    p_values_P = np.minimum(2 * binom.cdf(fewer_P, number_P, 0.5), 1.0)
    return p_values_P, (number_P == 0) | (smallest_P >= largest_P * (1 - 1e-9))


def _student_p_values(differences_PC: np.ndarray) -> np.ndarray:
    from scipy.stats import ttest_1samp

    if differences_PC.shape[1] < 2:
        return np.ones(len(differences_PC))
    with np.errstate(all="ignore"):
        p_values_P = np.asarray(ttest_1samp(differences_PC, 0.0, axis=1).pvalue)
    # Equal in all clusters: without any difference, or with one that no chance makes.
    p_values_P[np.isnan(p_values_P)] = 1.0
    return np.maximum(p_values_P, np.finfo(float).tiny)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's p-values, corrected for as many comparisons as are given.

    As `statsmodels.stats.multitest.multipletests` does, which collects garbage at every call: 0.2 s
    a column where torch is loaded.
    """
    order, number = np.argsort(p_values, kind="stable"), len(p_values)
    adjusted = np.empty(number)
    factors = np.arange(number, 0, -1)
    adjusted[order] = np.maximum.accumulate(p_values[order] * factors).clip(max=1.0)
    return adjusted


@dataclass(frozen=True, kw_only=True, eq=False)
class Decisions:
    """What all pairs of lines decide, with Holm's correction for all of them."""

    lines: tuple[Clusters, ...]
    better_LL: np.ndarray  # whether the line of the row is decidedly better than the column's
    means_L: np.ndarray

    def nearest(self, place: int) -> list[int]:
        """Return the other lines, that with the nearest mean first."""
        apart_L = np.abs(self.means_L - self.means_L[place])
        return [i for i in np.argsort(apart_L, kind="stable").tolist() if i != place]

    def clusters_to_decide(self, first: int, second: int) -> int | None:
        """Return about how many more clusters would decide a pair, with the correction."""
        num_undecided = math.comb(len(self.lines), 2) - int(self.better_LL.sum())
        return clusters_to_decide(self.lines[first], self.lines[second], num_undecided)


def decide_all(lines: list[Clusters], *, higher_is_better: bool) -> Decisions:
    """Compare all pairs of lines that are paired."""
    first_P, second_P = np.triu_indices(len(lines), 1)
    adjusted_P = holm(pair_p_values(lines, first_P, second_P))
    means_L = np.array([line.weights_C @ line.means_C for line in lines])
    decided_P = adjusted_P <= ALPHA
    first_P, second_P = first_P[decided_P], second_P[decided_P]
    swap_P = (means_L[first_P] > means_L[second_P]) != higher_is_better
    better_LL = np.zeros((len(lines), len(lines)), dtype=bool)
    better_LL[np.where(swap_P, second_P, first_P), np.where(swap_P, first_P, second_P)] = True
    return Decisions(lines=tuple(lines), better_LL=better_LL, means_L=means_L)


def clusters_to_decide(first: Clusters, second: Clusters, num_comparisons: int) -> int | None:
    """Return about how many more clusters would decide a pair, were all of them as those seen.

    With a power of `POWER`, at the level that Holm's correction leaves the least of so many
    comparisons. None where no difference was seen, or one cluster alone.
    """
    from statsmodels.stats.power import normal_sample_size_one_tail

    apart_C = first.means_C - second.means_C
    variance, freedom = _variance_of_mean(apart_C, first.weights_C, first.strata)
    difference, number = float(first.weights_C @ apart_C), first.effective_number
    level = ALPHA / num_comparisons
    if freedom <= 0 or variance <= 0 or abs(difference) < 1e-9:
        return None
    deviation = math.sqrt(variance * number)
    needed = normal_sample_size_one_tail(abs(difference), POWER, level / 2, std_null=deviation)
    # Fewer clusters that differ have no p-value that small.
    share = np.count_nonzero(np.abs(apart_C) > 1e-9) / len(apart_C)
    fewest = (1 - math.log2(level)) / share if first.is_bounded else 2
    more = max(math.ceil(max(needed, fewest) - number), 1)
    return round(more, 2 - len(str(more)))  # two digits say how roughly


def difference_interval(first: Clusters, second: Clusters) -> Interval | None:
    """Return the 95 % interval of the first line's mean less the second's.

    Student's t over the clusters of each stratum, with Satterthwaite's degrees of freedom. Where
    fewer than `FEWEST_DIFFERENT` clusters differ, their spread says nothing on rare differences:
    there gain and loss have exact limits each (`statistics.combine_limits`). None for nats of fewer
    than two clusters.
    """
    apart_C, weights_C = first.means_C - second.means_C, first.weights_C
    if first.is_bounded and np.count_nonzero(np.abs(apart_C) > 1e-9) < FEWEST_DIFFERENT:
        gain, loss = (clip(float(weights_C @ np.maximum(sign * apart_C, 0))) for sign in (1, -1))
        return combine_limits(gain, loss, first.effective_number)
    variance, freedom = _variance_of_mean(apart_C, weights_C, first.strata)
    if freedom <= 0:
        return None
    mean = float(weights_C @ apart_C)
    reach = student_t_quantile(LEVEL, freedom) * math.sqrt(variance)
    most = FULL_SCORE if first.is_bounded else math.inf
    return max(mean - reach, -most), min(mean + reach, most)


def _variance_of_mean(
    values_C: np.ndarray, weights_C: np.ndarray, strata: tuple[Hashable, ...]
) -> tuple[float, float]:
    """Return the estimated variance of the weighted mean, and its degrees of freedom."""
    names = list(dict.fromkeys(strata))
    numbers_C = np.array([names.index(name) for name in strata])
    if np.bincount(numbers_C).min() < 2:
        numbers_C = np.zeros(len(strata), dtype=int)
    pieces = []
    for number in range(numbers_C.max() + 1):
        values, weights = values_C[numbers_C == number], weights_C[numbers_C == number]
        size = effective_number((weights / weights.sum()).tolist())
        if size - 1 < 1e-9:
            return 0.0, 0.0
        spread = values - weights @ values / weights.sum()
        pieces.append((float(((weights * spread) ** 2).sum() * size / (size - 1)), size - 1))
    return math.fsum(variance for variance, _ in pieces), satterthwaite(pieces)
