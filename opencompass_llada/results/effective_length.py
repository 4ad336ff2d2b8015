"""How long a context a model really uses: the longest length whose score holds up.

Reads scores of the leaderboard. Two thresholds: RULER's, and a share of the model's own score at
its first length. Says of each result whether the measured lengths bound it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opencompass_llada.results.benchmarks import find_benchmark
from opencompass_llada.results.board import Score

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
    """The longest measured length up to which every score is at least the threshold; None if
    already the shortest falls short, or nothing is known."""
    bound: str
    """``exact`` (the next measured length falls short), ``at least`` (it is the last measured, or
    the next has no result), ``below`` (the shortest falls short) or ``unknown``."""
    next_length: int | None
    """For ``exact``, the length that falls short; for ``below``, the shortest."""

    def describe(self) -> str:
        """Return the result as a table shows it."""
        if self.bound == "unknown":
            return "missing"
        if self.bound == "below":
            return f"< {self.next_length:,}"
        return f"{'≥ ' if self.bound == 'at least' else ''}{self.tokens:,}"


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
        if (
            score.length is not None
            and score.column == benchmark.headline
            and score.status != "not run"
        ):
            lines.setdefault((score.entry, score.series), []).append(score)
    found = []
    for members in lines.values():
        members.sort(key=lambda score: score.length or 0)
        base = next((s for s in members if s.length in BASE_LENGTHS), members[0])
        relative = None if base.score is None else OWN_SHARE * base.score
        found.append(_find(members, "absolute", RULER_THRESHOLD, None))
        found.append(_find(members, "relative", relative, base.length))
    return found


def main_metrics(scores: Sequence[Score], benchmark: str) -> list[str]:
    """Return the metric that a benchmark is shown by: its first that was reported."""
    present = {score.metric for score in scores if score.benchmark == benchmark}
    return [name for name in find_benchmark(benchmark).metrics if name in present][:1]


def _find(
    scores: Sequence[Score], rule: str, threshold: float | None, base_length: int | None
) -> EffectiveLength:
    reached, bound, following = None, "at least", None
    for score in scores:
        if threshold is None or (score.score is None and reached is None):
            bound = "unknown"
            break
        if score.score is None:
            break
        if score.score < threshold:
            bound, following = ("below" if reached is None else "exact"), score.length
            break
        reached = score.length
    # A score of 0 stays above 85 % of 0: that is no context used.
    if rule == "relative" and threshold == 0:
        reached, bound, following = None, "below", scores[0].length
    return EffectiveLength(
        entry=scores[0].entry,
        series=scores[0].series,
        column=scores[0].column,
        rule=rule,
        threshold=threshold,
        base_length=base_length,
        tokens=reached,
        bound=bound,
        next_length=following,
    )
