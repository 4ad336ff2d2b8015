"""The leaderboard as data: a score with interval and status for each line and column.

Averages rows of the tidy table by the groups of `benchmarks`; ranks are given in `ranking`, tables
are written in `writers`. A column with a missing member has no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opencompass_llada.benchmarks.facts import GRID_GROUP, Benchmark, Group, find_benchmark
from opencompass_llada.report.collect import Collection
from opencompass_llada.report.frame import TidyRow
from opencompass_llada.report.groups import GroupRow, Line, average_group
from opencompass_llada.report.identity import cell_meaning
from opencompass_llada.report.score_intervals import grid_interval, strata_interval, task_interval
from opencompass_llada.report.series import name_series, rows_of_metric, series_keys
from opencompass_llada.runs.hashes import hash_values


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line's number in one column of the leaderboard."""

    entry: str
    """Line: model and scaling."""
    kind: str
    """``diffusion``, ``autoregressive`` or ``unknown``."""
    benchmark: str
    """E.g. ``ruler``."""
    series: str
    """The benchmark's title, with language or data where there are several."""
    column: str
    """Group of tasks, or a task."""
    is_group: bool
    """Whether the column is an average of several."""
    length: int | None
    """Tokens; None for all lengths together, or a benchmark without lengths."""
    metric: str
    """What is averaged."""
    higher_is_better: bool
    """False for perplexity."""
    num_cells: int
    """Members of the average."""
    n: int | None
    """Samples of all members together."""
    score: float | None
    """None unless status is ``ok``."""
    low: float | None
    """Lower end of the 95 % interval; None where samples have no scores of their own."""
    high: float | None
    """Upper end."""
    status: str
    """``ok``, ``missing`` or ``not run``."""
    reason: str
    """Why, where it is not ``ok``."""
    protocol: str
    """Hash of what all members ask; only scores that share it are ranked together."""
    is_embedded: bool
    """Whether the data is this package's own generated text, which no paper reports on."""
    rank: int | None = None
    """1 plus the number of lines whose interval lies wholly on the better side."""
    is_top: bool = False
    """Whether none that it is ranked with is better and some are worse; not a test."""
    tied: bool = False
    """Whether another line's interval overlaps this one's."""


def make_board(collection: Collection) -> list[Score]:
    """Make every score of the leaderboard, without ranks.

    Args:
        collection: From `collect`.

    Returns:
        Scores by benchmark, line, length and column in the order of the runs.
    """
    series: dict[tuple[str, str], list[TidyRow]] = {}
    rows = [row for row in collection.rows if row.benchmark != "perplexity"]
    keys = series_keys(rows)
    titles = name_series(list(dict.fromkeys(keys.values())))
    for row in rows:
        series.setdefault((row.benchmark, titles[keys[id(row)]]), []).append(row)
    scores: list[Score] = []
    for (name, title), members in series.items():
        benchmark = find_benchmark(name)
        present = dict.fromkeys(row.metric for row in members if row.score is not None)
        present = present or dict.fromkeys(row.metric for row in members)
        metrics = [metric for metric in benchmark.metrics if metric in present] or list(present)
        # A grid's other metrics are series of their own: papers report NeedleBench's score.
        for metric in metrics if benchmark.is_grid else metrics[:1]:
            own = list(rows_of_metric(members, metric, present))
            heading = title if metric == metrics[0] else f"{title}, {metric}"
            for entry in dict.fromkeys(row.entry for row in own):
                lines = [row for row in own if row.entry == entry]
                make = _score_grid if benchmark.is_grid else _score_tasks
                scores += make(collection, benchmark, heading, lines)
    return [*scores, *_score_curves(collection)]


def _score_grid(
    collection: Collection, benchmark: Benchmark, series: str, rows: Sequence[TidyRow]
) -> Iterator[Score]:
    """Yield the mean over depths at each length, and over all cells."""
    for length in [*sorted({row.length for row in rows if row.length is not None}), None]:
        members = [row for row in rows if length is None or row.length == length]
        by_place = {
            f"{row.length} at {row.depth:g} %": row for row in members if row.depth is not None
        }
        if not by_place:
            continue
        group = Group(name=GRID_GROUP, members=tuple(by_place))
        average = average_group(Line(first=members[0], by_task=dict(by_place)), group)
        interval = None
        if average.score is not None:
            interval = grid_interval(collection, list(by_place.values()))
        yield _make_score(benchmark, series, group.name, list(by_place.values()), average, length,
                          interval, is_group=True)  # fmt: skip


