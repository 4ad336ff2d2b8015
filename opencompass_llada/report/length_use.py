"""Tells whether a model uses what lies before its last window, and up to which length.

Its score is compared with that of its own last window on the same samples, by cluster. A benchmark
in which the two are level does not measure length for that model. The effective length by this rule
is the longest at which the model is better, there and at every shorter length beyond the window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from opencompass_llada.report.pairs import Clusters, difference_interval
from opencompass_llada.report.scores import (
    LAST_WINDOW,
    EffectiveLength,
    Score,
    choose_headlines,
    find_effective_lengths,
    name_some,
)

#: What the mean over all benchmarks is called, and that over the tasks of one which has no average
#: of its own; each counts the same.
ALL_BENCHMARKS, ALL_TASKS = "all benchmarks", "all tasks"


@dataclass(frozen=True, kw_only=True)
class LengthUse:
    """A line's score less that of its own last window, in one column at one length."""

    entry: str
    series: str
    column: str
    length: int | None  # None where a benchmark has no lengths
    window: int
    own: Clusters = field(repr=False, compare=False)
    floor: Clusters = field(repr=False, compare=False)
    difference: float
    low: float | None  # of the 95 % interval; None where too few samples say anything
    high: float | None

    @property
    def uses_length(self) -> bool:
        """Whether the model is better for what lies before its last window."""
        return self.low is not None and self.low > 0


def compare_windows(scores: Sequence[Score], floors: Sequence[Score]) -> list[LengthUse]:
    """Compare every line with its own last window, wherever both answered the same samples.

    A benchmark whose headline is one task of several is compared in the mean of its tasks besides.
    """
    index = {(s.entry, s.series, s.column, s.length): s for s in scores}
    # There None is the mean over lengths, which are compared one by one.
    with_lengths = {score.series for score in scores if score.length is not None}
    found = []
    for floor in floors:
        own = index.get((floor.base, floor.series, floor.column, floor.length))
        is_one = floor.length is not None or floor.series not in with_lengths
        if floor.reader == LAST_WINDOW and is_one and own is not None:
            first, second = own.clusters, floor.clusters
            if first is not None and second is not None and first.is_paired_with(second):
                place = (own.entry, own.series, own.column, floor.length, floor.window or 0)
                found.append(_compare(place, first, second))
    for series, column in _headlines(scores).items():
        if column == ALL_TASKS:
            lost = _find_lost([*scores, *floors], {series: ALL_TASKS})
            tasks = {s.column for s in scores if s.series == series and not s.is_group}
            own_uses = [use for use in found if use.series == series and use.column in tasks]
            kept = [use for use in own_uses if (use.entry, use.length) not in lost]
            found += _pool(kept, series, ALL_TASKS)
    return found


def _compare(
    place: tuple[str, str, str, int | None, int], first: Clusters, second: Clusters
) -> LengthUse:
    entry, series, column, length, window = place
    low, high = difference_interval(first, second) or (None, None)
    return LengthUse(
        entry=entry,
        series=series,
        column=column,
        length=length,
        window=window,
        own=first,
        floor=second,
        difference=float(first.weights_C @ (first.means_C - second.means_C)),
        low=low,
        high=high,
    )


def _headlines(scores: Sequence[Score]) -> dict[str, str]:
    """Return the column of each series that the overview shows; all tasks where it is one."""
    columns = {series: column for series, column, _ in choose_headlines(scores)}
    for series, column in columns.items():
        own = {(s.column, s.is_group) for s in scores if s.series == series and s.score is not None}
        if (column, False) in own and len(own) > 1:
            columns[series] = ALL_TASKS
    return columns


def describe_uses(scores: Sequence[Score], uses: Sequence[LengthUse]) -> dict[str, str]:
    """Say of each series at which lengths, and for whom, its headline does not measure length."""
    columns = _headlines(scores)
    found: dict[str, dict[int | None, list[str]]] = defaultdict(lambda: defaultdict(list))
    for use in sorted(uses, key=lambda use: use.length or 0):
        if columns.get(use.series) == use.column and not use.uses_length:
            ends = "" if use.low is None else f" [{use.low:+.1f}, {use.high:+.1f}]"
            named = f"{use.entry} ({use.difference + 0.0:+.1f}{ends})"
            found[use.series][use.length].append(named)
    return {
        series: f"{series} does not measure length "
        + ", nor ".join(
            f"{'' if length is None else f'at {length:,} tokens '}for {name_some(names)}"
            for length, names in lengths.items()
        )
        + ": the 95 % interval of the points that it is ahead of its own last window is not above "
        "0."
        for series, lengths in found.items()
    }


