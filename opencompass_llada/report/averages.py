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
from opencompass_llada.report.pairs import Clusters, make_clusters
from opencompass_llada.report.results import is_packaged
from opencompass_llada.report.scores import Score
from opencompass_llada.report.statistics import (
    FULL_SCORE,
    Interval,
    Stratum,
    clip,
    clopper_pearson,
    clustered_interval,
    stratified_interval,
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
    # First what was not asked for: no result of another member would have made an average.
    if absent:
        reason = f"not in this run: {', '.join(absent)}"
        return Average(num_tasks=number, status="not run", reason=reason)
    if bad := [name for name in group.members if by_task[name].status != "ok"]:
        reason = f"no result of {', '.join(bad)}"
        return Average(num_tasks=number, status="missing", reason=reason)
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


def cluster_rows(
    rows: Sequence[Row], weights: Sequence[float], *, is_grid: bool
) -> Clusters | None:
    """Put the samples of a weighted mean of cells together by cluster, None without their scores.

    Of a grid a cluster is a needle, which may be hidden at several places and in several samples of
    a place. Cells of other benchmarks are independent, but for those of one task with the same
    questions, as RULER's qa has at every length: there the question is. Samples of one number stand
    for one needle where it is not recorded.
    """
    if any(row.sample_scores is None for row in rows):
        return None
    # One order for all lines, in which pairs are found.
    pairs = sorted(zip(rows, weights, strict=True), key=lambda pair: _place(pair[0]))
    samples = []
    for row, weight in pairs:
        knows_units = len(row.units) == len(row.sample_scores) and all(row.units)
        part = "" if is_grid else (row.task, row.units if knows_units else _place(row))
        share = weight / len(row.sample_scores)
        for number, score in enumerate(row.sample_scores):
            key = str(row.units[number]) if is_grid and knows_units else number
            samples.append((part, key, share, score))
    return make_clusters(samples)


def _place(row: Row) -> tuple[str, ...]:
    return str(row.task), str(row.length), str(row.depth), str(row.metric)


def find_interval(clusters: Clusters | None, *, is_grid: bool, is_cell: bool) -> Interval | None:
    """Return the interval of a mean of a grid or of independent cells, None without sample scores.

    Of a single cell of hits it is exact, since Wilson's is too short near 0 and 100.
    """
    if clusters is None:
        return None
    means = list(map(clip, clusters.means_C.tolist()))
    if is_cell and set(means) <= {0.0, FULL_SCORE}:
        mean = clip(float(clusters.weights_C @ clusters.means_C))
        return clopper_pearson(mean, clusters.effective_number)
    if is_grid:
        return clustered_interval(means, sizes=clusters.weights_C.tolist())
    strata: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for name, weight, mean in zip(clusters.strata, clusters.weights_C, means, strict=True):
        strata[name].append((weight, mean))
    return stratified_interval(
        [
            Stratum(
                weight=min(math.fsum(weight for weight, _ in own), 1.0),
                scores=tuple(mean for _, mean in own),
            )
            for own in strata.values()
        ]
    )


def cell_interval(row: Row) -> Interval | None:
    """Return the interval of one place of a grid."""
    return find_interval(cluster_rows([row], [1.0], is_grid=True), is_grid=True, is_cell=True)


def make_board(collection: Collection) -> list[Score]:
    """Make every score of the leaderboard, without ranks, in the order of the runs."""
    results = collection.results
    results = results[results.benchmark != "perplexity"]
    titled = results.assign(series=name_series(results))
    return [*score_cells(titled), *_score_curves(collection)]


def score_cells(titled: pandas.DataFrame) -> list[Score]:
    """Make the scores of results with the ``series`` of each: their titles (`name_series`)."""
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
    return scores


def name_series(results: pandas.DataFrame) -> list[str]:
    """Return the title of the table that each row belongs to.

    A table is of one benchmark, language, haystack and way of drawing needles; besides, where a run
    asks the same place twice, of what counts lengths, the prompt's form and, if that does not tell
    them apart, the data set. Its title names what tells it from the benchmark's others.
    """
    embedded = results.data.map(is_packaged).map({True: "embedded", False: None})
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
    clusters = None if bad else cluster_rows(members, weights, is_grid=False)
    low, high = find_interval(clusters, is_grid=False, is_cell=False) or (None, None)
    return replace(
        scores[0],
        length=None,
        num_cells=sum(score.num_cells for score in scores),
        n=None if bad or len(counts) < len(scores) else sum(counts),
        score=None if bad else sum(values) / len(values),
        low=low,
        high=high,
        effective_n=None if clusters is None else clusters.effective_number,
        clusters=clusters,
        status=bad.status if bad else "ok",
        reason=f"at {bad.length}: {bad.reason}" if bad else "",
        protocol=hash_values([(score.length, score.protocol) for score in scores]),
    )


def _make_score(
    benchmark: Benchmark, series: str, group: Group, cells: Mapping[str, Row], length: int | None
) -> Score:
    """Average the cells of a group; one of which none was run is described by any other cell."""
    average, is_grid = average_group(cells, group), benchmark.is_grid
    members = [cells[name] for name in group.members if name in cells]
    weights = _weights(members, group)
    clusters = None
    if average.score is not None:
        clusters = cluster_rows(members, weights, is_grid=is_grid)
    low, high = find_interval(clusters, is_grid=is_grid, is_cell=len(members) == 1) or (None, None)
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
        is_group=is_grid or group in benchmark.groups,
        length=length,
        metric=members[0].metric,
        num_cells=average.num_tasks,
        n=average.n,
        score=average.score,
        low=low,
        high=high,
        effective_n=None if clusters is None else clusters.effective_number,
        clusters=clusters,
        status=average.status,
        reason=average.reason,
        protocol=hash_values(protocols),
        is_own=any(row.draws or is_packaged(row.data) for row in members),
    )


def _score_curves(collection: Collection) -> Iterator[Score]:
    """Yield perplexities with their own intervals, over the masks drawn."""
    kinds = {row.entry: row.kind for row in collection.rows}
    cells = {(row.entry, row.dataset): row for row in collection.rows}
    for point in collection.curves.itertuples():
        exact = point.estimator == "autoregressive"
        cell = cells.get((point.entry, point.dataset))
        clusters = _cluster_windows(point, cell)
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
            effective_n=None if clusters is None else clusters.effective_number,
            clusters=clusters,
            status=point.status,
            reason=point.reason,
            # An exact value and a bound of one text may be compared.
            protocol=hash_values([None if cell is None else hash_protocol(cell)]),
            is_own=point.text == "generated",
        )


def _cluster_windows(point: Row, cell: Row | None) -> Clusters | None:
    """Return nats a token by window; None of segments, whose point holds those of other cells."""
    if point.status != "ok" or point.target == "segment" or cell is None:
        return None
    if not cell.sample_scores:
        return None
    windows = enumerate(cell.sample_scores)
    return make_clusters((("", i, 1.0, nats) for i, nats in windows), is_bounded=False)
