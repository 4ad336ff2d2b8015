"""Draws the figures of the leaderboard, readable in print and by the colour-blind.

Few models share one panel; more have a panel each, with the others in grey behind. Heat maps are
drawn in `heatmap`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.report.collect import Collection
from opencompass_llada.report.cost import Cost
from opencompass_llada.report.curves import split_curves
from opencompass_llada.report.heatmap import draw_heat_maps, make_entry_grids
from opencompass_llada.report.scores import (
    RULER_THRESHOLD,
    Score,
    choose_headlines,
    main_metrics,
)
from opencompass_llada.report.writers import file_name, name_scaling, new_figure

#: Okabe and Ito's palette, told apart by the colour-blind; black is left for lines of reference.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
#: Masked diffusion is drawn with full lines and marks, autoregressive broken and hollow.
LINE_STYLES = {"diffusion": "-", "autoregressive": "--", "unknown": ":"}
_HATCHES = {"diffusion": "", "autoregressive": "////", "unknown": "...."}
_BAR_INCHES = 0.21
#: More bands than this in one panel cannot be told apart.
MOST_IN_A_PANEL = 5
_COLUMNS = 4
HEAT_MAPS = "niah_heat_maps"
TARGET_TITLES = {
    "last": "the same {tokens} tokens, given a growing prefix",
    "segment": "all text up to a length, in chunks given what stands before them",
    "whole": "the whole text up to a length, nothing given",
}
ESTIMATOR_NAMES = {
    "bound": "likelihood bound",
    "longllada": "likelihood bound of chunks, as LongLLaDA's script",
    "autoregressive": "exact, autoregressive",
}
NAN = float("nan")


def make_plots(
    collection: Collection, scores: Sequence[Score], costs: Sequence[Cost]
) -> Iterator[tuple[str, str, Any]]:
    """Yield name, caption and figure of everything that there is something to draw for."""
    if grids := make_entry_grids(collection.results):
        figure = draw_heat_maps(grids, 3 if len(grids) <= 9 else 5)
        yield HEAT_MAPS, "Needle in a haystack by length and depth", figure
    for series in dict.fromkeys(score.series for score in scores):
        own = [score for score in scores if score.series == series]
        main = main_metrics(scores, own[0].benchmark)
        if own[0].benchmark == "perplexity" or (main and own[0].metric not in main):
            continue
        if (figure := draw_lengths(series, own)) is not None:
            yield f"{file_name(series)}_by_length", f"{series} over context length", figure
        if (figure := draw_groups(series, own)) is not None:
            yield f"{file_name(series)}_by_group", f"{series} by group of tasks", figure
    if len(collection.curves):
        trained = {row.entry: row.trained_length for row in collection.rows}
        figure = draw_curves(collection.curves.assign(model=collection.curves.entry), trained)
        yield "perplexity_by_length", "Perplexity over context length", figure
    if (figure := draw_costs(scores, costs)) is not None:
        yield "score_against_cost", "Score against cost of generation", figure


def _look_of(place: int, kind: str = "diffusion") -> dict[str, Any]:
    """Return how the line of that place in the leaderboard is drawn in every figure.

    Colour and marker together tell 36 lines apart, without colour six.
    """
    colour = COLOURS[place % len(COLOURS)]
    return {
        "color": colour,
        "marker": MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
        "linestyle": LINE_STYLES[kind],
        "markerfacecolor": colour if kind == "diffusion" else "white",
    }


def _label_lengths(axes: Any, lengths: Sequence[int]) -> None:
    """Give an axis of lengths a logarithmic scale with the measured lengths on it."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=45, fontsize=8)
    axes.minorticks_off()


def _label_numbers(axis: Any, steps: Sequence[float], form: str) -> None:
    """Write plain numbers on a logarithmic axis, several a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format(value, form)))


def draw_costs(scores: Sequence[Score], costs: Sequence[Cost]) -> Any | None:
    """Draw each benchmark's headline against what an answer takes; None if nothing has both."""
    entries = list(dict.fromkeys(score.entry for score in scores))
    index = {(s.entry, s.series, s.column, s.length): s for s in scores}
    panels: dict[str, list[tuple[Score, float]]] = {}
    for series, column, length in choose_headlines(scores):
        for cost in costs:
            score = index.get((cost.entry, series, column, length))
            if score is None or score.benchmark != cost.benchmark or score.score is None:
                continue
            if cost.seconds_per_sample is not None:
                point = (score, cost.seconds_per_sample)
                panels.setdefault(f"{series}: {column}", []).append(point)
    if not panels:
        return None
    shown = {score.entry for pairs in panels.values() for score, _ in pairs}
    figure = new_figure(4.6 * len(panels) + 0.6, 3.8 + 0.12 * len(shown))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    drawn: dict[str, Any] = {}
    for axes, (title, pairs) in zip(all_axes, panels.items(), strict=True):
        for score, seconds in pairs:
            look = _look_of(entries.index(score.entry), score.kind)
            drawn.setdefault(score.entry, _draw_point(axes, score, seconds, look))
        _label_seconds(axes)
        axes.set_ylim(-3, 105)
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel("seconds a sample")
        axes.grid(True, which="both", color="0.92")
    all_axes[0].set_ylabel("score, % (bars: 95 %)")
    figure.legend(list(drawn.values()), list(drawn), loc="outside lower center", ncols=2,
                  fontsize=8, frameon=False)  # fmt: skip
    return figure


