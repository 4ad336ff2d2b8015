"""How often the leaderboard's 95 % intervals, and two others, hold the truth: by simulation.

    python benchmarks/interval_coverage.py [--cases "one cell" ...]

Cases: one cell of hits; 13 tasks of different rates; needles shared by 66 cells, few of them hard,
each in one sample of a cell, or drawn for each sample from half as many; the difference of two
settings of which the second loses some samples, wholly or in part. Compared: ours, the normal
interval (mean plus or minus 1.96 standard errors) and the percentile bootstrap over samples. Then
the likelihood bound of 64 tokens, one of them hard, by few draws of masks. Writes
benchmarks/records/interval_coverage.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from recording import ROOT, describe_run, write_record

from opencompass_llada.likelihood.masks import MaskSet
from opencompass_llada.report.statistics import (
    Stratum,
    clopper_pearson,
    clustered_interval,
    paired_interval,
    stratified_interval,
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


def drawn_needles(rng: np.random.Generator, number: int, rate: float) -> np.ndarray:
    """Return the mean over 66 cells of samples that each take one of half as many needles."""
    own = rng.beta(2 * rate, 2 * (1 - rate), number // 2)
    hits = (rng.random((66, number // 2)) < own).mean(axis=0) * 100
    # The needle's mean tells it from others, and `ours` knows it by that.
    return (hits + 1e-9 * np.arange(number // 2))[rng.integers(0, number // 2, number)][None]


def losses(rng: np.random.Generator, number: int, rate: float) -> np.ndarray:
    """Return differences of samples that the second setting loses at a rate."""
    return (rng.random((1, number)) < rate) * -100.0


def graded_losses(rng: np.random.Generator, number: int, rate: float) -> np.ndarray:
    """Return differences as of `losses`, of some part of the score each."""
    return losses(rng, number, rate) * rng.uniform(0, 1, (1, number))


def ours(case: str, units_SN: np.ndarray) -> Interval:
    """Return the interval that the leaderboard shows."""
    if case == "one cell":
        return clopper_pearson(float(units_SN.mean()), units_SN.shape[1])
    if case == "needles":
        return clustered_interval(list(units_SN[0]))
    if case == "drawn needles":
        means, sizes = np.unique(units_SN[0], return_counts=True)
        return clustered_interval(list(np.minimum(means, 100)), sizes=list(map(int, sizes)))
    if case in PAIRED:
        found = paired_interval(list(units_SN[0]))
        assert found is not None, "differences lie within 100 points"
        return found
    weight = 1 / len(units_SN)
    return stratified_interval([Stratum(weight=weight, scores=tuple(row)) for row in units_SN])


CASES: dict[str, Callable[..., np.ndarray]] = {
    "one cell": one_cell,
    "13 tasks": tasks,
    "needles": needles,
    "drawn needles": drawn_needles,
    "losses": losses,
    "graded losses": graded_losses,
}
#: Cases of a difference: the mean of a sample that is lost, in points.
PAIRED = {"losses": -100.0, "graded losses": -50.0}


def measure(case: str, number: int, rate: float) -> dict[str, Any]:
    """Return coverage (percent) and mean width (points) of each interval."""
    rng = np.random.default_rng(0)
    inside = dict.fromkeys(("ours", "normal", "bootstrap"), 0)
    width = dict.fromkeys(inside, 0.0)
    truth = PAIRED.get(case, 100.0) * rate
    for _ in range(REPEATS):
        units = CASES[case](rng, number, rate)
        found = {
            "ours": ours(case, units),
            "normal": normal(units),
            "bootstrap": bootstrap(units, rng),
        }
        for name, (low, high) in found.items():
            inside[name] += low - 1e-6 <= truth <= high + 1e-6
            width[name] += (high - low) / REPEATS
    coverage = {name: round(100 * count / REPEATS, 1) for name, count in inside.items()}
    rounded = {name: round(value, 1) for name, value in width.items()}
    return {"case": case, "samples": number, "rate": rate, "coverage": coverage, "width": rounded}


def measure_hard_token(draws: int) -> dict[str, Any]:
    """Return how often the bound's interval holds it where one of 64 tokens is hard."""
    nats_T = torch.full((64,), 0.1, dtype=torch.float64)
    nats_T[0], inside = 10.0, 0
    for seed in range(REPEATS):
        masks = MaskSet.draw(64, draws, torch.Generator().manual_seed(seed))
        low, high = masks.estimate([float(nats_T[mask].sum()) for mask in masks.masks]).interval()
        inside += low <= float(nats_T.mean()) <= high
    return {"draws": draws, "coverage": round(100 * inside / REPEATS, 1)}


def main() -> None:
    """Measure, print and write the record; cases that are not named stay as they were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    cases, path = parser.parse_args().cases, ROOT / "benchmarks/records/interval_coverage.json"
    before = json.loads(path.read_text()) if len(cases) < len(CASES) else {"results": []}
    results = [
        measure(case, number, rate)
        for case in cases
        for number in ((5, 10, 20, 50, 100) if case in PAIRED else (5, 10, 50))
        for rate in ((0.0, 0.02, 0.1, 0.3) if case in PAIRED else (0.5, 0.9, 0.98))
    ]
    print("| case | samples | rate | ours: coverage, width | normal | bootstrap |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in results:
        cells = [
            f"{row['coverage'][n]} %, {row['width'][n]}" for n in ("ours", "normal", "bootstrap")
        ]
        print(f"| {row['case']} | {row['samples']} | {row['rate']} | {' | '.join(cells)} |")
    results += [row for row in before["results"] if row["case"] not in cases]
    record = {
        **describe_run(),
        "others_measured_at": before.get("commit"),
        "repeats": REPEATS,
        "resamples": RESAMPLES,
        "results": results,
        "hard_token": [measure_hard_token(draws) for draws in (4, 8, 16, 32, 128)],
    }
    write_record(path, record)


if __name__ == "__main__":
    main()
