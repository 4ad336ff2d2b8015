"""Figures of the leaderboard, PNG and SVG: readable in print and by the colour-blind.

Few models share one panel; more have a panel each, with the others in grey behind.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.facts import find_benchmark
from opencompass_llada.files import replacing
from opencompass_llada.report.board import Score
from opencompass_llada.report.collect import Collection
from opencompass_llada.report.cost import Cost
from opencompass_llada.report.curves import COLOURS, MARKERS
from opencompass_llada.report.effective_length import RULER_THRESHOLD, main_metrics
from opencompass_llada.report.frame import TidyRow
from opencompass_llada.report.grid import Grid, make_grids
from opencompass_llada.report.results import ModelFacts
from opencompass_llada.report.tables import file_name

#: Masked diffusion is drawn with full lines and marks, autoregressive broken and hollow.
LINE_STYLES = {"diffusion": "-", "autoregressive": "--", "unknown": ":"}
DOTS_PER_INCH = 160
#: Larger figures get fewer dots an inch; drawing them takes time with the square of it.
MOST_DOTS = 2400


def new_figure(width: float, height: float) -> Any:
    """Return a figure with a canvas of its own: pyplot's global state stays untouched.

    Args:
        width: Inches.
        height: Inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def look_of(place: int, kind: str) -> dict[str, Any]:
    """Return how the line of that place in the leaderboard is drawn in every figure.

    Colour and marker together tell 36 lines apart, without colour six.

    Args:
        place: From 0.
        kind: ``diffusion``, ``autoregressive`` or ``unknown``.
    """
    colour = COLOURS[place % len(COLOURS)]
    return {
        "color": colour,
        "marker": MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
        "linestyle": LINE_STYLES[kind],
        "markerfacecolor": colour if kind == "diffusion" else "white",
    }


def save_both(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and as SVG whose bytes are the same every time.

    Args:
        figure: The figure.
        folder: Where to.
        name: File name without suffix.
    """
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none",
                                "font.family": "DejaVu Sans"}):  # fmt: skip
        dots = min(DOTS_PER_INCH, MOST_DOTS / max(figure.get_size_inches()))
        with replacing(paths[0]) as temporary:
            figure.savefig(temporary, format="png", dpi=dots, metadata={"Software": None})
        # The layout found for the first file holds; finding it takes as long as drawing.
        figure.set_layout_engine("none")
        with replacing(paths[1]) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
    return paths


def place_legend(figure: Any, axes: Any, num_entries: int) -> None:
    """Put the legend below the axes, in columns."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(2, num_entries), fontsize=8,
        frameon=False,
    )  # fmt: skip


def label_seconds(axes: Any) -> None:
    """Give the x axis a logarithmic scale with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    steps = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def label_lengths(axes: Any, lengths: Sequence[int]) -> None:
    """Give an axis of lengths a logarithmic scale with the measured lengths on it."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=45, fontsize=8)
    axes.minorticks_off()


def draw_costs(scores: Sequence[Score], costs: Sequence[Cost]) -> Any | None:
    """Draw each benchmark's headline against what an answer takes.

    Args:
        scores: Ranked scores.
        costs: What generation took.

    Returns:
        A figure; None if nothing has both.
    """
    from opencompass_llada.report.tables import choose_headlines

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


HEAT_MAPS = "niah_heat_maps"


def make_plots(
    collection: Collection, scores: list[Score], costs: list[Cost]
) -> Iterator[tuple[str, str, Any]]:
    """Yield name, caption and figure of everything that there is something to draw for.

    Args:
        collection: What was read.
        scores: Ranked scores.
        costs: What generation took.
    """
    from opencompass_llada.report.curves import build_curves
    from opencompass_llada.report.heatmap import build_small_multiples

    if grids := make_entry_grids(collection):
        caption = "Needle in a haystack by length and depth"
        yield HEAT_MAPS, caption, build_small_multiples(grids, 3 if len(grids) <= 9 else 5)
    for series in dict.fromkeys(score.series for score in scores):
        own = [score for score in scores if score.series == series]
        main = main_metrics(scores, own[0].benchmark)
        if own[0].benchmark == "perplexity" or (main and own[0].metric not in main):
            continue
        if (figure := draw_lengths(series, own)) is not None:
            yield f"{file_name(series)}_by_length", f"{series} over context length", figure
        if (figure := draw_groups(series, own)) is not None:
            yield f"{file_name(series)}_by_group", f"{series} by group of tasks", figure
    if collection.curves:
        points = [replace(point, model=entry) for entry, point in collection.curves]
        trained = {row.entry: row.trained_length for row in collection.rows}
        yield (
            "perplexity_by_length",
            "Perplexity over context length",
            build_curves(points, trained),
        )
    if (figure := draw_costs(scores, costs)) is not None:
        yield "score_against_cost", "Score against cost of generation", figure


def make_entry_grids(collection: Collection) -> list[Grid]:
    """Return one grid a line of the leaderboard, of hits where they are reported."""
    rows = [row for row in collection.rows if row.depth is not None]
    metric = "accuracy" if any(row.metric == "accuracy" for row in rows) else "score"
    own = [replace(row, model=row.entry) for row in rows if row.metric == metric]
    facts = {
        row.entry: ModelFacts(
            abbr=row.entry,
            title=row.title,
            scaling=row.scaling,
            trained_length=row.trained_length,
        )
        for row in rows
    }
    grids = make_grids(own, metric, list(facts.values()))
    several = {grid.model for grid in grids if sum(g.model == grid.model for g in grids) > 1}
    origins = {(row.run, row.entry, row.dataset): row for row in rows if row.metric == metric}
    return [
        replace(
            grid,
            title=grid.title if grid.model in several else grid.model,
            rows={
                place: origins[row.run, row.entry, row.dataset]
                for place, row in grid.rows.items()
                if isinstance(row, TidyRow)
            },
        )
        for grid in grids
    ]