def _draw_point(axes: Any, score: Score, seconds: float, look: dict[str, Any]) -> Any:
    value = score.score or 0.0
    low = value if score.low is None else score.low
    high = value if score.high is None else score.high
    return axes.errorbar(
        seconds, value, yerr=[[value - low], [high - value]], capsize=2.5,
        markersize=7, linewidth=1, **{**look, "linestyle": "none"},
    )  # fmt: skip


def _label_seconds(axes: Any) -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    _label_numbers(axes.xaxis, (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,), ".10g")
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_groups(series: str, scores: Sequence[Score]) -> Any | None:
    """Draw every group that some model has a number in; None with fewer than two groups."""
    entries = list(dict.fromkeys(score.entry for score in scores))
    run = {score.column for score in scores if score.status != "not run"}
    groups = list(dict.fromkeys(s.column for s in scores if s.is_group and s.column in run))
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
            _draw_bars(axes, [index.get((entry, group, length)) for entry in entries])
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


def _draw_bars(axes: Any, scores: Sequence[Score | None]) -> None:
    for place, score in enumerate(scores):
        if score is None or score.score is None:
            missing = score is not None and score.status == "missing"
            axes.text(1, place, "missing" if missing else "not run", fontsize=6.5, va="center",
                      color="0.35", in_layout=False)  # fmt: skip
            continue
        axes.barh(place, score.score, height=0.74, color=COLOURS[place % len(COLOURS)],
                  edgecolor="white", hatch=_HATCHES[score.kind], linewidth=0)  # fmt: skip
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


def draw_lengths(series: str, scores: Sequence[Score]) -> Any | None:
    """Draw a benchmark's headline, or the first group that was run; None below two lengths."""
    present = [s for s in scores if s.length is not None and s.is_group and s.status != "not run"]
    names = list(dict.fromkeys(score.column for score in present))
    if not names:
        return None
    headline = find_benchmark(scores[0].benchmark).headline
    column = headline if headline in names else names[0]
    present = sorted((s for s in present if s.column == column), key=lambda s: s.length or 0)
    lengths = sorted({s.length for s in present if s.length is not None})
    if len(lengths) < 2:
        return None
    entries = list(dict.fromkeys(score.entry for score in scores))
    lines = {entry: [s for s in present if s.entry == entry] for entry in entries}
    lines = {entry: line for entry, line in lines.items() if line}
    looks = {entry: _look_of(entries.index(entry), line[0].kind) for entry, line in lines.items()}
    draw = _draw_together if len(lines) <= MOST_IN_A_PANEL else _draw_apart
    figure, all_axes = draw(lines, looks)
    for axes in all_axes:
        _label_lengths(axes, lengths)
        axes.set_ylim(-3, 103)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(True, color="0.92")
        if scores[0].benchmark == "ruler":
            _mark_threshold(axes)
    figure.suptitle(f"{series}: {column}, % (bands: 95 %)", fontsize=11)
    if len(all_axes) > 1:
        figure.supxlabel("context length, tokens", fontsize=9)
    else:  # a label of the whole figure would lie under the legend
        all_axes[0].set_xlabel("context length, tokens", fontsize=9)
    return figure


Lines = Mapping[str, Sequence[Score]]
Looks = Mapping[str, dict[str, Any]]


def _draw_together(lines: Lines, looks: Looks) -> tuple[Any, list[Any]]:
    figure = new_figure(7.2, 4.4 + 0.11 * len(lines))
    axes = figure.subplots()
    for entry, line in lines.items():
        _draw_line(axes, line, looks[entry])
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(2, len(lines)),
                  fontsize=8, frameon=False)  # fmt: skip
    return figure, [axes]


def _draw_apart(lines: Lines, looks: Looks) -> tuple[Any, list[Any]]:
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


def _mark_threshold(axes: Any) -> None:
    axes.axhline(RULER_THRESHOLD, color="0.35", linestyle=(0, (1, 2)), linewidth=1)
    axes.annotate(f"threshold {RULER_THRESHOLD:g}", (0.01, RULER_THRESHOLD), va="bottom",
                  xycoords=("axes fraction", "data"), fontsize=6.5, color="0.35")  # fmt: skip


