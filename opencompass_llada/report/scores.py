"""Ranks scores of the leaderboard and finds how long a context a model really uses.

Effective length goes by RULER's rule (arXiv 2404.06654, table 3: the maximum length passing the
threshold), with two thresholds: RULER's, and a share of the model's own score at 4K.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.report.pairs import Clusters, Decisions, decide_all

#: RULER (arXiv 2404.06654, section 4): Llama2-7B's score at 4K on its 13 tasks.
RULER_THRESHOLD = 85.6
#: NoLiMa (arXiv 2502.05167, section 4.2) takes 85 % of a model's own short-context score.
OWN_SHARE = 0.85
LAST_WINDOW = "last_window"  # the rule of `length_use`, and the reader that it is by
BASE_LENGTHS = (4000, 4096)  # a model's own 4K, in NeedleBench and RULER
SAME = 1e-9  # scores that are no further apart are equal but for rounding
MOST_RANKED = 64  # lines of a column that is no headline; all pairs of more take too long
MOST_NAMED = 3  # lines that a sentence names
BOUND_NOTE = (
    "perplexities of masked diffusion models are upper bounds, those of autoregressive models "
    "exact: of the two the lower may be so by the bound alone"
)
BOLD_NOTE = (
    "Bold: the best of its group, among lines that were asked the same in the column (all of equal "
    "score), whether or not the difference means anything"
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line's number in one column of the leaderboard."""

    entry: str  # line: model and scaling
    kind: str  # ``diffusion``, ``autoregressive`` or ``unknown``
    benchmark: str
    series: str  # the benchmark's title, with language or data where there are several
    column: str  # group of tasks, or a task
    is_group: bool = False  # whether the column is an average of several
    length: int | None  # tokens; None for all lengths together, or a benchmark without lengths
    metric: str
    higher_is_better: bool = True  # False for perplexity
    num_cells: int = 1  # members of the average
    n: int | None  # samples of all members together
    score: float | None  # None unless status is ``ok``
    low: float | None = None  # of the 95 % interval; None where samples have no scores of their own
    high: float | None = None
    # ``ok``, ``missing``, ``not run``, or ``same``: a floor that is the model's own score.
    status: str
    reason: str
    protocol: str  # hash of what all members ask; scores that share it are ranked together
    is_own: bool  # of this package's own texts or draws of needles, which no paper reports on
    effective_n: float | None = None  # as many equal, independent clusters say as much (Kish)
    rank: int | None = None  # 1 plus the number of lines that are decidedly better; None without
    lowest_rank: int | None = None  # the rank were all that is undecided lost
    undecided: str = ""  # level with whom, undecided against whom; why there is no rank
    is_top: bool = False  # of several lines that were asked the same none is better; not a test
    reader: str = "full"  # another for a floor or a ceiling, which is no line of the leaderboard
    base: str = ""  # the line that a floor is of; '' for what is of all lines
    window: int | None = None  # tokens that the reader ``last_window`` is shown
    clusters: Clusters | None = field(default=None, repr=False, compare=False)

    @property
    def is_decided(self) -> bool:
        """Whether the rank is known."""
        return self.rank is not None and self.rank == self.lowest_rank


