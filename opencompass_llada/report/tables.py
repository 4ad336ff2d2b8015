"""Makes the report's tables: scores, effective lengths, costs and published figures.

Missing numbers are words. No table averages or ranks anything; lines are in the order of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.report.comparisons import Comparison
from opencompass_llada.report.cost import Cost
from opencompass_llada.report.floor_rows import FloorRows, without_value
from opencompass_llada.report.groups import Explain, LineGroup, group_lines
from opencompass_llada.report.paper_figures import LEFT_OUT, TRUST, Figure, FigurePair
from opencompass_llada.report.scores import (
    BOLD_NOTE,
    BOUND_NOTE,
    LAST_WINDOW,
    OWN_SHARE,
    RULER_THRESHOLD,
    EffectiveLength,
    Score,
    choose_headlines,
)
from opencompass_llada.report.timings import Timing
from opencompass_llada.report.writers import Cell, Part, Table, file_name

#: Line, benchmark, task and length -> anchor of the samples.
Links = Mapping[tuple[str, str, str, int | None], str]
NOT_RUN = "-"
MISSING = "missing"
ALL = "all"
SHARED = "shared machine"
NOT_MEASURED = "not measured"
NOT_RECORDED = "not recorded"
THE_SAME = "the same"
RULE_NAMES = {
    "absolute": f"≥ {RULER_THRESHOLD:g} %",
    "relative": f"≥ {100 * OWN_SHARE:g} % of own",
    "last_window": "beats own last window",
}
TRUST_NOTES = tuple(f"{name.replace('_', '-')}: {text}" for name, text in TRUST.items())


def _row(*fields: Cell | str) -> tuple[Cell, ...]:
    return tuple(Cell(text=field) if isinstance(field, str) else field for field in fields)


def _number_cell(value: float | None, form: str, missing: str = MISSING, hover: str = "") -> Cell:
    """Return a number, or a word where it is missing."""
    if value is None:
        return Cell(text=missing, hover=hover)
    return Cell(text=form.format(value), value=value)


def score_cell(score: Score | None, links: Links) -> Cell:
    """Return a score with its interval; words where there is none."""
    if score is None or score.status == "not run":
        return Cell(text=NOT_RUN, hover="" if score is None else score.reason)
    if score.status == "same":
        return Cell(text=THE_SAME, hover=score.reason)
    link = links.get((score.entry, score.benchmark, score.column, score.length), "")
    if score.score is None:
        return Cell(text=MISSING, hover=score.reason, link=link)
    form = "{:.1f}" if score.higher_is_better else "{:.4g}"
    text = form.format(score.score)
    if score.low is not None and score.high is not None:
        text += f" [{form.format(score.low)}, {form.format(score.high)}]"
    unit = "" if score.higher_is_better else " tokens"
    count = f"n {score.n:,}{unit}" if score.n else ""
    if score.effective_n is not None and round(score.effective_n) != score.n:
        count += f", effective {score.effective_n:,.0f}"
    parts = [f"{score.num_cells} cells"] if score.num_cells > 1 else []
    parts += [f"rank {_rank_cell(score).text}"] if score.rank else []
    return Cell(
        text=text,
        value=score.score,
        count=count,
        hover=", ".join(parts),
        is_best=score.is_top,
        link=link,
    )


def _rank_cell(score: Score | None) -> Cell:
    if score is None or not score.rank:
        told = "" if score is None else score.undecided
        return Cell(text="not paired" if told else "", hover=told)
    text = (
        f"{score.rank}" if score.is_decided else f"undecided, {score.rank} to {score.lowest_rank}"
    )
    return Cell(text=text, value=float(score.rank), hover=score.undecided)


def _length_cell(item: EffectiveLength | None) -> Cell:
    if item is None:
        return Cell(text=NOT_RUN)
    return Cell(text=item.describe(), value=item.value)


def make_tables(
    scores: Sequence[Score],
    lengths: Sequence[EffectiveLength],
    costs: Sequence[Cost],
    pairs: Sequence[FigurePair],
    links: Links,
    timings: Sequence[Timing] = (),
    comparisons: Sequence[Comparison] = (),
    explain: Explain = lambda benchmark, one, other: "prompts",
    floors: Sequence[Score] = (),
    uses: Mapping[str, str] | None = None,
) -> list[Table]:
    """Make every table but the list of all published figures; `links` are anchors of samples.

    `floors` are lines that scores are held to (`floors.find_floors`), and `uses` says of a series
    where it does not measure length.
    """
    tables = [_make_overview(scores, lengths, explain, FloorRows(floors))]
    tables += [_make_differences(comparisons)] if comparisons else []
    for series in dict.fromkeys(score.series for score in scores):
        own = [score for score in scores if score.series == series]
        rows = FloorRows([floor for floor in floors if floor.series == series])
        told = [uses[series]] if uses and series in uses else []
        tables.append(_make_series(series, own, links, explain, rows, told))
    tables += [_make_lengths(lengths)] if lengths else []
    tables += [_make_costs(costs)] if costs else []
    tables += [_make_timings(timings)] if timings else []
    tables += [_make_comparison(pairs)] if pairs else []
    return tables


def make_parts(groups: Sequence[LineGroup], names: Sequence[str]) -> tuple[Part, ...]:
    """Return which rows, given the line of each, belong to which group."""
    counts = [sum(name in group.entries for name in names) for group in groups]
    ends = [sum(counts[: place + 1]) for place in range(len(counts))]
    return tuple(
        Part(end - count, end, group.reason)
        for group, count, end in zip(groups, counts, ends, strict=True)
    )


def _make_overview(
    scores: Sequence[Score],
    lengths: Sequence[EffectiveLength],
    explain: Explain,
    floors: FloorRows,
) -> Table:
    """Return the leaderboard: a line a model, headline and effective length of each benchmark."""
    columns = choose_headlines(scores)
    heads = ["model", "kind"]
    head_series = ["", ""]
    for series, column, length in columns:
        head_series += [series] * 2
        where = "" if length is None else f" at {length:,}"
        heads += [f"{series}: {column}{where}" if column != series else f"{series}{where}", "rank"]
    # A reader that no line was run by has no column.
    known = [item for item in lengths if item.rule != LAST_WINDOW or item.measured]
    rules = list(dict.fromkeys((item.series, item.rule) for item in known))
    heads += [f"effective length, {series}, {RULE_NAMES[rule]}" for series, rule in rules]
    head_series += [series for series, _ in rules]
    index = {(s.entry, s.series, s.column, s.length): s for s in scores}
    effective = {(item.entry, item.series, item.rule): item for item in lengths}
    rows = []
    groups = group_lines(scores, columns, explain, is_overview=True)
    entries = [entry for group in groups for entry in group.entries]
    names = []

    def add_floors(base: str, beside: str) -> None:
        for line in floors.lines(base):
            found = [floors.get(line, key) for key in columns]
            cells = [Cell(text="")] * (2 * len(columns) + len(rules))
            cells[: 2 * len(columns) : 2] = [without_value(score_cell(s, {})) for s in found]
            if any(found):
                rows.append(_row(line, "", *cells))
                names.append(beside)

    for entry in entries:
        own = [index.get((entry, *key)) for key in columns]
        cells = [cell for score in own for cell in (score_cell(score, {}), _rank_cell(score))]
        cells += [_length_cell(effective.get((entry, *rule))) for rule in rules]
        kind = next(score.kind for score in scores if score.entry == entry)
        rows.append(_row(entry, kind, *cells))
        names.append(entry)
        add_floors(entry, entry)
    if entries:
        add_floors("", entries[-1])
    return Table(
        name="leaderboard",
        title="Leaderboard",
        heads=tuple(heads),
        rows=tuple(rows),
        num_labels=2,
        head_series=tuple(head_series),
        parts=make_parts(groups, names),
        notes=(
            "Brackets: 95 % interval. Rank: 1 plus the number of lines that are better by a paired "
            "test at 5 %, corrected for all pairs of the column (Holm); undecided: the ranks that "
            "the pairs leave open. Not paired: no other line was asked the same, or no scores by "
            f"sample are recorded. {BOLD_NOTE}.",
            f"{MISSING}: a cell of the average has no result, so there is no average. "
            f"{NOT_RUN}: not part of the run.",
            *floors.explain(),
        ),
    )


def _make_differences(comparisons: Sequence[Comparison]) -> Table:
    """Return every line's difference to the baseline."""

    def difference(found: Comparison) -> Cell:
        form = "{:+.3f}" if found.metric == "nats a token" else "{:+.1f}"
        if found.difference is None:
            return Cell(text=NOT_RUN, hover=found.reason)
        text = form.format(found.difference + 0.0)  # no -0.0
        if found.low is not None:
            text += f" [{form.format(found.low)}, {form.format(found.high)}]"
        return Cell(text=text, value=found.difference)

    def outcome(found: Comparison) -> Cell:
        more = f"about {found.more_samples:,} more would decide" if found.more_samples else ""
        text = f"{found.outcome}, {more}" if more else found.outcome
        return Cell(text=text, hover=found.reason)

    columns = {
        "model": lambda found: found.entry,
        "benchmark": lambda found: found.series,
        "column": lambda found: found.column,
        "length": lambda found: _number_cell(found.length, "{:,}", missing=""),
        "difference": difference,
        "p": lambda found: _number_cell(found.p_value, "{:.2g}", missing=NOT_RUN),
        "adjusted p": lambda found: _number_cell(found.adjusted_p, "{:.2g}", missing=NOT_RUN),
        "pairs": lambda found: _number_cell(found.num_pairs, "{:,}", missing=NOT_RUN),
        "effective n": lambda found: _number_cell(found.num_clusters, "{:,.0f}", missing=NOT_RUN),
        "outcome": outcome,
    }
    notes = (
        f"Difference: the model's less that of the baseline, {comparisons[0].baseline}, on the "
        "samples that both answered, in points of the metric (of perplexity in nats a token, of "
        "which fewer are better). Brackets: 95 % interval by cluster (needle, question, text). p: "
        "McNemar's exact test of hits, sign flips by cluster of other scores, Student's t of nats.",
        "Adjusted p: by Holm, within the headline of a benchmark and within all its other columns. "
        "Outcome: at 5 % of it. More: independent samples (needles, questions, texts) that would "
        "decide with a power of 80 %, were they as those seen.",
        *(dict.fromkeys(f"not paired: {c.reason}" for c in comparisons if c.reason)),
    )
    return _list("baseline", "Against the baseline", comparisons, columns, notes, 4)


