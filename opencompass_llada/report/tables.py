"""The report's tables: cells, tables of scores, effective lengths, costs and published figures.

Missing numbers are words.

No table averages or ranks anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opencompass_llada.benchmarks.facts import find_benchmark
from opencompass_llada.report.board import Score
from opencompass_llada.report.cost import Cost
from opencompass_llada.report.effective_length import (
    OWN_SHARE,
    RULER_THRESHOLD,
    EffectiveLength,
    main_metrics,
)
from opencompass_llada.report.published import TRUST, Comparison, Figure

#: Line, benchmark, task and length -> anchor of the samples.
Links = Mapping[tuple[str, str, str, int | None], str]
NOT_RUN = "-"
MISSING = "missing"
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of a table."""

    text: str
    """What stands there."""
    value: float | None = None
    """What it sorts by, where that is a number."""
    hover: str = ""
    """What a pointer resting on it shows."""
    is_best: bool = False
    """Whether it is the best number of its column."""
    link: str = ""
    """Anchor of the samples behind it; '' for an average of several cells."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its notes."""

    name: str
    """Short name, for files and anchors."""
    title: str
    """Heading."""
    heads: tuple[str, ...]
    """Heads of the columns."""
    rows: tuple[tuple[Cell, ...], ...]
    """As many cells a row as heads."""
    notes: tuple[str, ...] = ()
    """What to know to read it."""
    num_labels: int = field(default=1)
    """Columns on the left that name a row, not measured."""


def score_cell(score: Score | None, links: Links | None = None) -> Cell:
    """Return a score with its interval; words where there is none.

    Args:
        score: The score.
        links: Anchors of samples.
    """
    if score is None or score.status == "not run":
        return Cell(text=NOT_RUN, hover="" if score is None else score.reason)
    link = (links or {}).get((score.entry, score.benchmark, score.column, score.length), "")
    if score.score is None:
        return Cell(text=MISSING, hover=score.reason, link=link)
    form = "{:.1f}" if score.higher_is_better else "{:.4g}"
    text = form.format(score.score)
    if score.low is not None and score.high is not None:
        text += f" [{form.format(score.low)}, {form.format(score.high)}]"
    parts = [f"{score.num_cells} cells"] if score.num_cells > 1 else []
    parts += [f"{score.n:,} {'samples' if score.higher_is_better else 'tokens'}"] if score.n else []
    parts += [f"rank {score.rank}{'=' if score.tied else ''}"] if score.rank else []
    return Cell(
        text=text,
        value=score.score,
        hover=", ".join(parts),
        is_best=score.is_top,
        link=link,
    )


def rank_cell(score: Score | None) -> Cell:
    """Return a score's rank, ``=`` after it where tied."""
    if score is None or score.rank is None:
        return Cell(text="")
    return Cell(text=f"{score.rank}{'=' if score.tied else ''}", value=float(score.rank))


def length_cell(item: EffectiveLength | None) -> Cell:
    """Return an effective length."""
    if item is None:
        return Cell(text=NOT_RUN)
    value = item.tokens if item.tokens is not None else (0 if item.bound == "below" else None)
    return Cell(text=item.describe(), value=value)


def number_cell(value: float | None, form: str, reason: str) -> Cell:
    """Return a number, or that it is missing and why."""
    if value is None:
        return Cell(text=MISSING, hover=reason)
    return Cell(text=form.format(value), value=value)


def file_name(title: str) -> str:
    """Return a title as part of a file's name."""
    kept = "".join(letter if letter.isalnum() else "_" for letter in title.lower())
    return "_".join(part for part in kept.split("_") if part)


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


RULE_NAMES = {
    "absolute": f"≥ {RULER_THRESHOLD:g} %",
    "relative": f"≥ {100 * OWN_SHARE:g} % of own",
}


def make_lengths(lengths: Sequence[EffectiveLength]) -> Table:
    """Return effective lengths with their thresholds."""
    rows = []
    for item in lengths:
        threshold = "missing" if item.threshold is None else f"{item.threshold:.1f}"
        base = "" if item.base_length is None else f"{item.base_length:,}"
        rows.append(
            (
                Cell(text=item.entry),
                Cell(text=item.series),
                Cell(text=RULE_NAMES[item.rule]),
                Cell(text=threshold, value=item.threshold),
                Cell(text=base, value=item.base_length),
                length_cell(item),
            )
        )
    return Table(
        name="effective_length",
        title="Effective context length",
        heads=("model", "benchmark", "rule", "threshold", "own score at", "effective length"),
        rows=tuple(rows),
        num_labels=3,
        notes=(
            "RULER's rule: the longest measured length whose score holds the threshold; shorter "
            "ones that do not are named. "
            f"{RULER_THRESHOLD:g} %: Llama2-7B at 4K on RULER's 13 tasks (arXiv 2404.06654); for "
            "other benchmarks it is an orientation. Relative: to the model's own score at 4K, or "
            "at the shortest measured length where 4K was not measured.",
            "≥: the longest measured length still holds. <: no measured length holds; the shortest "
            "is named. Brackets: the longest length whose 95 % interval lies wholly above the "
            "threshold, to the longest whose interval reaches it. Lengths without a result are "
            "passed over.",
        ),
    )