def rank_scores(scores: Sequence[Score]) -> tuple[list[Score], list[str]]:
    """Return all scores with their rank in their column, and remarks on several protocols in one.

    Ranks go by pairs of lines that answered the same samples, with Holm's correction for all pairs
    of a column (`pairs.decide_all`). Scores of other protocols (prompts, tokenizer, number of
    samples) are ranked among themselves. Of more than `MOST_RANKED` lines the headlines alone are.
    """
    headlines = set(choose_headlines(scores))
    columns: dict[Any, dict[str, list[Score]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        if score.score is not None:
            columns[score.series, score.column, score.length][score.protocol].append(score)
    ranked: dict[int, Score] = {}
    mixed: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for column, by_protocol in columns.items():
        groups = by_protocol.values()
        if len(groups) > 1:
            mixed[column[0]].add(tuple(" + ".join(s.entry for s in group) for group in groups))
        num_lines = sum(map(len, groups))
        for group in groups:
            ranked |= {id(score): _mark_top(score, group) for score in group}
            if num_lines <= MOST_RANKED or column in headlines:
                ranked |= _rank([(id(score), ranked[id(score)]) for score in group], num_lines)
    remarks: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for series, groupings in mixed.items():
        remarks[max(sorted(groupings), key=len)].append(series)
    notes = [
        f"{' and '.join(names)}: not all lines were asked the same (prompts, tokenizer, number of "
        f"samples or lengths differ), so ranks count within {'; '.join(grouping)}"
        for grouping, names in remarks.items()
    ]
    return [ranked.get(id(score), score) for score in scores], notes


def _mark_top(score: Score, group: Sequence[Score]) -> Score:
    values = [other.score or 0.0 for other in group]
    best = max(values) if score.higher_is_better else min(values)
    is_best = abs((score.score or 0.0) - best) < SAME
    return replace(score, is_top=is_best and len(group) > 1)


def _rank(group: Sequence[tuple[int, Score]], num_lines: int) -> dict[int, Score]:
    """Rank the scores of one protocol in a column of so many lines, each with its id."""
    by_samples: dict[Any, list[tuple[int, Score, Clusters]]] = defaultdict(list)
    found = {}
    for name, score in group:
        if score.clusters is not None:
            by_samples[score.clusters.keys].append((name, score, score.clusters))
        elif num_lines > 1:
            found[name] = replace(score, undecided="no scores by sample are recorded")
    for members in by_samples.values():
        if len(members) == 1:
            name, score, _ = members[0]
            told = "no other line was asked the same" if num_lines > 1 else ""
            found[name] = replace(score, undecided=told)
            continue
        names, lines, clusters = zip(*members, strict=True)
        decisions = decide_all(list(clusters), higher_is_better=lines[0].higher_is_better)
        for place, (name, line) in enumerate(zip(names, lines, strict=True)):
            better, worse = decisions.better_LL[:, place], decisions.better_LL[place]
            found[name] = replace(
                line,
                rank=1 + int(better.sum()),
                lowest_rank=len(lines) - int(worse.sum()),
                undecided=_describe_undecided(place, [s.entry for s in lines], decisions),
            )
    return found


def _describe_undecided(place: int, entries: Sequence[str], decisions: Decisions) -> str:
    """Name the lines that a line is level with, and those that it is undecided against.

    Those that more samples would decide come first, the nearest of them before the others.
    """
    is_decided = decisions.better_LL[place] | decisions.better_LL[:, place]
    others = [i for i in decisions.nearest(place) if not is_decided[i]]
    means_L = decisions.means_L
    level = [i for i in others if abs(means_L[i] - means_L[place]) < SAME]
    apart = others[len(level) :]
    numbers: dict[int, str] = {}
    for other in apart:
        if len(numbers) < MOST_NAMED and (more := decisions.clusters_to_decide(place, other)):
            numbers[other] = f" (about {more:,} more samples would decide this pair)"
    apart.sort(key=lambda other: other not in numbers)
    parts = {
        "level with": [entries[i] for i in level],
        "undecided against": [entries[i] + numbers.get(i, "") for i in apart],
    }
    return ", ".join(f"{how} {name_some(names)}" for how, names in parts.items() if names)


def name_some(names: Sequence[str]) -> str:
    """Return the first names and how many more there are; names hold commas, so not by these."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return "; ".join(names[:MOST_NAMED]) + more


def main_metric(scores: Sequence[Score], benchmark: str) -> str | None:
    """Return the metric that a benchmark is shown by: its first that was reported."""
    present = {score.metric for score in scores if score.benchmark == benchmark}
    return next((name for name in find_benchmark(benchmark).metrics if name in present), None)


def choose_headlines(scores: Sequence[Score]) -> list[tuple[str, str, int | None]]:
    """Choose each series' column for the overview: headline over all lengths, else the longest."""
    chosen = []
    for series in dict.fromkeys(score.series for score in scores):
        own = [score for score in scores if score.series == series]
        first = own[0]
        main = main_metric(scores, first.benchmark)
        if first.benchmark != "perplexity" and first.metric != main:
            continue
        groups = [s for s in own if s.is_group and s.status != "not run"]
        headline = [s for s in groups if s.column == find_benchmark(s.benchmark).headline]
        whole = [s for s in headline if s.length is None]
        best = whole or headline or groups or [s for s in own if s.status != "not run"] or own
        longest = max(best, key=lambda score: score.length or 0)
        chosen.append((series, longest.column, longest.length))
    return chosen


@dataclass(frozen=True, kw_only=True)
class EffectiveLength:
    """A line's effective length on one benchmark under one threshold."""

    entry: str
    series: str
    # ``absolute`` (RULER's threshold), ``relative`` (to the model's own first length), or
    # ``last_window`` (better than the model's own last window: `length_use`).
    rule: str
    threshold: float | None  # percent; None where the model's own score is missing, or of a window
    # For ``relative`` the length whose score it is relative to; for ``last_window`` the window.
    base_length: int | None
    tokens: int | None  # the longest measured whose score is at least the threshold; None if none
    low: int | None  # the longest whose 95 % interval lies wholly there, None if none or unknown
    high: int | None  # the longest whose interval reaches it
    has_interval: bool  # whether every measured length has one
    measured: tuple[int, ...]  # lengths, ascending
    short_at: tuple[int, ...]  # measured lengths below ``tokens`` that fall short of the threshold

    @property
    def value(self) -> int | None:
        """What tables sort by: 0 where no measured length holds, None where nothing is known."""
        if not self.measured or (self.threshold is None and self.rule != LAST_WINDOW):
            return None
        return self.tokens or 0

    def describe(self) -> str:
        """Return the result as a table shows it: the length, its interval, what falls short."""
        if self.value is None:
            return "not measured" if self.rule == LAST_WINDOW else "missing"
        text = self._name(self.tokens)
        if self.has_interval and not self.low == self.high == self.tokens:
            text += f" [{self._name(self.low)} to {self._name(self.high)}]"
        if self.short_at:
            text += f", not at {', '.join(f'{length:,}' for length in self.short_at)}"
        return text

    def _name(self, length: int | None) -> str:
        if length is None and self.rule == LAST_WINDOW:
            return f"≤ {self.base_length:,}"
        if length is None:
            return f"< {self.measured[0]:,}"
        return f"{'≥ ' if length == self.measured[-1] else ''}{length:,}"


def find_effective_lengths(scores: Sequence[Score]) -> list[EffectiveLength]:
    """Find both effective lengths of every line on every benchmark with lengths."""
    lines: dict[tuple[str, str], list[Score]] = {}
    main = {name: main_metric(scores, name) for name in {score.benchmark for score in scores}}
    for score in scores:
        if score.length is None or score.metric != main[score.benchmark]:
            continue
        if score.column == find_benchmark(score.benchmark).headline:
            lines.setdefault((score.entry, score.series), []).append(score)
    return [
        length
        for members in lines.values()
        if any(score.status != "not run" for score in members)
        for length in _apply_thresholds(members)
    ]


def _apply_thresholds(line: Sequence[Score]) -> Iterator[EffectiveLength]:
    measured = sorted((s for s in line if s.score is not None), key=lambda s: s.length or 0)
    base = next((s for s in measured if s.length in BASE_LENGTHS), next(iter(measured), None))
    own = None if base is None or base.score is None else OWN_SHARE * base.score
    relative = ("relative", own, None if base is None else base.length)
    for rule, threshold, base_length in (("absolute", RULER_THRESHOLD, None), relative):
        # A threshold of 0 is held by nothing, since no context is used there.
        least = threshold or math.inf
        holding = {
            name: [s.length for s in measured if s.length and (getattr(s, name) or 0) >= least]
            for name in ("score", "low", "high")
        }
        tokens, low, high = (max(lengths, default=None) for lengths in holding.values())
        lengths = tuple(s.length for s in measured if s.length is not None)
        yield EffectiveLength(
            entry=line[0].entry,
            series=line[0].series,
            rule=rule,
            threshold=threshold,
            base_length=base_length,
            tokens=tokens,
            low=low,
            high=high,
            has_interval=all(s.low is not None and s.high is not None for s in measured),
            measured=lengths,
            short_at=tuple(n for n in lengths if n < (tokens or 0) and n not in holding["score"]),
        )
