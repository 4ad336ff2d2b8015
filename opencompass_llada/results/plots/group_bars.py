"""Scores by group of tasks: a panel a group and length, a bar a model. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass_llada.results.board import Score
from opencompass_llada.results.plots.style import look_of, new_figure

_HATCHES = {"diffusion": "", "autoregressive": "////", "unknown": "...."}
_BAR_INCHES = 0.21


def draw_groups(series: str, scores: Sequence[Score]) -> Any | None:
    """Draw every group that some model has a number in.

    Args:
        series: Title.
        scores: Of the series.

    Returns:
        A figure; None with fewer than two groups.
    """
    entries = list(dict.fromkeys(score.entry for score in scores))
    groups = [
        name
        for name in dict.fromkeys(score.column for score in scores if score.is_group)
        if any(score.column == name and score.status != "not run" for score in scores)
    ]
    lengths: list[int | None] = [*sorted({s.length for s in scores if s.length is not None})]
    lengths = lengths or [None]
    if len(groups) < 2:
        return None
    index = {(s.entry, s.column, s.length): s for s in scores}
    height = 0.9 + _BAR_INCHES * len(entries)
    figure = new_figure(2.6 + 1.5 * len(groups), height * len(lengths) + 0.7)
    panels = figure.subplots(len(lengths), len(groups), squeeze=False, sharex=True, sharey=True)
    for row, length in zip(panels, lengths, strict=True):
        for axes, group in zip(row, groups, strict=True):
            own = [index.get((entry, group, length)) for entry in entries]
            _draw_panel(axes, own)
        where = "" if length is None else f"{length:,} tokens"
        row[0].set_ylabel(where, fontsize=9)
        row[0].set_yticks(range(len(entries)), entries, fontsize=7.5)
    for axes, group in zip(panels[0], groups, strict=True):
        axes.set_title(group, fontsize=9)
    panels[0][0].set_ylim(len(entries) - 0.4, -0.6)
    panels[0][0].set_xlim(0, 118)
    figure.supxlabel("score, % (bars: 95 %; hatched: autoregressive)", fontsize=9)
    figure.suptitle(series, fontsize=11)
    return figure


def _draw_panel(axes: Any, scores: Sequence[Score | None]) -> None:
    for place, score in enumerate(scores):
        if score is None or score.score is None:
            missing = score is not None and score.status == "missing"
            axes.text(1, place, "missing" if missing else "not run", fontsize=6.5, va="center",
                      color="0.35", in_layout=False)  # fmt: skip
            continue
        look = look_of(place, score.kind)
        axes.barh(place, score.score, height=0.74, color=look["color"], edgecolor="white",
                  hatch=_HATCHES[score.kind], linewidth=0)  # fmt: skip
        end = score.score
        if score.low is not None and score.high is not None:
            axes.plot([score.low, score.high], [place, place], color="black", linewidth=1)
            end = max(end, score.high)
        axes.text(min(end, 100) + 1.5, place, f"{score.score:.0f}", fontsize=6.5, va="center",
                  in_layout=False)  # fmt: skip
    axes.set_xticks([0, 50, 100])
    axes.tick_params(labelsize=7.5)
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)
