"""Intervals: against scipy's and by simulated coverage."""

import math

import numpy as np
import pytest

from opencompass_llada.report.statistics import (
    Stratum,
    clopper_pearson,
    clustered_interval,
    paired_interval,
    stratified_interval,
    wilson,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(("hits", "number"), [(0, 5), (1, 2), (10, 10), (37, 100), (499, 500)])
def test_wilson_equals_scipys(hits, number):
    expected = stats.binomtest(hits, number).proportion_ci(method="wilson")
    assert wilson(100 * hits / number, number) == pytest.approx(
        (100 * expected.low, 100 * expected.high), abs=1e-9
    )


def test_exact_limits_equal_scipys():
    for hits, number in ((0, 5), (1, 2), (10, 10), (37, 100)):
        expected = stats.binomtest(hits, number).proportion_ci(method="exact")
        assert clopper_pearson(100 * hits / number, number) == pytest.approx(
            (100 * expected.low, 100 * expected.high), abs=1e-9
        )


def coverage_of_paired(number, gain, loss):
    """Return the exact coverage where samples gain or lose all points, by enumeration."""
    inside = 0.0
    for gains in range(number + 1):
        for losses in range(number + 1 - gains):
            outcome = [gains, losses, number - gains - losses]
            chance = stats.multinomial.pmf(outcome, number, [gain, loss, 1 - gain - loss])
            if chance > 1e-7:
                differences = [100.0] * gains + [-100.0] * losses + [0.0] * outcome[2]
                low, high = paired_interval(differences)
                inside += chance * (low <= 100 * (gain - loss) <= high)
    return inside


@pytest.mark.parametrize("number", [5, 10, 20, 50, 100])
def test_paired_interval_holds(number):
    """A bootstrap held the truth in 33 % of the cases (20 samples, 2 % lost)."""
    for loss in (0.0, 0.02, 0.1, 0.3):
        for gain in (0.0, 0.02) if number < 50 else (0.0,):
            assert coverage_of_paired(number, gain, loss) >= 0.95, (loss, gain)


def test_paired_interval_of_needles_at_many_places():
    """Ten needles at 20 places each are ten observations; parts of the score count as parts."""
    rng = np.random.default_rng(4)
    needles = [str(needle) for needle in range(10) for _ in range(20)]

    def draw(rng):
        lost = rng.random(10) < 0.1
        return -(rng.uniform(0.4, 1.0, 200) * 50 * np.repeat(lost, 20))

    def interval(differences):
        return paired_interval(list(differences), needles)

    def naive(differences):
        return paired_interval(list(differences))

    truth = -0.1 * 0.7 * 50
    assert covered(rng, draw, interval, truth, repeats=400) >= LOWEST
    assert covered(rng, draw, naive, truth, repeats=400) < 0.9, "samples are not independent"


def test_paired_interval_has_a_width_and_its_limits():
    low, high = paired_interval([0.0] * 20)
    assert (low, high) == pytest.approx((-16.8, 16.8), abs=0.1), "3 of 20 may yet differ"
    assert paired_interval([-100.0, 0.0]) == pytest.approx(
        tuple(-value for value in paired_interval([100.0, 0.0])[::-1])
    )
    assert paired_interval([0.0] * 6, list("aabbcc")) == paired_interval([0.0] * 3)
    assert paired_interval([-100.0, 100.0], ["a", "a"]) == paired_interval([0.0])
    assert paired_interval([101.0, 0.0]) is None, "no limit of the metric is known"
    with pytest.raises(ValueError, match="at least one"):
        paired_interval([])


def test_needles_that_occur_more_often():
    assert clustered_interval([100.0, 0.0], sizes=[1, 3]) == wilson(25, 1 / (1 / 16 + 9 / 16))


def covered(rng, draw, interval, truth, repeats=1500):
    """Return how often the interval holds the truth."""
    inside = 0
    for _ in range(repeats):
        low, high = interval(draw(rng))
        inside += low <= truth <= high
    return inside / repeats


# A share of 1500 at 95 % has a standard error of 0.6 points; 93 % is 3.5 of them below.
LOWEST = 0.93


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.9, 0.98])
def test_coverage_of_tasks_with_different_rates(rate):
    """13 tasks of 10 samples, hit rates spread around the mean, as RULER."""
    rng = np.random.default_rng(1)
    spread = min(rate, 1 - rate)
    rates = np.clip(rate + spread * np.linspace(-0.9, 0.9, 13), 0, 1)

    def draw(rng):
        return (rng.random((13, 10)) < rates[:, None]) * 100.0

    def interval(scores):
        return stratified_interval([Stratum(weight=1 / 13, scores=tuple(task)) for task in scores])

    assert covered(rng, draw, interval, 100 * rates.mean()) >= LOWEST


@pytest.mark.parametrize(("number", "share"), [(2, 0.5), (5, 0.8), (10, 0.3), (10, 0.95)])
def test_coverage_where_depths_share_their_needles(number, share):
    """66 cells that see the same needles: some needles are hard at every place."""
    rng = np.random.default_rng(2)
    # Each needle has a rate of its own, mostly near 0 or 1.
    a, b = 2 * share, 2 * (1 - share)

    def draw(rng):
        own = rng.beta(a, b, number)
        return (rng.random((66, number)) < own).mean(axis=0) * 100

    def naive(means):
        return wilson(min(100.0, float(np.mean(means))), 66 * number)

    assert covered(rng, draw, lambda means: clustered_interval(list(means)), 100 * share) >= LOWEST
    assert covered(rng, draw, naive, 100 * share) < 0.8, "cells are no independent samples"


def test_coverage_of_graded_scores():
    rng = np.random.default_rng(3)

    def draw(rng):
        return 100 * rng.beta(0.4, 0.8, (6, 20))

    def interval(scores):
        return stratified_interval([Stratum(weight=1 / 6, scores=tuple(t)) for t in scores])

    assert covered(rng, draw, interval, 100 / 3) >= LOWEST


def test_width_shrinks_with_samples_and_never_to_nothing():
    widths = []
    for number in (2, 8, 32, 128):
        low, high = stratified_interval([Stratum(weight=1.0, scores=(100.0,) * number)])
        widths.append(high - low)
        assert high == 100
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] > 0


def test_one_sample_a_task_uses_the_floor():
    strata = [Stratum(weight=0.25, scores=(score,)) for score in (0.0, 100.0, 100.0, 100.0)]
    assert stratified_interval(strata) == pytest.approx(wilson(75, 4))


@pytest.mark.parametrize(
    ("weights", "scores", "message"),
    [([0.5, 0.4], [1.0], "add up"), ([1.0], [101.0], "0 to 100"), ([1.0], [], "0 to 100")],
)
def test_wrong_input_is_refused(weights, scores, message):
    with pytest.raises(ValueError, match=message):
        stratified_interval([Stratum(weight=w, scores=tuple(scores)) for w in weights])


def test_means_out_of_range_are_refused():
    with pytest.raises(ValueError, match="from 0 to 100"):
        wilson(math.nan, 3)