def _make_series(
    series: str,
    scores: Sequence[Score],
    links: Links,
    explain: Explain,
    floors: FloorRows,
    told: Sequence[str],
) -> Table:
    """Return one benchmark's table: columns by length, or a row a length where there are tasks.

    Below each model stand its other readers, below all of them chance and solver; `told` are notes.
    """
    present = {s.column for s in scores if s.status != "not run"} or {s.column for s in scores}
    absent = list(dict.fromkeys(s.column for s in scores if s.column not in present))
    shown = [score for score in scores if score.column in present]
    columns = list(dict.fromkeys((s.column, s.is_group) for s in shown))
    keys = [*choose_headlines(shown), *((series, s.column, s.length) for s in shown)]
    line_groups = group_lines(shown, list(dict.fromkeys(keys)), explain, is_overview=False)
    entries = [entry for group in line_groups for entry in group.entries]
    lengths = sorted({s.length for s in shown if s.length is not None})
    places = [*lengths, *([None] if any(s.length is None for s in shown) else [])]
    index = {(s.entry, s.column, s.length): s for s in shown}
    unit = "percent" if scores[0].higher_is_better else "lower is better"
    notes = [f"{scores[0].metric}, {unit}", *told, *floors.explain()]

    def show(line: str, column: str, place: int | None) -> Cell | None:
        if (own := index.get((line, column, place))) is not None:
            return score_cell(own, links)
        floor = floors.get(line, (series, column, place))
        return None if floor is None else without_value(score_cell(floor, {}))

    # Each with the line beside which it stands.
    lines = [(line, entry) for entry in entries for line in (entry, *floors.lines(entry))]
    lines += [(line, entries[-1]) for line in floors.lines()] if entries else []
    rows, names = [], []
    absent_cell = score_cell(None, {})
    if len(columns) == 1:
        column = columns[0][0]
        heads = ["model", *(ALL if place is None else f"{place:,}" for place in places)]
        for line, entry in lines:
            rows.append(_row(line, *(show(line, column, place) or absent_cell for place in places)))
            names.append(entry)
        notes.append(f"{column}; columns: context length in tokens")
    else:
        heads = ["model", "length", *(name for name, _ in columns)]
        for (line, entry), place in ((line, place) for line in lines for place in places):
            cells = [show(line, name, place) for name, _ in columns]
            if any(cells):
                where = (ALL if lengths else "") if place is None else f"{place:,}"
                label = Cell(text=where, value=float(place or 10**9))
                rows.append(_row(line, label, *(cell or absent_cell for cell in cells)))
                names.append(entry)
        groups = [name for name, is_group in columns if is_group]
        notes += [f"averages: {', '.join(groups)}; the others are tasks"] if groups else []
    if not scores[0].higher_is_better:
        notes.append(BOUND_NOTE)
    if absent:
        notes.append(f"not shown, since a task of them was not run: {', '.join(absent)}")
    return Table(
        name=file_name(series),
        title=series,
        heads=tuple(heads),
        rows=tuple(rows),
        notes=tuple(notes),
        num_labels=1 if len(columns) == 1 else 2,
        series=series,
        parts=make_parts(line_groups, names),
    )