def find_window_lengths(
    scores: Sequence[Score], floors: Sequence[Score], uses: Sequence[LengthUse]
) -> list[EffectiveLength]:
    """Find the effective length of every line by its last window: a benchmark each, then of all.

    Lengths of which a result is missing are passed over, of all benchmarks where it is of any. A
    line whose last window was not run has no length, which is not measured.
    """
    columns = _headlines(scores)
    lines = dict.fromkeys(
        (score.entry, score.series)
        for score in scores
        if score.length is not None
        and score.status != "not run"
        and score.benchmark != "perplexity"
        and columns.get(score.series) in (score.column, ALL_TASKS)
    )
    shown = [
        use for use in uses if columns.get(use.series) == use.column and use.length is not None
    ]
    found = []
    for entry, series in lines:
        own = [use for use in shown if (use.entry, use.series) == (entry, series)]
        found.append(_find_length(entry, series, own))
    for entry in dict.fromkeys(entry for entry, _ in lines):
        own = [use for use in shown if use.entry == entry]
        if len({use.series for use in own}) > 1:
            lost = _find_lost([*scores, *floors], columns)
            pooled = _pool([use for use in own if (entry, use.length) not in lost])
            found.append(_find_length(entry, ALL_BENCHMARKS, pooled))
    return found


def list_lengths(
    scores: Sequence[Score], floors: Sequence[Score], uses: Sequence[LengthUse]
) -> list[EffectiveLength]:
    """Return the effective lengths by every rule, by line and benchmark.

    Of the last window those of benchmarks with a threshold, or in which some line was run by it.
    """
    by_threshold = find_effective_lengths(scores)
    by_window = find_window_lengths(scores, floors, uses)
    shown = {own.series for own in by_threshold} | {own.series for own in by_window if own.measured}
    keys = dict.fromkeys((own.entry, own.series) for own in (*by_threshold, *by_window))
    every = [*by_threshold, *(own for own in by_window if own.series in shown)]
    return [own for key in keys for own in every if (own.entry, own.series) == key]


def _find_length(entry: str, series: str, uses: Sequence[LengthUse]) -> EffectiveLength:
    """Go on from the shortest length while the model is better than its last window."""
    ordered = sorted(uses, key=lambda use: use.length or 0)
    tokens = _reach(ordered, [use.uses_length for use in ordered])
    # As far as it may be, were each difference at the upper end of its interval.
    high = _reach(ordered, [use.high is None or use.high > 0 for use in ordered])
    return EffectiveLength(
        entry=entry,
        series=series,
        rule=LAST_WINDOW,
        threshold=None,
        base_length=max((use.window for use in ordered), default=None),
        tokens=tokens,
        low=tokens,
        high=high,
        has_interval=all(use.low is not None for use in ordered),
        measured=tuple(use.length for use in ordered if use.length is not None),
        short_at=(),
    )


def _reach(uses: Sequence[LengthUse], holds: Sequence[bool]) -> int | None:
    number = holds.index(False) if False in holds else len(holds)
    return uses[number - 1].length if number else None


def _find_lost(scores: Sequence[Score], columns: Mapping[str, str]) -> set[tuple[str, int | None]]:
    """Return line and length of headlines, the lines' own or of last windows, that are missing."""
    return {
        (score.base or score.entry, score.length)
        for score in scores
        if score.status == "missing"
        and score.reader in ("full", LAST_WINDOW)
        and columns.get(score.series) in (score.column, *([] if score.is_group else [ALL_TASKS]))
    }


def _pool(
    uses: Sequence[LengthUse], series: str = ALL_BENCHMARKS, column: str = ALL_BENCHMARKS
) -> list[LengthUse]:
    """Return the means of each line at each length, over its benchmarks or tasks."""
    found: dict[tuple[str, int | None], list[LengthUse]] = defaultdict(list)
    for use in uses:
        found[use.entry, use.length].append(use)
    pooled = []
    for (entry, length), parts in found.items():
        names = [f"{use.series}: {use.column}" for use in parts]
        own = merge_clusters([use.own for use in parts], names)
        floor = merge_clusters([use.floor for use in parts], names)
        window = max(use.window for use in parts)
        pooled.append(_compare((entry, series, column, length, window), own, floor))
    return pooled


def merge_clusters(parts: Sequence[Clusters], names: Sequence[str]) -> Clusters:
    """Return several means as one in which each counts the same; ``names`` tell them apart."""
    named = list(zip(names, parts, strict=True))
    return Clusters(
        keys=tuple((name, key) for name, part in named for key in part.keys),
        strata=tuple((name, stratum) for name, part in named for stratum in part.strata),
        weights_C=np.concatenate([part.weights_C / len(parts) for part in parts]),
        means_C=np.concatenate([part.means_C for part in parts]),
        num_samples=sum(part.num_samples for part in parts),
    )