def make_costs(costs: Sequence[Cost]) -> Table:
    """Return what generation took."""
    rows = []
    for cost in costs:
        memory = cost.peak_memory_bytes
        numbers = (
            (cost.seconds, "{:.1f}"),
            (cost.seconds_per_sample, "{:.3g}"),
            (cost.nfe_per_sample, "{:.4g}"),
            (cost.num_batch_passes, "{:,.0f}"),
            (cost.tokens_per_second, "{:.1f}"),
            (None if memory is None else memory / 2**30, "{:.2f}"),
        )
        rows.append(
            (
                Cell(text=cost.entry),
                Cell(text=cost.kind),
                Cell(text=find_benchmark(cost.benchmark).title),
                *(number_cell(value, form, cost.reason) for value, form in numbers),
                Cell(text=cost.device or "not recorded"),
            )
        )
    return Table(
        name="cost",
        title="Cost of generation",
        heads=("model", "kind", "benchmark", "seconds", "seconds a sample", "NFE a sample",
               "passes of batches", "generated tokens/s", "peak memory, GiB", "device"),
        rows=tuple(rows),
        num_labels=3,
        notes=(
            "Seconds in the model, loading left out. NFE: forward passes that a sample went "
            "through until its answer was complete, as many as alone. Passes of batches: the "
            "model's calls, each for all samples of a batch. Prompt tokens are not counted as "
            "generated. Memory: tensors on the GPU; on a CPU the peak of the whole process, which "
            "the next data set inherits.",
        ),
    )  # fmt: skip


def make_comparisons(comparisons: Sequence[Comparison]) -> Table:
    """Return measured beside published figures."""
    rows = []
    for pair in comparisons:
        figure, score = pair.figure, pair.measured
        inside = {True: "yes", False: "no", None: ""}[pair.is_inside]
        rows.append(
            (
                Cell(text=score.entry),
                Cell(text=score.series),
                Cell(text=figure.column),
                Cell(text="" if figure.length is None else f"{figure.length:,}",
                     value=figure.length),
                score_cell(score),
                Cell(text=f"{figure.value:g}", value=figure.value, hover=figure.note),
                number_cell(pair.difference, "{:+.1f}", score.reason),
                Cell(text=inside),
                Cell(text=figure.trust.replace("_", "-"), hover=TRUST[figure.trust]),
                Cell(text=f"{figure.paper}, {figure.table}", hover=figure.source),
            )
        )  # fmt: skip
    return Table(
        name="published_beside_measured",
        title="Published beside measured",
        heads=("model", "benchmark", "column", "length", "measured", "published", "difference",
               "inside the interval", "trust", "paper"),
        rows=tuple(rows),
        num_labels=4,
        notes=tuple(f"{name.replace('_', '-')}: {text}" for name, text in TRUST.items()),
    )  # fmt: skip


def make_published(figures: Sequence[Figure], left_out: Sequence[str]) -> Table:
    """Return all published figures."""
    rows = [
        (
            Cell(text=f"{figure.paper}, {figure.table}"),
            Cell(text=figure.model),
            Cell(text=figure.scaling),
            Cell(text=figure.benchmark),
            Cell(text=figure.column),
            Cell(text="" if figure.length is None else f"{figure.length:,}", value=figure.length),
            Cell(text=f"{figure.value:g}", value=figure.value),
            Cell(text=figure.trust.replace("_", "-"), hover=TRUST[figure.trust]),
            Cell(text="; ".join(part for part in (figure.source, figure.note) if part)),
        )
        for figure in figures
    ]
    return Table(
        name="published",
        title="Published figures",
        heads=("paper", "model", "scaling", "benchmark", "column", "length", "value", "trust",
               "source"),
        rows=tuple(rows),
        num_labels=6,
        notes=(*(f"{name.replace('_', '-')}: {text}" for name, text in TRUST.items()),
               *(f"left out: {reason}" for reason in left_out)),
    )  # fmt: skip
