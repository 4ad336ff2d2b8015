"""Scores over context length with their 95 % bands. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass_llada.results.benchmarks import find_benchmark
from opencompass_llada.results.board import Score
from opencompass_llada.results.effective_length import RULER_THRESHOLD
from opencompass_llada.results.plots.style import label_lengths, look_of, new_figure, place_legend


def draw_lengths(series: str, scores: Sequence[Score]) -> Any | None:
    """Draw the headline of a benchmark, or the first group that was run.

    Args:
        series: Title.
        scores: Of the series.

    Returns:
        A figure; None with fewer than two lengths.
    """
    entries = list(dict.fromkeys(score.entry for score in scores))
    headline = find_benchmark(scores[0].benchmark).headline
    with_length = [s for s in scores if s.length is not None and s.is_group and s.status != "not run"]
    names = list(dict.fromkeys(score.column for score in with_length))
    if not names:
        return None
    column = headline if headline in names else names[0]
    own = [score for score in with_length if score.column == column]
    lengths = sorted({score.length for score in own if score.length is not None})
    if len(lengths) < 2:
        return None
    figure = new_figure(7.2, 4.4 + 0.11 * len(entries))
    axes = figure.subplots()
    for place, entry in enumerate(entries):
        line = sorted((s for s in own if s.entry == entry), key=lambda s: s.length or 0)
        if line:
            _draw_line(axes, line, look_of(place, line[0].kind))
    if scores[0].benchmark == "ruler":
        axes.axhline(RULER_THRESHOLD, color="0.35", linestyle=(0, (1, 2)), linewidth=1)
        axes.annotate(f"RULER's threshold, {RULER_THRESHOLD:g}", (0.01, RULER_THRESHOLD),
                      xycoords=("axes fraction", "data"), fontsize=7.5, va="bottom", color="0.35")  # fmt: skip
    label_lengths(axes, lengths)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("context length, tokens")
    axes.set_ylabel(f"{column}, %")
    axes.set_title(f"{series} (bands: 95 %)", fontsize=11)
    axes.grid(True, color="0.9")
    place_legend(figure, axes, len(entries))
    return figure


def _draw_line(axes: Any, line: Sequence[Score], look: dict[str, Any]) -> None:
    """Draw one model; a missing length breaks the line."""
    nan = float("nan")
    x = [score.length for score in line]
    values = [nan if score.score is None else score.score for score in line]
    lows = [nan if score.low is None else score.low for score in line]
    highs = [nan if score.high is None else score.high for score in line]
    axes.fill_between(x, lows, highs, color=look["color"], alpha=0.10, linewidth=0)
    axes.plot(x, values, markersize=5, linewidth=1.6, label=line[0].entry, **look)
    for score in line:
        if score.score is None:
            axes.annotate("missing", (score.length, 1), fontsize=6.5, ha="center",
                          color=look["color"], rotation=90)  # fmt: skip
