"""Intervals of the leaderboard's averages, from the scores of their samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from opencompass_llada.results.collect import Collection, check_samples
from opencompass_llada.results.groups import Group
from opencompass_llada.results.intervals import (
    Stratum,
    clustered_interval,
    stratified_interval,
    wilson,
)
from opencompass_llada.results.tidy import TidyRow


def task_interval(
    collection: Collection, rows: Sequence[TidyRow], group: Group
) -> tuple[float, float] | None:
    """Return the interval of a group of independent tasks, None without sample scores.

    Args:
        collection: What was read.
        rows: The group's members, all with a score.
        group: How they are weighted.
    """
    counts = [float(row.n or 0) for row in rows]
    weights = counts if group.weighting == "samples" else [1.0] * len(rows)
    total = sum(weights)
    return strata_interval(collection, rows, [weight / total for weight in weights])


def strata_interval(
    collection: Collection, rows: Sequence[TidyRow], weights: Sequence[float]
) -> tuple[float, float] | None:
    """Return the interval of a weighted mean of independent cells, None without sample scores."""
    strata = []
    for row, weight in zip(rows, weights, strict=True):
        scores = sample_scores(collection, row)
        if scores is None:
            return None
        strata.append(Stratum(weight=weight, scores=scores))
    if len(strata) == 1 and set(strata[0].scores) <= {0.0, 100.0}:
        return wilson(rows[0].score or 0.0, len(strata[0].scores))
    return stratified_interval(strata)


def grid_interval(collection: Collection, rows: Sequence[TidyRow]) -> tuple[float, float] | None:
    """Return the interval of a mean over places, whose needles are the same at each.

    The needles are what was drawn, and one may be hidden in several samples of a place; where they
    are not recorded, samples of one number stand for one needle. None without scores by sample.
    """
    clusters: dict[str, list[float]] = defaultdict(list)
    sizes = set()
    for row in rows:
        scores = sample_scores(collection, row)
        if scores is None:
            return None
        units = collection.cells[row.run, row.model, row.dataset].units
        if len(units) != len(scores) or not all(units):
            units = tuple(map(str, range(len(scores))))
        for unit, score in zip(units, scores, strict=True):
            clusters[unit].append(score)
        sizes.add(len(scores))
    if len(sizes) != 1:
        return None
    means = [sum(scores) / len(scores) for scores in clusters.values()]
    return clustered_interval(means, sizes=[len(scores) for scores in clusters.values()])


def sample_scores(collection: Collection, row: TidyRow) -> tuple[float, ...] | None:
    """Return a cell's score of each sample; of a hit rate, its hits where details are missing.

    Args:
        collection: What was read.
        row: The cell's row, with a score.
    """
    cell = collection.cells.get((row.run, row.model, row.dataset))
    scores = check_samples(cell.scores.get(row.metric), row) if cell is not None else None
    if scores is None and row.metric == "accuracy" and row.n and row.score is not None:
        hits = row.score / 100 * row.n
        if abs(hits - round(hits)) < 1e-6:
            return (100.0,) * round(hits) + (0.0,) * (row.n - round(hits))
    return scores