def _list(
    name: str,
    title: str,
    items: Iterable[Any],
    columns: Mapping[str, Callable[[Any], Cell | str]],
    notes: tuple[str, ...],
    num_labels: int,
) -> Table:
    """Return a table with a row an item, by what each column shows of it."""
    rows = tuple(_row(*(show(item) for show in columns.values())) for item in items)
    return Table(name=name, title=title, heads=tuple(columns), rows=rows, notes=notes,
                 num_labels=num_labels)  # fmt: skip


def _make_lengths(lengths: Sequence[EffectiveLength]) -> Table:
    columns = {
        "model": lambda item: item.entry,
        "benchmark": lambda item: item.series,
        "rule": lambda item: RULE_NAMES[item.rule],
        "threshold": lambda item: _number_cell(
            item.threshold, "{:.1f}", missing="" if item.rule == LAST_WINDOW else MISSING
        ),
        "own score or window at": lambda item: _number_cell(item.base_length, "{:,}", missing=""),
        "effective length": _length_cell,
    }
    notes = (
        "RULER's rule: the longest measured length whose score holds the threshold; shorter "
        f"ones that do not are named. {RULER_THRESHOLD:g} %: Llama2-7B at 4K on RULER's 13 tasks "
        "(arXiv 2404.06654); for other benchmarks it is an orientation. Relative: to the model's "
        "own score at 4K, or at the shortest measured length where 4K was not measured.",
        "≥: the longest measured length still holds. <: no measured length holds; the shortest "
        "is named. Brackets: the longest length whose 95 % interval lies wholly above the "
        "threshold, to the longest whose interval reaches it. Lengths without a result are "
        "passed over.",
        "Beats own last window: the longest length at which the model is better than when it is "
        "given only the end that it was pre-trained for, there and at every shorter measured "
        "length beyond that (95 % interval of the paired difference above 0). ≤: at none beyond "
        "the window. Brackets: to the longest that the intervals leave possible. "
        f"{NOT_MEASURED}: that reader did not run (LLADA_READERS).",
    )
    return _list("effective_length", "Effective context length", lengths, columns, notes, 3)


