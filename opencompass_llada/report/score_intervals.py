"""Intervals of the leaderboard's averages, from the scores of their samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from opencompass_llada.benchmarks.facts import Group
from opencompass_llada.report.collect import Collection, check_samples
from opencompass_llada.report.frame import TidyRow
from opencompass_llada.report.statistics import (
    Stratum,
    clustered_interval,
    stratified_interval,
    wilson,
)


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
    """Return the interval of a weighted mean of cells, None without sample scores.

    Cells are independent, but for those of one task with the same questions, as RULER's qa has at
    every length: there each question's mean over the cells is one observation.
    """
    strata: dict[Hashable, list[tuple[float, tuple[float, ...]]]] = defaultdict(list)
    for row, weight in zip(rows, weights, strict=True):
        scores = sample_scores(collection, row)
        if scores is None:
            return None
        units = collection.cells[row.run, row.model, row.dataset].units
        known = len(units) == len(scores) and all(units)
        strata[(row.task, units) if known else id(row)].append((weight, scores))
    if len(rows) == 1 and len(strata) == 1:
        [[(_, scores)]] = strata.values()
        if set(scores) <= {0.0, 100.0}:
            return wilson(rows[0].score or 0.0, len(scores))
    return stratified_interval([_join(cells) for cells in strata.values()])


def _join(cells: Sequence[tuple[float, tuple[float, ...]]]) -> Stratum:
    """Average cells sample by sample."""
    total = sum(weight for weight, _ in cells)
    columns = zip(*(scores for _, scores in cells), strict=True)
    shares = [weight / total for weight, _ in cells]
    means = [sum(s * x for s, x in zip(shares, column, strict=True)) for column in columns]
    return Stratum(weight=min(total, 1.0), scores=tuple(min(max(m, 0.0), 100.0) for m in means))


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
