"""How often the leaderboard's comparisons of pairs are right: by simulation.

    python benchmarks/paired_comparisons.py

Two models answer at some rates, each needle asked at 20 places. A needle is hard for both by one
measure (``same``: the quantile of its rate), or for each by its own (``own``); or each question is
asked once (``once``). Measured: how often the 95 % interval of the difference holds it, how often
the pair is decided (power, or false alarms where the rates are equal), and how often the two lines'
own intervals lie apart, by which ranks went before. Then families of six equal lines (how often
Holm's correction lets any pair through) and of four planted ones (how often the whole order, and a
wrong pair, comes out). Writes benchmarks/records/paired_comparisons.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from recording import ROOT, describe_run, write_record
from scipy.stats import beta

from opencompass_llada.report.pairs import (
    ALPHA,
    Clusters,
    decide_all,
    difference_interval,
    pair_p_values,
)
from opencompass_llada.report.statistics import clustered_interval

REPEATS, FAMILIES = 1000, 500
PLACES = 20
BATCH = 250  # pairs tested at once, on one set of sign patterns
NUMBERS = (10, 20, 40, 80)
RATES = ((0.9, 0.7), (0.9, 0.9), (0.5, 0.5))
ORDER = (0.9, 0.75, 0.6, 0.45)


def draw_lines(
    rng: np.random.Generator, kind: str, number: int, rates: Sequence[float]
) -> list[Clusters]:
    """Return a line a rate: needles whose own rates are mostly near 0 or 1, at all places."""
    rates_L1 = np.array(rates)[:, None]
    if kind == "once":
        hits_LC = rng.random((len(rates), number)) < rates_L1
    else:
        quantiles_LC = rng.random((1 if kind == "same" else len(rates), number))
        own_LC = beta.ppf(quantiles_LC, 2 * rates_L1, 2 * (1 - rates_L1))
        hits_LC = (rng.random((PLACES, len(rates), number)) < own_LC).mean(axis=0)
    shared = {
        "keys": tuple(range(number)),
        "strata": (0,) * number,
        "weights_C": np.full(number, 1 / number),
        "num_samples": number * (1 if kind == "once" else PLACES),
    }
    return [Clusters(means_C=100.0 * means_C, **shared) for means_C in hits_LC]


def measure_pair(kind: str, number: int, rates: tuple[float, float]) -> dict[str, Any]:
    """Return percent of runs in which interval and test are right, and the mean width in points."""
    rng = np.random.default_rng(0)
    inside = width = decided = apart = 0.0
    for _ in range(REPEATS // BATCH):
        lines = [line for _ in range(BATCH) for line in draw_lines(rng, kind, number, rates)]
        firsts = np.arange(0, 2 * BATCH, 2)
        decided += (pair_p_values(lines, firsts, firsts + 1) <= ALPHA).sum()
        for first, second in zip(lines[::2], lines[1::2], strict=True):
            low, high = difference_interval(first, second) or (0.0, 0.0)
            inside += low - 1e-6 <= 100 * (rates[0] - rates[1]) <= high + 1e-6
            width += high - low
            (low, high), (other_low, other_high) = (
                clustered_interval(line.means_C.round(9).tolist()) for line in (first, second)
            )
            apart += low > other_high or other_low > high
    shares = {"coverage": inside, "decided": decided, "intervals_apart": apart}
    return {
        **{"kind": kind, "needles": number, "rates": list(rates)},
        **{name: round(100 * float(count) / REPEATS, 1) for name, count in shares.items()},
        "width": round(width / REPEATS, 1),
    }


def measure_family(kind: str, number: int, rates: Sequence[float]) -> dict[str, Any]:
    """Return percent of runs with any wrong decision of a pair, and with all of them right."""
    rng = np.random.default_rng(0)
    truth_LL = np.array(rates)[:, None] > np.array(rates)
    wrong = whole = 0
    for _ in range(FAMILIES):
        found_LL = decide_all(draw_lines(rng, kind, number, rates), higher_is_better=True).better_LL
        wrong += bool((found_LL & ~truth_LL).any())
        whole += bool((found_LL == truth_LL).all())
    shares = {"any_wrong": wrong, "all_right": whole}
    return {
        **{"kind": kind, "needles": number, "rates": list(rates)},
        **{name: round(100 * count / FAMILIES, 1) for name, count in shares.items()},
    }


def main() -> None:
    """Measure, print and write the record."""
    pairs, families = [], []
    for kind in ("same", "own", "once"):
        for number in NUMBERS:
            pairs += [measure_pair(kind, number, rates) for rates in RATES]
            print(*pairs[-len(RATES) :], sep="\n", flush=True)
    for kind in ("same", "own", "once"):
        for number, rates in ((10, (0.8,) * 6), (40, (0.8,) * 6), (20, ORDER), (80, ORDER)):
            families.append(measure_family(kind, number, rates))
            print(families[-1], flush=True)
    counts = {"repeats": REPEATS, "families": FAMILIES, "places": PLACES}
    record = {**describe_run(), **counts, "pairs": pairs, "groups": families}
    write_record(ROOT / "benchmarks/records/paired_comparisons.json", record)


if __name__ == "__main__":
    main()