def _score_tasks(
    collection: Collection, benchmark: Benchmark, series: str, rows: Sequence[TidyRow]
) -> Iterator[Score]:
    """Yield groups and tasks at each length, and groups over all lengths."""
    lengths: list[int | None] = [*sorted({row.length for row in rows if row.length is not None})]
    headline: list[Score] = []
    for length in lengths or [None]:
        at_length = [row for row in rows if row.length == length]
        by_task: dict[str, TidyRow] = {}
        for row in at_length:
            by_task.setdefault(row.task or row.dataset, row)
        line = Line(first=at_length[0], by_task=dict(by_task))
        tasks = [Group(name=task, members=(task,)) for task in by_task]
        for group in (*benchmark.groups, *tasks):
            average = average_group(line, group)
            members = [by_task[name] for name in group.members if name in by_task]
            interval = None
            if average.score is not None:
                interval = task_interval(collection, members, group)
            score = _make_score(
                benchmark, series, group.name, members or at_length[:1], average, length, interval,
                is_group=group in benchmark.groups,
            )  # fmt: skip
            if group.name == benchmark.headline:
                headline.append(score)
            yield score
    if len(headline) > 1:
        yield _mean_over_lengths(collection, benchmark, headline, rows)


def _mean_over_lengths(
    collection: Collection, benchmark: Benchmark, scores: Sequence[Score], rows: Sequence[TidyRow]
) -> Score:
    """Average the headline over lengths, as RULER's table does; missing if any length is."""
    bad = next((score for score in scores if score.status != "ok"), None)
    values = [score.score for score in scores if score.score is not None]
    group = next(group for group in benchmark.groups if group.name == benchmark.headline)
    members = [row for row in rows if row.task in group.members]
    interval = None
    if bad is None:
        interval = strata_interval(
            collection, members, [1 / len(scores) / len(group.members)] * len(members)
        )
    first = scores[0]
    values_of = {name: getattr(first, name) for name in ("entry", "kind", "benchmark", "series",
                 "column", "metric", "higher_is_better", "is_group")}  # fmt: skip
    counts = [score.n for score in scores]
    return Score(
        **values_of,
        length=None,
        num_cells=sum(score.num_cells for score in scores),
        n=None if bad or None in counts else sum(count or 0 for count in counts),
        score=None if bad else sum(values) / len(values),
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        status=bad.status if bad else "ok",
        reason=f"at {bad.length}: {bad.reason}" if bad else "",
        protocol=hash_values([(score.length, score.protocol) for score in scores]),
        is_embedded=first.is_embedded,
    )


def _make_score(
    benchmark: Benchmark,
    series: str,
    column: str,
    members: Sequence[TidyRow],
    average: GroupRow,
    length: int | None,
    interval: tuple[float, float] | None,
    *,
    is_group: bool,
) -> Score:
    meanings = sorted(
        (str(row.task), str(row.length), str(row.depth), cell_meaning(row)) for row in members
    )
    return Score(
        entry=members[0].entry,
        kind=members[0].kind,
        benchmark=benchmark.name,
        series=series,
        column=column,
        is_group=is_group,
        length=length,
        metric=average.metric,
        higher_is_better=True,
        num_cells=average.num_tasks,
        n=average.n,
        score=average.score,
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        status=average.status,
        reason=average.reason,
        protocol=hash_values(meanings),
        is_embedded=any(row.data.startswith("asset:") for row in members),
    )


def _score_curves(collection: Collection) -> Iterator[Score]:
    """Yield perplexities with their own intervals, over the masks drawn."""
    kinds = {row.entry: row.kind for row in collection.rows}
    meanings = {(row.entry, row.dataset): cell_meaning(row) for row in collection.rows}
    for entry, point in collection.curves:
        kind = kinds.get(entry, "unknown")
        if point.estimator == "autoregressive":
            kind = "autoregressive"
        yield Score(
            entry=entry,
            kind=kind,
            benchmark="perplexity",
            series=f"Perplexity, {point.target} text",
            column="perplexity",
            is_group=False,
            length=point.length,
            metric="perplexity",
            higher_is_better=False,
            num_cells=1,
            n=point.num_tokens,
            score=point.perplexity,
            low=point.perplexity_low,
            high=point.perplexity_high,
            status=point.status,
            reason=point.reason,
            # An exact value and a bound of one text may be compared.
            protocol=hash_values([meanings.get((entry, point.dataset))]),
            is_embedded=point.text == "generated",
        )
