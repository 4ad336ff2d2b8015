"""Averages results into the scores of the leaderboard, each with interval and status.

A column with a missing member has no number; it is never the mean of the rest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas

from opencompass_llada.benchmarks.benchmark import GRID_GROUP, Benchmark, Group, find_benchmark
from opencompass_llada.report.collect import CELL_KEY, Collection
from opencompass_llada.report.identity import hash_protocol
from opencompass_llada.report.scores import Score
from opencompass_llada.report.statistics import (
    Interval,
    Stratum,
    clip,
    clustered_interval,
    stratified_interval,
    wilson,
)
from opencompass_llada.runs.hashes import hash_values

Row = Any  # of the results, as `DataFrame.itertuples` gives it


@dataclass(frozen=True, kw_only=True)
class Average:
    """A group's average for one model at one length."""

    num_tasks: int
    n: int | None = None  # samples of all members together
    score: float | None = None  # None unless status is ``ok``
    standard_error: float | None = None  # of independent members; None if any has none
    status: str = "ok"  # ``ok``, ``missing`` (a member has no result), ``not run`` (not asked for)
    reason: str = ""


def average_group(by_task: Mapping[Any, Row], group: Group) -> Average:
    """Average the members of a group, given one model's rows at one length by task."""
    number = len(group.members)
    present = [by_task[name] for name in group.members if name in by_task]
    absent = [name for name in group.members if name not in by_task]
    counts = [row.n for row in present if row.n]
    if bad := [str(row.task) for row in present if row.status != "ok"]:
        reason = f"no result of {', '.join(bad)}"
        return Average(num_tasks=number, status="missing", reason=reason)
    if absent:
        reason = f"not in this run: {', '.join(absent)}"
        return Average(num_tasks=number, status="not run", reason=reason)
    if group.weighting == "samples" and len(counts) < number:
        reason = "a member has no number of samples to be weighted by"
        return Average(num_tasks=number, status="missing", reason=reason)
    weights = _weights(present, group)
    pairs = list(zip(weights, present, strict=True))
    error = None
    if all(row.standard_error is not None for row in present):
        error = math.hypot(*(w * row.standard_error for w, row in pairs)) / sum(weights)
    return Average(
        num_tasks=number,
        n=sum(counts) if len(counts) == number else None,
        score=sum(w * row.score for w, row in pairs) / sum(weights),
        standard_error=error,
    )


def _weights(rows: Sequence[Row], group: Group) -> list[float]:
    return [float(row.n or 0) if group.weighting == "samples" else 1.0 for row in rows]


def strata_interval(rows: Sequence[Row], weights: Sequence[float]) -> Interval | None:
    """Return the interval of a weighted mean of cells, None without sample scores.

    Cells are independent, but for those of one task with the same questions, as RULER's qa has at
    every length: there each question's mean over the cells is one observation.
    """
    if any(row.sample_scores is None for row in rows):
        return None
    if len(rows) == 1 and set(rows[0].sample_scores) <= {0.0, 100.0}:
        return wilson(rows[0].score or 0.0, len(rows[0].sample_scores))
    groups: dict[Hashable, list[tuple[float, tuple[float, ...]]]] = defaultdict(list)
    for row, weight in zip(rows, weights, strict=True):
        key = (row.task, row.units) if _knows_units(row) else id(row)
        groups[key].append((weight, row.sample_scores))
    strata = []
    for cells in groups.values():
        total = sum(weight for weight, _ in cells)
        shares = [weight / total for weight, _ in cells]
        samples = zip(*(scores for _, scores in cells), strict=True)
        means = [sum(s * x for s, x in zip(shares, own, strict=True)) for own in samples]
        strata.append(Stratum(weight=min(total, 1.0), scores=tuple(map(clip, means))))
    return stratified_interval(strata)


def _knows_units(row: Row) -> bool:
    return len(row.units) == len(row.sample_scores) and all(row.units)


