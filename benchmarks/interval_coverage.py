"""How often the leaderboard's 95 % intervals, and two others, hold the truth: by simulation.

    python benchmarks/interval_coverage.py

Cases: one cell of hits; 13 tasks of different rates; needles shared by 66 cells, few of them hard.
Compared: ours, the normal interval (mean plus or minus 1.96 standard errors) and the percentile
bootstrap over the same units. Writes benchmarks/records/interval_coverage.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from recording import ROOT, describe_run, write_record

from opencompass_llada.results.intervals import (
    Stratum,
    clustered_interval,
    stratified_interval,
    wilson,
)

REPEATS, RESAMPLES = 2000, 400
Interval = tuple[float, float]


def normal(units_SN: np.ndarray) -> Interval:
    """Return mean plus or minus 1.96 standard errors; S strata of N units each."""
    mean = units_SN.mean()
    error = math.sqrt(units_SN.var(axis=1, ddof=1).sum() / units_SN.shape[1]) / len(units_SN)
    return mean - 1.96 * error, mean + 1.96 * error


def bootstrap(units_SN: np.ndarray, rng: np.random.Generator) -> Interval:
    """Return the percentile bootstrap's interval, resampled within each stratum."""
    strata, number = units_SN.shape
    picks = rng.integers(0, number, (RESAMPLES, strata, number))
    means = np.take_along_axis(units_SN[None], picks, axis=2).mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def one_cell(rng: np.random.Generator, number: int, rate: float) -> np.ndarray:
    """Return hits of one cell."""
    return (rng.random((1, number)) < rate) * 100.0


def tasks(rng: np.random.Generator, number: int, rate: float) -> np.ndarray:
    """Return hits of 13 tasks whose rates lie evenly around the mean."""
    spread = 0.9 * min(rate, 1 - rate) * np.linspace(-1, 1, 13)
    return (rng.random((13, number)) < (rate + spread)[:, None]) * 100.0


def needles(rng: np.random.Generator, number: int, rate: float) -> np.ndarray:
    """Return each needle's mean over 66 cells; needles' own rates are mostly near 0 or 1."""
    own = rng.beta(2 * rate, 2 * (1 - rate), number)
    return (rng.random((66, number)) < own).mean(axis=0)[None] * 100


def ours(case: str, units_SN: np.ndarray) -> Interval:
    """Return the interval that the leaderboard shows."""
    if case == "one cell":
        return wilson(float(units_SN.mean()), units_SN.shape[1])
    if case == "needles":
        return clustered_interval(list(units_SN[0]))
    weight = 1 / len(units_SN)
    return stratified_interval([Stratum(weight=weight, scores=tuple(row)) for row in units_SN])


CASES: dict[str, Callable[..., np.ndarray]] = {
    "one cell": one_cell,
    "13 tasks": tasks,
    "needles": needles,
}


def measure(case: str, number: int, rate: float) -> dict[str, Any]:
    """Return coverage (percent) and mean width (points) of each interval."""
    rng = np.random.default_rng(0)
    inside = dict.fromkeys(("ours", "normal", "bootstrap"), 0)
    width = dict.fromkeys(inside, 0.0)
    for _ in range(REPEATS):
        units = CASES[case](rng, number, rate)
        found = {
            "ours": ours(case, units),
            "normal": normal(units),
            "bootstrap": bootstrap(units, rng),
        }
        for name, (low, high) in found.items():
            inside[name] += low <= 100 * rate <= high
            width[name] += (high - low) / REPEATS
    coverage = {name: round(100 * count / REPEATS, 1) for name, count in inside.items()}
    rounded = {name: round(value, 1) for name, value in width.items()}
    return {"case": case, "samples": number, "rate": rate, "coverage": coverage, "width": rounded}


def main() -> None:
    """Measure, print and write the record."""
    results = [
        measure(case, number, rate)
        for case in CASES
        for number in (5, 10, 50)
        for rate in (0.5, 0.9, 0.98)
    ]
    print("| case | samples | rate | ours: coverage, width | normal | bootstrap |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in results:
        cells = [
            f"{row['coverage'][n]} %, {row['width'][n]}" for n in ("ours", "normal", "bootstrap")
        ]
        print(f"| {row['case']} | {row['samples']} | {row['rate']} | {' | '.join(cells)} |")
    record = {
        **describe_run(),
        "repeats": REPEATS,
        "resamples": RESAMPLES,
        "results": results,
    }
    write_record(ROOT / "benchmarks/records/interval_coverage.json", record)


if __name__ == "__main__":
    main()