def _make_costs(costs: Sequence[Cost]) -> Table:
    def number(name: str, form: str) -> Callable[[Cost], Cell]:
        return lambda cost: _number_cell(getattr(cost, name), form, NOT_RECORDED, cost.reason)

    def time(name: str, form: str) -> Callable[[Cost], Cell]:
        """Show what a shared machine took as a text, which no sorting ranks."""

        def show(cost: Cost) -> Cell:
            cell = number(name, form)(cost)
            is_number = cost.is_shared and cell.value is not None
            return Cell(text=f"{cell.text} ({SHARED})") if is_number else cell

        return show

    columns = {
        "model": lambda cost: cost.entry,
        "kind": lambda cost: cost.kind,
        "benchmark": lambda cost: find_benchmark(cost.benchmark).title,
        "NFE a sample": number("nfe_per_sample", "{:.4g}"),
        "seconds": time("seconds", "{:.1f}"),
        "seconds a sample": time("seconds_per_sample", "{:.3g}"),
        "generated tokens/s": time("tokens_per_second", "{:.1f}"),
        "passes of batches": number("num_batch_passes", "{:,.0f}"),
        "peak memory, GiB": number("peak_memory_gib", "{:.2f}"),
        "device": lambda cost: cost.device or NOT_RECORDED,
    }
    notes = (
        "NFE: forward passes that a sample went through until its answer was complete, as many as "
        "alone. Seconds in the model, loading left out. "
        f"{SHARED.capitalize()}: tasks ran side by side or beside others', or nothing says not, so "
        "that these seconds are not compared; opencompass-llada time WORKDIR measures them alone. "
        "Passes of batches: the model's calls, each for all samples of a batch. Prompt tokens are "
        "not counted as generated. Memory: tensors on the GPU; on a CPU the peak of the whole "
        "process, which the next data set inherits.",
    )
    return _list("cost", "Cost of generation", costs, columns, notes, 3)