def grid_interval(rows: Sequence[Row]) -> Interval | None:
    """Return the interval of a mean over places, whose needles are the same at each.

    The needles are what was drawn, and one may be hidden in several samples of a place; where they
    are not recorded, samples of one number stand for one needle. None without scores by sample.
    """
    if any(row.sample_scores is None for row in rows):
        return None
    if len({len(row.sample_scores) for row in rows}) != 1:
        return None
    clusters: dict[Hashable, list[float]] = defaultdict(list)
    for row in rows:
        units = row.units if _knows_units(row) else range(len(row.sample_scores))
        for unit, score in zip(units, row.sample_scores, strict=True):
            clusters[str(unit)].append(score)
    means = [sum(scores) / len(scores) for scores in clusters.values()]
    return clustered_interval(means, sizes=[len(scores) for scores in clusters.values()])


def make_board(collection: Collection) -> list[Score]:
    """Make every score of the leaderboard, without ranks, in the order of the runs."""
    results = collection.results
    results = results[results.benchmark != "perplexity"]
    titled = results.assign(series=_name_series(results))
    scores: list[Score] = []
    for (name, title), members in titled.groupby(["benchmark", "series"], sort=False):
        benchmark, cells = find_benchmark(name), pandas.MultiIndex.from_frame(members[CELL_KEY])
        reported = members[members.score.notna()]
        present = list((reported if len(reported) else members).metric.unique())
        metrics = [metric for metric in benchmark.metrics if metric in present] or present
        # A grid's other metrics are series of their own: papers report NeedleBench's score.
        for metric in metrics if benchmark.is_grid else metrics[:1]:
            is_own = members.metric == metric
            # Cells without a result stand for any metric that no number has.
            is_lost = ~members.metric.isin(present) & ~cells.isin(cells[is_own])
            shown = members[is_own | is_lost].assign(metric=metric)
            heading = str(title) if metric == metrics[0] else f"{title}, {metric}"
            make = _score_grid if benchmark.is_grid else _score_tasks
            for _, line in shown.groupby("entry", sort=False):
                scores += make(benchmark, heading, list(line.itertuples()))
    return [*scores, *_score_curves(collection)]


def _name_series(results: pandas.DataFrame) -> list[str]:
    """Return the title of the table that each row belongs to.

    A table is of one benchmark, language, haystack and way of drawing needles; besides, where a run
    asks the same place twice, of what counts lengths, the prompt's form and, if that does not tell
    them apart, the data set. Its title names what tells it from the benchmark's others.
    """
    embedded = results.data.str.startswith("asset:").map({True: "embedded", False: None})
    keys = results[["benchmark", "language"]].assign(
        haystack=results.haystack.fillna(embedded), draws=results.draws + " needles"
    )
    places = results[["entry", "metric", "length"]].assign(place=results.task.fillna(results.depth))
    for more in (["tokenizer", "prompt"], ["dataset"]):
        table = keys.groupby([*keys], dropna=False, sort=False).ngroup()
        cells = places.assign(table=table)[places.place.notna()]
        twice = table.isin(cells.table[cells.duplicated()])
        keys[more] = results[more].where(twice)
    differ = keys.groupby("benchmark").transform("nunique", dropna=False) > 1
    named = keys[[*differ]].where(differ & keys.astype(bool))
    return [
        ", ".join([find_benchmark(benchmark).title, *map(str, parts.dropna())])
        for benchmark, (_, parts) in zip(keys.benchmark, named.iterrows(), strict=True)
    ]


def _score_grid(benchmark: Benchmark, series: str, rows: Sequence[Row]) -> Iterator[Score]:
    """Yield the mean over depths at each length, and over all cells."""
    for length in (*sorted({row.length for row in rows} - {None}), None):
        by_place = {
            f"{row.length} at {row.depth:g} %": row
            for row in rows
            if row.depth is not None and length in (None, row.length)
        }
        if by_place:
            group = Group(name=GRID_GROUP, members=tuple(by_place))
            yield _make_score(benchmark, series, group, by_place, length)


