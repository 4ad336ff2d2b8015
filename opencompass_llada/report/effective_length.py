"""How long a context a model really uses: the longest length whose score holds up.

RULER's rule (arXiv 2404.06654, table 3: the maximum length passing the threshold): shorter lengths
that fall short do not end it, and are named. Reads scores of the leaderboard and counts measured
lengths only. Two thresholds: RULER's, and a share of the model's own score at 4K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opencompass_llada.benchmarks.facts import find_benchmark
from opencompass_llada.report.board import Score

#: RULER (arXiv 2404.06654, section 4): Llama2-7B's score at 4K on its 13 tasks.
RULER_THRESHOLD = 85.6
#: NoLiMa (arXiv 2502.05167, section 4.2) takes 85 % of a model's own short-context score.
OWN_SHARE = 0.85
#: What counts as the model's own 4K: 4,000 tokens of NeedleBench, 4,096 of RULER.
BASE_LENGTHS = (4000, 4096)


@dataclass(frozen=True, kw_only=True)
class EffectiveLength:
    """A line's effective length on one benchmark under one threshold."""

    entry: str
    """Line of the leaderboard."""
    series: str
    """Benchmark."""
    column: str
    """The average looked at."""
    rule: str
    """``absolute`` (RULER's threshold) or ``relative`` (to the model's own first length)."""
    threshold: float | None
    """Percent; None where the model's own score is missing."""
    base_length: int | None
    """For ``relative``: the length whose score it is relative to."""
    tokens: int | None
    """The longest measured length whose score is at least the threshold; None if none is."""
    low: int | None
    """The longest whose 95 % interval lies wholly at the threshold or above; None if none does, or
    intervals are not known. The threshold is taken as given."""
    high: int | None
    """The longest whose 95 % interval reaches the threshold; None likewise."""
    has_interval: bool
    """Whether every measured length has an interval."""
    measured: tuple[int, ...]
    """Measured lengths, ascending."""
    short_at: tuple[int, ...]
    """Measured lengths below ``tokens`` that fall short of the threshold."""

    @property
    def bound(self) -> str:
        """Return how the measured lengths bound it.

        ``exact`` (a longer measured one falls short), ``at least`` (it is the longest measured),
        ``below`` (none holds) or ``unknown`` (none was measured).
        """
        if not self.measured or self.threshold is None:
            return "unknown"
        if self.tokens is None:
            return "below"
        return "at least" if self.tokens == self.measured[-1] else "exact"

    def describe(self) -> str:
        """Return the result as a table shows it: the length, its interval, what falls short."""
        if self.bound == "unknown":
            return "missing"
        text = self._name(self.tokens)
        if self.has_interval and not self.low == self.high == self.tokens:
            text += f" [{self._name(self.low)} to {self._name(self.high)}]"
        if self.short_at:
            text += f", not at {', '.join(f'{length:,}' for length in self.short_at)}"
        return text

    def _name(self, length: int | None) -> str:
        if length is None:
            return f"< {self.measured[0]:,}"
        return f"{'≥ ' if length == self.measured[-1] else ''}{length:,}"


def find_effective_lengths(scores: Sequence[Score]) -> list[EffectiveLength]:
    """Find both effective lengths of every line on every benchmark with lengths.

    Args:
        scores: From `board.make_board`.
    """
    lines: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        benchmark = find_benchmark(score.benchmark)
        if score.metric not in main_metrics(scores, score.benchmark):
            continue
        if score.length is not None and score.column == benchmark.headline:
            lines.setdefault((score.entry, score.series), []).append(score)
    found = []
    for members in lines.values():
        if all(score.status == "not run" for score in members):
            continue
        measured = sorted((s for s in members if s.score is not None), key=lambda s: s.length or 0)
        base = next((s for s in measured if s.length in BASE_LENGTHS), next(iter(measured), None))
        relative = None if base is None or base.score is None else OWN_SHARE * base.score
        found.append(_find(members[0], measured, "absolute", RULER_THRESHOLD, None))
        own = None if base is None else base.length
        found.append(_find(members[0], measured, "relative", relative, own))
    return found


def main_metrics(scores: Sequence[Score], benchmark: str) -> list[str]:
    """Return the metric that a benchmark is shown by: its first that was reported."""
    present = {score.metric for score in scores if score.benchmark == benchmark}
    return [name for name in find_benchmark(benchmark).metrics if name in present][:1]


def _find(
    first: Score,
    measured: Sequence[Score],
    rule: str,
    threshold: float | None,
    base_length: int | None,
) -> EffectiveLength:
    """Apply a threshold; one of 0 is held by nothing, since no context is used there."""

    def longest(name: str) -> int | None:
        holding = [s.length for s in measured if threshold and (getattr(s, name) or 0) >= threshold]
        return holding[-1] if holding else None

    tokens = longest("score")
    return EffectiveLength(
        entry=first.entry,
        series=first.series,
        column=first.column,
        rule=rule,
        threshold=threshold,
        base_length=base_length,
        tokens=tokens,
        low=longest("low"),
        high=longest("high"),
        has_interval=all(s.low is not None and s.high is not None for s in measured),
        measured=tuple(s.length or 0 for s in measured),
        short_at=tuple(
            s.length or 0
            for s in measured
            if tokens is not None and (s.length or 0) < tokens and (s.score or 0) < (threshold or 0)
        ),
    )
