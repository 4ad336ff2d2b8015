"""The leaderboard's tables of scores, and the list of all tables, which every writer renders.

No table averages or ranks anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from opencompass_llada.results.benchmarks import find_benchmark
from opencompass_llada.results.board import Score
from opencompass_llada.results.cost import Cost
from opencompass_llada.results.effective_length import EffectiveLength, main_metrics
from opencompass_llada.results.fact_tables import (
    RULE_NAMES,
    make_comparisons,
    make_costs,
    make_lengths,
)
from opencompass_llada.results.published import Comparison
from opencompass_llada.results.table_cells import (
    ALL,
    MISSING,
    NOT_RUN,
    Cell,
    Links,
    Table,
    file_name,
    length_cell,
    rank_cell,
    score_cell,
)


def make_tables(
    scores: Sequence[Score],
    lengths: Sequence[EffectiveLength],
    costs: Sequence[Cost],
    comparisons: Sequence[Comparison],
    links: Links | None = None,
) -> list[Table]:
    """Make every table but the list of all published figures.

    Args:
        scores: Ranked scores.
        lengths: Effective lengths.
        costs: What generation took.
        comparisons: Measured beside published figures.
        links: Anchors of samples, for a report that has them.
    """
    tables = [make_overview(scores, lengths)]
    for series in dict.fromkeys(score.series for score in scores):
        own = [score for score in scores if score.series == series]
        tables.append(make_series(series, own, links or {}))
    if lengths:
        tables.append(make_lengths(lengths))
    if costs:
        tables.append(make_costs(costs))
    if comparisons:
        tables.append(make_comparisons(comparisons))
    return tables


def make_overview(scores: Sequence[Score], lengths: Sequence[EffectiveLength]) -> Table:
    """Return the leaderboard: a line a model, headline and effective length of each benchmark."""
    columns = choose_headlines(scores)
    heads = ["model", "kind"]
    for series, column, length in columns:
        where = "" if length is None else f" at {length:,}"
        heads += [f"{series}: {column}{where}" if column != series else f"{series}{where}", "rank"]
    rules = list(dict.fromkeys((item.series, item.rule) for item in lengths))
    heads += [f"effective length, {series}, {RULE_NAMES[rule]}" for series, rule in rules]
    index = {(s.entry, s.series, s.column, s.length): s for s in scores}
    effective = {(item.entry, item.series, item.rule): item for item in lengths}
    rows = []
    for entry in dict.fromkeys(score.entry for score in scores):
        kind = next(score.kind for score in scores if score.entry == entry)
        row = [Cell(text=entry), Cell(text=kind)]
        for key in columns:
            score = index.get((entry, *key))
            row += [score_cell(score), rank_cell(score)]
        row += [length_cell(effective.get((entry, *rule))) for rule in rules]
        rows.append(tuple(row))
    return Table(
        name="leaderboard",
        title="Leaderboard",
        heads=tuple(heads),
        rows=tuple(rows),
        num_labels=2,
        notes=(
            "Brackets: 95 % interval. Rank: 1 plus the number of lines whose interval lies wholly "
            "on the better side; = tied with another line inside the intervals. Bold: the best "
            "number, whether or not the difference means anything.",
            f"{MISSING}: a cell of the average has no result, so there is no average. "
            f"{NOT_RUN}: not part of the run.",
        ),
    )


def choose_headlines(scores: Sequence[Score]) -> list[tuple[str, str, int | None]]:
    """Choose each series' column for the overview: headline over all lengths, else the longest."""
    chosen = []
    for series in dict.fromkeys(score.series for score in scores):
        own = [score for score in scores if score.series == series]
        if own[0].benchmark != "perplexity" and own[0].metric not in main_metrics(
            scores, own[0].benchmark
        ):
            continue
        groups = [s for s in own if s.is_group and s.status != "not run"]
        whole = [s for s in groups if s.length is None and _is_headline(s)]
        headline = [s for s in groups if _is_headline(s)]
        best = whole or headline or groups or [s for s in own if s.status != "not run"] or own
        longest = max(best, key=lambda score: score.length or 0)
        chosen.append((series, longest.column, longest.length))
    return chosen


def _is_headline(score: Score) -> bool:
    return score.column == find_benchmark(score.benchmark).headline


def make_series(series: str, scores: Sequence[Score], links: Links | None = None) -> Table:
    """Return one benchmark's table: columns by length, or a row a length where there are tasks.

    Args:
        series: Title.
        scores: Of the series.
        links: Anchors of samples.
    """
    anchors = links or {}
    present = {s.column for s in scores if s.status != "not run"} or {s.column for s in scores}
    absent = list(dict.fromkeys(s.column for s in scores if s.column not in present))
    scores = [score for score in scores if score.column in present]
    columns = list(dict.fromkeys((s.column, s.is_group) for s in scores))
    entries = list(dict.fromkeys(score.entry for score in scores))
    lengths = sorted({s.length for s in scores if s.length is not None})
    index = {(s.entry, s.column, s.length): s for s in scores}
    with_all = any(score.length is None for score in scores)
    if len(columns) == 1:
        places: list[int | None] = [*lengths, *([None] if with_all else [])]
        heads = ["model", *(ALL if place is None else f"{place:,}" for place in places)]
        rows = [
            (
                Cell(text=entry),
                *(score_cell(index.get((entry, columns[0][0], p)), anchors) for p in places),
            )
            for entry in entries
        ]
        notes: tuple[str, ...] = (f"{columns[0][0]}; columns: context length in tokens",)
        labels = 1
    else:
        heads = ["model", "length", *(name for name, _ in columns)]
        rows = []
        for entry in entries:
            for place in [*lengths, *([None] if with_all else [])]:
                cells = [index.get((entry, name, place)) for name, _ in columns]
                if any(cell is not None for cell in cells):
                    where = (ALL if lengths else "") if place is None else f"{place:,}"
                    label = Cell(text=where, value=float(place or 10**9))
                    rows.append(
                        (Cell(text=entry), label, *(score_cell(cell, anchors) for cell in cells))
                    )
        groups = [name for name, is_group in columns if is_group]
        notes = (f"averages: {', '.join(groups)}; the others are tasks",) if groups else ()
        labels = 2
    if absent:
        notes += (f"not shown, since a task of them was not run: {', '.join(absent)}",)
    return Table(
        name=file_name(series),
        title=series,
        heads=tuple(heads),
        rows=tuple(rows),
        notes=(f"{scores[0].metric}, " + ("percent" if scores[0].higher_is_better
               else "lower is better"), *notes),
        num_labels=labels,
    )  # fmt: skip