def _score_tasks(benchmark: Benchmark, series: str, rows: Sequence[Row]) -> Iterator[Score]:
    """Yield groups and tasks at each length, and the headline over all lengths."""
    headline: list[Score] = []
    for length in sorted({row.length for row in rows} - {None}) or [None]:
        by_task: dict[str, Row] = {}
        for row in rows:
            if row.length == length:
                by_task.setdefault(row.task or row.dataset, row)
        tasks = [Group(name=task, members=(task,)) for task in by_task]
        for group in (*benchmark.groups, *tasks):
            score = _make_score(benchmark, series, group, by_task, length)
            if group.name == benchmark.headline:
                headline.append(score)
            yield score
    if len(headline) > 1:
        yield _mean_over_lengths(benchmark, headline, rows)


def _mean_over_lengths(benchmark: Benchmark, scores: Sequence[Score], rows: Sequence[Row]) -> Score:
    """Average the headline over lengths, as RULER's table does; missing if any length is."""
    bad = next((score for score in scores if score.status != "ok"), None)
    values = [score.score for score in scores if score.score is not None]
    counts = [score.n for score in scores if score.n is not None]
    group = next(group for group in benchmark.groups if group.name == benchmark.headline)
    members = [row for row in rows if row.task in group.members]
    weights = [1 / len(scores) / len(group.members)] * len(members)
    low, high = (None if bad else strata_interval(members, weights)) or (None, None)
    return replace(
        scores[0],
        length=None,
        num_cells=sum(score.num_cells for score in scores),
        n=None if bad or len(counts) < len(scores) else sum(counts),
        score=None if bad else sum(values) / len(values),
        low=low,
        high=high,
        status=bad.status if bad else "ok",
        reason=f"at {bad.length}: {bad.reason}" if bad else "",
        protocol=hash_values([(score.length, score.protocol) for score in scores]),
    )


def _make_score(
    benchmark: Benchmark, series: str, group: Group, cells: Mapping[str, Row], length: int | None
) -> Score:
    """Average the cells of a group; one of which none was run is described by any other cell."""
    average, interval = average_group(cells, group), None
    members = [cells[name] for name in group.members if name in cells]
    if average.score is not None and benchmark.is_grid:
        interval = grid_interval(members)
    elif average.score is not None:
        weights = _weights(members, group)
        total = sum(weights)
        interval = strata_interval(members, [weight / total for weight in weights])
    low, high = interval or (None, None)
    members = members or list(cells.values())[:1]
    protocols = sorted(
        (str(row.task), str(row.length), str(row.depth), hash_protocol(row)) for row in members
    )
    return Score(
        entry=members[0].entry,
        kind=members[0].kind,
        benchmark=benchmark.name,
        series=series,
        column=group.name,
        is_group=benchmark.is_grid or group in benchmark.groups,
        length=length,
        metric=members[0].metric,
        num_cells=average.num_tasks,
        n=average.n,
        score=average.score,
        low=low,
        high=high,
        status=average.status,
        reason=average.reason,
        protocol=hash_values(protocols),
        is_embedded=any(row.data.startswith("asset:") for row in members),
    )


def _score_curves(collection: Collection) -> Iterator[Score]:
    """Yield perplexities with their own intervals, over the masks drawn."""
    kinds = {row.entry: row.kind for row in collection.rows}
    protocols = {(row.entry, row.dataset): hash_protocol(row) for row in collection.rows}
    for point in collection.curves.itertuples():
        exact = point.estimator == "autoregressive"
        yield Score(
            entry=point.entry,
            kind="autoregressive" if exact else kinds.get(point.entry, "unknown"),
            benchmark="perplexity",
            series=f"Perplexity, {point.target} text",
            column="perplexity",
            length=point.length,
            metric="perplexity",
            higher_is_better=False,
            n=point.num_tokens,
            score=point.perplexity,
            low=point.perplexity_low,
            high=point.perplexity_high,
            status=point.status,
            reason=point.reason,
            # An exact value and a bound of one text may be compared.
            protocol=hash_values([protocols.get((point.entry, point.dataset))]),
            is_embedded=point.text == "generated",
        )