def _make_timings(timings: Sequence[Timing]) -> Table:
    """Return what `opencompass-llada time` measured, a line a cell."""

    def show_seconds(timing: Timing) -> Cell:
        text = f"{timing.seconds:.3g} [{timing.low:.3g}, {timing.high:.3g}]"
        if timing.is_alone:
            return Cell(text=text, value=timing.seconds)
        return Cell(text=f"{text} ({SHARED})")

    def show_rate(timing: Timing) -> Cell:
        text = f"{timing.tokens_per_second:.1f}"
        if timing.is_alone:
            return Cell(text=text, value=timing.tokens_per_second)
        return Cell(text=f"{text} ({SHARED})")

    columns = {
        "model": lambda timing: timing.entry,
        "benchmark": lambda timing: find_benchmark(timing.benchmark).title,
        "length": lambda timing: _number_cell(timing.length, "{:,}", missing=""),
        "seconds a sample": show_seconds,
        "times": lambda timing: _number_cell(timing.num_times, "{:,}"),
        "CPU seconds a sample": lambda timing: _number_cell(timing.cpu_seconds, "{:.3g}"),
        "NFE a sample": lambda timing: _number_cell(timing.passes, "{:.4g}"),
        "generated tokens/s": show_rate,
        "load, s": lambda timing: _number_cell(timing.load_seconds, "{:.3g}"),
        "first call, s": lambda timing: _number_cell(timing.first_call_seconds, "{:.3g}"),
        "peak memory, GiB": lambda timing: _number_cell(
            timing.peak_memory_bytes and timing.peak_memory_bytes / 2**30, "{:.2f}", NOT_MEASURED
        ),
        "energy a sample, J": lambda timing: _number_cell(timing.joules, "{:.3g}", NOT_MEASURED),
        "device": lambda timing: timing.device,
    }
    others = {t.other_cores for t in timings if not t.is_alone and t.other_cores is not None}
    busy = f" Other processes kept {max(others):.1f} cores busy." if others else ""
    notes = (
        "Measured by opencompass-llada time: one sample at a time, after a first call of the same "
        "shape. Seconds: the median, in brackets the middle half. CPU seconds: of all cores. "
        "First call: with all that is compiled. Energy: the power that the card reports times "
        f"the seconds; {NOT_MEASURED}: nothing tells. {SHARED.capitalize()}: others were using "
        f"it, so that the seconds are not compared.{busy}",
    )
    return _list("timing", "Timing, alone", timings, columns, notes, 3)


def _trust_cell(figure: Figure) -> Cell:
    return Cell(text=figure.trust.replace("_", "-"), hover=TRUST[figure.trust])


def _make_comparison(pairs: Sequence[FigurePair]) -> Table:
    """Return measured beside published figures."""
    inside = {True: "yes", False: "no", None: ""}
    columns = {
        "model": lambda pair: pair.measured.entry,
        "benchmark": lambda pair: pair.measured.series,
        "column": lambda pair: pair.figure.column,
        "length": lambda pair: _number_cell(pair.figure.length, "{:,}", missing=""),
        "measured": lambda pair: score_cell(pair.measured, {}),
        "published": lambda pair: Cell(
            text=f"{pair.figure.value:g}", value=pair.figure.value, hover=pair.figure.note
        ),
        "difference": lambda pair: _number_cell(
            pair.difference, "{:+.1f}", hover=pair.measured.reason
        ),
        "inside the interval": lambda pair: inside[pair.is_inside],
        "trust": lambda pair: _trust_cell(pair.figure),
        "paper": lambda pair: Cell(
            text=f"{pair.figure.paper}, {pair.figure.table}", hover=pair.figure.source
        ),
    }
    title = "Published beside measured"
    return _list("published_beside_measured", title, pairs, columns, TRUST_NOTES, 4)


def make_published(figures: Iterable[Figure]) -> Table:
    """Return all published figures."""
    columns = {
        "paper": lambda figure: f"{figure.paper}, {figure.table}",
        "model": lambda figure: figure.model,
        "scaling": lambda figure: figure.scaling,
        "benchmark": lambda figure: figure.benchmark,
        "column": lambda figure: figure.column,
        "length": lambda figure: _number_cell(figure.length, "{:,}", missing=""),
        "value": lambda figure: _number_cell(figure.value, "{:g}"),
        "trust": _trust_cell,
        "source": lambda figure: "; ".join(filter(None, (figure.source, figure.note))),
    }
    notes = (*TRUST_NOTES, *(f"left out: {reason}" for reason in LEFT_OUT))
    return _list("published", "Published figures", figures, columns, notes, 6)
