"""Makes the lines that scores are held to: readers that are shown less, chance, and a solver.

They are scores of the same columns, kept apart from the leaderboard: nothing is ranked against
them. A last window that is no shorter than the prompt is the model itself, so that there is no
number but ``same``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas

from opencompass_llada.benchmarks.readers import READERS
from opencompass_llada.report.averages import name_series, score_cells
from opencompass_llada.report.collect import Collection
from opencompass_llada.report.results import finite
from opencompass_llada.report.scores import LAST_WINDOW, Score

NO_CONTEXT = "no_context"
#: Reader -> what its lines are called behind the model's name.
READER_NAMES = {LAST_WINDOW: "last window", NO_CONTEXT: "no context"}
CHANCE = "chance"
#: What evaluators call what they have instead of a model's answers.
CEILINGS = ("exact solver", "gold answer")
SAME = "same"
#: Values of one chance or solver that are further apart are of other samples, and not one number.
_APART = 0.05


def find_floors(collection: Collection) -> list[Score]:
    """Return the scores of every reader, of chance and of solvers; none of runs without any."""
    results = collection.results[collection.results.benchmark != "perplexity"]
    readings = _latest(collection.readings[collection.readings.entry.notna()])
    shared = _own_windows(results, readings)
    frames = [frame for frame in (results, readings, shared) if len(frame)]
    if not frames:
        return []
    # The titles are those of the leaderboard: a reader is asked the same as the model but for less.
    titles = name_series(
        pandas.concat([results, readings.assign(entry=_name_lines(readings))], ignore_index=True)
    )
    results = results.assign(series=titles[: len(results)])
    readings = readings.assign(series=titles[len(results) :])
    shared = shared.assign(series=results.series.reindex(shared.index))
    read = sorted(_score_readers(readings, shared), key=lambda own: READERS.index(own.reader))
    return [*read, *_score_bounds(results)]


def _name_lines(readings: pandas.DataFrame) -> list[str]:
    return [name_line(row.entry, row.reader) for row in readings.itertuples()]


def name_line(entry: str, reader: str) -> str:
    """Return what a reader's line is called."""
    return f"{entry} ({READER_NAMES[reader]})"


def _latest(readings: pandas.DataFrame) -> pandas.DataFrame:
    """Return each reader's cells, of what was measured twice the later."""
    by_age = readings.sort_values("recorded", kind="stable", na_position="first")
    latest = ~by_age.duplicated(["entry", "dataset", "metric"], keep="last")
    # Of two windows of one model, too.
    window = by_age.groupby(["entry", "benchmark"]).window.transform("last")
    latest &= by_age.window.isna() | (by_age.window == window)
    return readings[latest.reindex(readings.index)]


def _own_windows(results: pandas.DataFrame, readings: pandas.DataFrame) -> pandas.DataFrame:
    """Return the models' own cells that are no longer than their last window."""
    shown = readings[readings.reader == LAST_WINDOW]
    windows = shown.groupby(["entry", "benchmark"]).window.max().to_dict()
    keys = zip(results.entry, results.benchmark, results.length, strict=True)
    own = [bool(length) and length <= windows.get((e, b), 0) for e, b, length in keys]
    return results[own].assign(reader=LAST_WINDOW)


def _score_readers(readings: pandas.DataFrame, shared: pandas.DataFrame) -> Iterator[Score]:
    """Yield each reader's scores; the model's own stand for a window that holds the prompt."""
    cells = pandas.concat([readings, shared], ignore_index=True)
    names = _name_lines(cells)
    bases = dict(zip(names, zip(cells.entry, cells.reader, strict=True), strict=True))
    windows = readings.groupby(["entry", "benchmark"]).window.max().to_dict()
    own = set(zip(shared.entry, shared.benchmark, shared.length, strict=True))
    for score in score_cells(cells.assign(entry=names)):
        base, reader = bases[score.entry]
        window = windows.get((base, score.benchmark)) if reader == LAST_WINDOW else None
        score = replace(score, base=base, reader=reader, window=window and int(window))
        is_own = reader == LAST_WINDOW and (base, score.benchmark, score.length) in own
        if is_own and score.score is not None:
            reason = "the last window holds the whole prompt: the model's own score"
            score = replace(score, score=None, low=None, high=None, clusters=None,
                            effective_n=None, status=SAME, reason=reason)  # fmt: skip
        yield score


def _score_bounds(results: pandas.DataFrame) -> Iterator[Score]:
    """Yield what chance and solvers have in each column, once for all lines."""
    for name in (CHANCE, *CEILINGS):
        figures = [_read_bound(row, name) for row in results.itertuples()]
        if all(figure is None for figure in figures):
            continue
        told = results.assign(
            score=pandas.Series(figures, index=results.index, dtype=object),
            status=["missing" if figure is None else "ok" for figure in figures],
            reason="" if name == CHANCE else "not of every task",
            sample_scores=None,
            standard_error=None,
        )
        told = told.assign(score=told.score.where(told.score.notna(), None))
        columns: dict[Any, list[Score]] = defaultdict(list)
        for score in score_cells(told):
            columns[score.series, score.column, score.length].append(score)
        yield from filter(None, (_agree(name, scores) for scores in columns.values()))


def _read_bound(row: Any, name: str) -> float | None:
    figures = row.bounds.get(name) if isinstance(row.bounds, Mapping) else None
    return finite(figures.get(row.metric)) if isinstance(figures, Mapping) else None


def _agree(name: str, scores: Sequence[Score]) -> Score | None:
    """Return the one score of what all lines were asked; without a number where they differ."""
    known = [score for score in scores if score.score is not None]
    if not known:
        return None
    values = [score.score or 0.0 for score in known]
    one = replace(known[0], entry=name, reader=name, kind="unknown", clusters=None)
    if max(values) - min(values) <= _APART:
        return one
    reason = f"{min(values):.1f} to {max(values):.1f}: models were asked other samples"
    return replace(one, score=None, status="missing", reason=reason)
