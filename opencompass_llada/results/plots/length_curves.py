"""Scores over context length with their 95 % bands. Computes nothing.

Few models share one panel; more have a panel each, with the others in grey behind.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from opencompass_llada.results.benchmarks import find_benchmark
from opencompass_llada.results.board import Score
from opencompass_llada.results.effective_length import RULER_THRESHOLD
from opencompass_llada.results.plots.style import label_lengths, look_of, new_figure, place_legend

#: More bands than this in one panel cannot be told apart.
MOST_IN_A_PANEL = 5
_COLUMNS = 4


def draw_lengths(series: str, scores: Sequence[Score]) -> Any | None:
    """Draw the headline of a benchmark, or the first group that was run.

    Args:
        series: Title.
        scores: Of the series.

    Returns:
        A figure; None with fewer than two lengths.
    """
    headline = find_benchmark(scores[0].benchmark).headline
    present = [s for s in scores if s.length is not None and s.is_group and s.status != "not run"]
    names = list(dict.fromkeys(score.column for score in present))
    if not names:
        return None
    column = headline if headline in names else names[0]
    lengths = sorted({s.length for s in present if s.length is not None and s.column == column})
    if len(lengths) < 2:
        return None
    entries = list(dict.fromkeys(score.entry for score in scores))
    lines = {
        entry: sorted(
            (s for s in present if s.column == column and s.entry == entry),
            key=lambda score: score.length or 0,
        )
        for entry in entries
    }
    lines = {entry: line for entry, line in lines.items() if line}
    looks = {entry: look_of(entries.index(entry), line[0].kind) for entry, line in lines.items()}
    draw = _draw_together if len(lines) <= MOST_IN_A_PANEL else _draw_apart
    figure, all_axes = draw(lines, looks)
    for axes in all_axes:
        _finish(axes, lengths, scores[0].benchmark == "ruler")
    figure.suptitle(f"{series}: {column}, % (bands: 95 %)", fontsize=11)
    if len(all_axes) > 1:
        figure.supxlabel("context length, tokens", fontsize=9)
    else:  # a label of the whole figure would lie under the legend
        all_axes[0].set_xlabel("context length, tokens", fontsize=9)
    return figure


def _draw_together(
    lines: dict[str, list[Score]], looks: dict[str, dict[str, Any]]
) -> tuple[Any, list[Any]]:
    figure = new_figure(7.2, 4.4 + 0.11 * len(lines))
    axes = figure.subplots()
    for entry, line in lines.items():
        _draw_line(axes, line, looks[entry])
    place_legend(figure, axes, len(lines))
    return figure, [axes]


def _draw_apart(
    lines: dict[str, list[Score]], looks: dict[str, dict[str, Any]]
) -> tuple[Any, list[Any]]:
    rows = math.ceil(len(lines) / _COLUMNS)
    figure = new_figure(2.7 * _COLUMNS, 2.1 * rows + 0.6)
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True).ravel())
    for axes, (entry, line) in zip(panels, lines.items(), strict=False):
        for other in lines.values():
            axes.plot(*_points(other), color="0.82", linewidth=0.8, zorder=1)
        _draw_line(axes, line, looks[entry])
        axes.set_title("\n".join(textwrap.wrap(entry, 34)), fontsize=8)
    for axes in panels[len(lines) :]:
        axes.set_axis_off()
    return figure, panels[: len(lines)]


def _finish(axes: Any, lengths: Sequence[int], with_threshold: bool) -> None:
    label_lengths(axes, lengths)
    axes.set_ylim(-3, 103)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(True, color="0.92")
    if with_threshold:
        axes.axhline(RULER_THRESHOLD, color="0.35", linestyle=(0, (1, 2)), linewidth=1)
        axes.annotate(f"threshold {RULER_THRESHOLD:g}", (0.01, RULER_THRESHOLD), va="bottom",
                      xycoords=("axes fraction", "data"), fontsize=6.5, color="0.35")  # fmt: skip


def _points(line: Sequence[Score]) -> tuple[list[int | None], list[float]]:
    """Return lengths and scores; a missing one breaks the line."""
    values = [float("nan") if score.score is None else score.score for score in line]
    return [score.length for score in line], values


def _draw_line(axes: Any, line: Sequence[Score], look: dict[str, Any]) -> None:
    nan = float("nan")
    x, values = _points(line)
    lows = [nan if score.low is None else score.low for score in line]
    highs = [nan if score.high is None else score.high for score in line]
    axes.fill_between(x, lows, highs, color=look["color"], alpha=0.14, linewidth=0)
    axes.plot(x, values, markersize=5, linewidth=1.6, label=line[0].entry, zorder=3, **look)
    for score in line:
        if score.score is None:
            axes.annotate("missing", (score.length, 1), fontsize=6.5, ha="center",
                          color=look["color"], rotation=90)  # fmt: skip
