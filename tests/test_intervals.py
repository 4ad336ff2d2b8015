"""Intervals: against scipy's and by simulated coverage."""

import math

import numpy as np
import pytest

from opencompass_llada.results.intervals import (
    Stratum,
    clustered_interval,
    stratified_interval,
    t_quantile,
    wilson,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(("hits", "number"), [(0, 5), (1, 2), (10, 10), (37, 100), (499, 500)])
def test_wilson_equals_scipys(hits, number):
    expected = stats.binomtest(hits, number).proportion_ci(method="wilson")
    assert wilson(100 * hits / number, number) == pytest.approx(
        (100 * expected.low, 100 * expected.high), abs=1e-9
    )


@pytest.mark.parametrize(("freedom", "error"), [(1, 1e-6), (2, 1e-6), (3, 0.004), (10, 1e-3)])
def test_student_quantile(freedom, error):
    assert t_quantile(0.95, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=error)


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
