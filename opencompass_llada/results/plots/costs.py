"""Score against seconds a sample, a panel a benchmark. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass_llada.results.board import Score
from opencompass_llada.results.cost import Cost
from opencompass_llada.results.plots.style import label_seconds, look_of, new_figure


def draw_costs(scores: Sequence[Score], costs: Sequence[Cost]) -> Any | None:
    """Draw each benchmark's headline against what an answer takes.

    Args:
        scores: Ranked scores.
        costs: What generation took.

    Returns:
        A figure; None if nothing has both.
    """
    from opencompass_llada.results.tables import choose_headlines

    entries = list(dict.fromkeys(score.entry for score in scores))
    index = {(s.entry, s.series, s.column, s.length): s for s in scores}
    panels: list[tuple[str, list[tuple[Score, Cost]]]] = []
    for series, column, length in choose_headlines(scores):
        pairs = []
        for cost in costs:
            score = index.get((cost.entry, series, column, length))
            if score is None or score.benchmark != cost.benchmark or score.score is None:
                continue
            if cost.seconds_per_sample is not None:
                pairs.append((score, cost))
        if pairs:
            panels.append((f"{series}: {column}", pairs))
    if not panels:
        return None
    shown = {score.entry for _, pairs in panels for score, _ in pairs}
    figure = new_figure(4.6 * len(panels) + 0.6, 3.8 + 0.12 * len(shown))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    drawn: dict[str, Any] = {}
    for axes, (title, pairs) in zip(all_axes, panels, strict=True):
        for score, cost in pairs:
            drawn.setdefault(
                score.entry, _draw_point(axes, score, cost, entries.index(score.entry))
            )
        label_seconds(axes)
        axes.set_ylim(-3, 105)
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel("seconds a sample")
        axes.grid(True, which="both", color="0.92")
    all_axes[0].set_ylabel("score, % (bars: 95 %)")
    figure.legend(list(drawn.values()), list(drawn), loc="outside lower center", ncols=2,
                  fontsize=8, frameon=False)  # fmt: skip
    return figure


def _draw_point(axes: Any, score: Score, cost: Cost, place: int) -> Any:
    look = look_of(place, score.kind)
    value = score.score or 0.0
    low = value if score.low is None else score.low
    high = value if score.high is None else score.high
    return axes.errorbar(
        cost.seconds_per_sample, value, yerr=[[value - low], [high - value]], capsize=2.5,
        markersize=7, linewidth=1, color=look["color"], marker=look["marker"], linestyle="none",
        markerfacecolor=look["markerfacecolor"],
    )  # fmt: skip