def _floats(items: Sequence[Any], name: str) -> list[float]:
    """Return an attribute of each, NaN where it is missing, which breaks a line."""
    return [NAN if getattr(item, name) is None else getattr(item, name) for item in items]


def _points(line: Sequence[Score]) -> tuple[list[int | None], list[float]]:
    return [score.length for score in line], _floats(line, "score")


def _draw_line(axes: Any, line: Sequence[Score], look: dict[str, Any]) -> None:
    x, values = _points(line)
    lows, highs = _floats(line, "low"), _floats(line, "high")
    axes.fill_between(x, lows, highs, color=look["color"], alpha=0.14, linewidth=0)
    axes.plot(x, values, markersize=5, linewidth=1.6, label=line[0].entry, zorder=3, **look)
    for score in line:
        if score.score is None:
            axes.annotate("missing", (score.length, 1), fontsize=6.5, ha="center",
                          color=look["color"], rotation=90)  # fmt: skip


def draw_curves(points: pandas.DataFrame, trained_lengths: Mapping[str, int | None]) -> Any:
    """Draw perplexity over context length, one panel a text and target.

    `trained_lengths` are tokens that each model was trained on, by abbreviation, where known.
    """
    panels: dict[tuple[str, str], list[list[Any]]] = {}
    for curve in split_curves(points):
        panels.setdefault((curve[0].text, curve[0].target), []).append(curve)
    most = max((len(curves) for curves in panels.values()), default=0)
    figure = new_figure(7.0 * len(panels), 4.6 + 0.2 * most)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, curves in zip(all_axes, panels.values(), strict=True):
        _draw_panel(axes, curves, trained_lengths)
    return figure


def _draw_panel(
    axes: Any, curves: Sequence[Sequence[Any]], trained_lengths: Mapping[str, int | None]
) -> None:
    for number, curve in enumerate(curves):
        _draw_curve(axes, curve, number)
    points = [point for curve in curves for point in curve]
    lengths = sorted({point.length for point in points})
    axes.set_yscale("log")
    _label_lengths(axes, lengths)
    known = [value for value in _floats(points, "perplexity") if math.isfinite(value)]
    known = known or [1.0]  # all may be missing
    # A very wide bar runs out of the panel, so that the curves stay legible.
    axes.set_ylim(min(known) / 2, max(known) * 2)
    span = 4 * max(known) / min(known)
    steps: tuple[float, ...] = (1.0, 2.0, 5.0) if span < 1000 else (1.0,)
    if span < 8:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    _label_numbers(axes.yaxis, steps, ",.10g")
    for length in sorted({trained_lengths.get(point.model) or 0 for point in points}):
        if lengths[0] <= length <= lengths[-1]:
            axes.axvline(length, color="0.35", linestyle="--", linewidth=1)
            axes.annotate(
                f"trained on {length:,}", (length, 0.98), xycoords=("data", "axes fraction"),
                rotation=90, ha="right", va="top", fontsize=7.5, color="0.35",
            )  # fmt: skip
    counts = {point.num_tokens for point in points if point.num_tokens}
    tokens = f"{counts.pop():,}" if len(counts) == 1 else ""
    title = TARGET_TITLES[points[0].target].format(tokens=tokens)
    axes.set_title(title.replace("  ", " "), fontsize=10)
    axes.set_xlabel(f"context length, tokens (text: {Path(points[0].text).name})")
    axes.set_ylabel("perplexity a token\n(bars: 95 % over the masks drawn)")
    axes.grid(True, which="major", color="0.9")
    # Below the panel: inside, six models' names lie over curves and marks.
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _draw_curve(axes: Any, curve: Sequence[Any], number: int) -> None:
    """Draw one model; a missing point breaks the line and is marked at the bottom."""
    look, first = _look_of(number), curve[0]
    values, lows, highs = (
        _floats(curve, name) for name in ("perplexity", "perplexity_low", "perplexity_high")
    )
    below = [value - low for value, low in zip(values, lows, strict=True)]
    above = [high - value for value, high in zip(values, highs, strict=True)]
    kinds = sorted({ESTIMATOR_NAMES[point.estimator] for point in curve if point.estimator})
    axes.errorbar(
        [point.length for point in curve], values, yerr=[below, above], color=look["color"],
        capsize=2.5, marker=look["marker"], markersize=4.5, linewidth=1.5,
        label=f"{first.title}, {name_scaling(first.scaling)} ({', '.join(kinds) or 'missing'})",
    )  # fmt: skip
    for point in curve:
        if point.perplexity is None:
            axes.annotate(
                "missing", (point.length, 0.02 + 0.05 * number), rotation=0, fontsize=7,
                xycoords=("data", "axes fraction"), ha="center", color=look["color"],
            )  # fmt: skip
