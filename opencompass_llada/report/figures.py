"""Draws the figures of the leaderboard but its heat maps.

Few models share one panel; more have a panel each, with the others in grey behind.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from opencompass_llada.benchmarks.benchmark import find_benchmark
from opencompass_llada.report import drawing
from opencompass_llada.report.collect import Collection
from opencompass_llada.report.cost import Cost
from opencompass_llada.report.floors import CHANCE
from opencompass_llada.report.groups import sort_lines
from opencompass_llada.report.heatmap import draw_heat_maps, make_entry_grids
from opencompass_llada.report.scores import (
    LAST_WINDOW,
    RULER_THRESHOLD,
    Score,
    choose_headlines,
    main_metric,
)
from opencompass_llada.report.writers import file_name, name_scaling

_HATCHES = {"diffusion": "", "autoregressive": "////", "unknown": "...."}
_BAR_INCHES = 0.21
#: More bands than this in one panel cannot be told apart.
MOST_IN_A_PANEL = 5
#: Lines of a figure: of more, pictures take minutes and megabytes and show less.
MOST_LINES = 20
HEAT_MAPS = "niah_heat_maps"
CURVES = "_by_length"  # how names of curves over length end
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


def make_plots(
    collection: Collection,
    scores: Sequence[Score],
    costs: Sequence[Cost],
    heat_maps_a_row: int | None = None,
    floors: Sequence[Score] = (),
) -> Iterator[tuple[str, str, Any]]:
    """Yield name, caption and figure of everything that there is something to draw for.

    `floors` are last windows and chance, which curves have as thin grey lines.

    Of more than `MOST_LINES` the best by the first headline are drawn, and captions say so.
    """
    entries = list(sort_lines(scores, choose_headlines(scores)))
    results, points, more = collection.results, collection.curves, ""
    if len(entries) > MOST_LINES:
        shown = set(entries[:MOST_LINES])
        scores = [score for score in scores if score.entry in shown]
        costs = [cost for cost in costs if cost.entry in shown]
        results, points = (frame[frame.entry.isin(shown)] for frame in (results, points))
        more = f"; the best {MOST_LINES} of {len(entries)} lines"
    if grids := make_entry_grids(results):
        figure = draw_heat_maps(grids, heat_maps_a_row or (3 if len(grids) <= 9 else 5))
        yield HEAT_MAPS, f"Needle in a haystack by length and depth{more}", figure
    for series in dict.fromkeys(score.series for score in scores):
        own = [score for score in scores if score.series == series]
        main = main_metric(scores, own[0].benchmark)
        if own[0].benchmark == "perplexity" or main not in (None, own[0].metric):
            continue
        below = [floor for floor in floors if floor.series == series]
        if (figure := draw_lengths(series, own, below)) is not None:
            counts = _count([score.n for score in pick_lengths(own)], "samples")
            caption = f"{series} over context length{counts}{more}"
            yield f"{file_name(series)}{CURVES}", caption, figure
        if (figure := draw_groups(series, own)) is not None:
            yield f"{file_name(series)}_by_group", f"{series} by group of tasks{more}", figure
    if len(points):
        trained = dict(zip(results.entry, results.trained_length, strict=True))
        figure = draw_curves(points.assign(model=points.entry), trained)
        tokens = _count(points.num_tokens.dropna(), "tokens")
        yield f"perplexity{CURVES}", f"Perplexity over context length{tokens}{more}", figure
    if (figure := draw_costs(scores, costs)) is not None:
        yield "score_against_cost", f"Score against cost of generation{more}", figure


def _count(counts: Iterable[int | None], unit: str) -> str:
    """Say how many samples the points of a figure are of."""
    known = sorted({int(count) for count in counts if count})
    ends = " to ".join(f"{end:,}" for end in dict.fromkeys((known[0], known[-1]))) if known else ""
    return f", n {ends} {unit} a point" if known else ""


def draw_costs(scores: Sequence[Score], costs: Sequence[Cost]) -> Any | None:
    """Draw each benchmark's headline against what an answer takes; None if nothing has both.

    Seconds where each line's were measured alone, else forward passes, which no machine changes.
    """
    from matplotlib.ticker import NullFormatter

    entries = list(dict.fromkeys(score.entry for score in scores))
    index = {(s.entry, s.series, s.column, s.length): s for s in scores}
    panels: dict[str, list[tuple[Score, Cost]]] = {}
    for series, column, length in choose_headlines(scores):
        for cost in costs:
            score = index.get((cost.entry, series, column, length))
            if score is None or score.benchmark != cost.benchmark or score.score is None:
                continue
            panels.setdefault(f"{series}: {column}", []).append((score, cost))
    measured = {title: _measure(pairs) for title, pairs in panels.items()}
    measured = {title: found for title, found in measured.items() if found[1]}
    if not measured:
        return None
    shown = {score.entry for _, points in measured.values() for score, *_ in points}
    size = (4.6, 3.8 + 0.12 * len(shown))
    figure, all_axes = drawing.make_panels(len(measured), len(measured), size, (0.6, 0))
    drawn: dict[str, Any] = {}
    for axes, (title, (label, points)) in zip(all_axes, measured.items(), strict=True):
        for score, cost_value, spread in points:
            style = drawing.style_of(entries.index(score.entry), score.kind)
            value = score.score or 0.0
            low, high = (value if end is None else end for end in (score.low, score.high))
            bar = axes.errorbar(
                cost_value, value, yerr=[[value - low], [high - value]], xerr=spread, capsize=2.5,
                markersize=7, linewidth=1, **{**style, "linestyle": "none"},
            )  # fmt: skip
            drawn.setdefault(score.entry, bar)
        costs_shown = [cost_value for _, cost_value, _ in points]
        if max(costs_shown) > 3 * min(costs_shown):  # a decade's marks would be too few for less
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            drawing.label_decades(axes.xaxis, high / low, ".10g")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(-3, 105)
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel(label)
        for text in (axes.title, axes.xaxis.label):
            drawing.wrap(text, 0.8 * size[0])
        axes.set_ylabel("score, % (bars: 95 %)")
        axes.grid(True, which="both", color="0.92")
    drawing.add_legend(figure, list(drawn.values()), list(drawn))
    return figure


def _measure(pairs: Sequence[tuple[Score, Cost]]) -> tuple[str, list[tuple[Score, float, Any]]]:
    """Return what the axis of cost is called, and each score with its cost and the cost's bar.

    Seconds are drawn where all are of one length and one machine.
    """
    timed = [(score, cost.timed) for score, cost in pairs if cost.timed is not None]
    places = {(timing.length, timing.machine) for _, timing in timed}
    if len(timed) == len(pairs) and len(places) == 1:
        [(length, _)] = places
        at = f" at {length:,} tokens" if length else ""
        label = f"seconds a sample{at}, alone (median; bars: middle half)"
        return label, [
            (score, own.seconds, [[own.seconds - own.low], [own.high - own.seconds]])
            for score, own in timed
        ]
    devices = {cost.device for _, cost in pairs}
    are_alone = all(not cost.is_shared and cost.seconds_per_sample for _, cost in pairs)
    if are_alone and len(devices) == 1:
        points = [(score, cost.seconds_per_sample or 0.0, None) for score, cost in pairs]
        return "seconds a sample, mean of the run (one task at a time)", points
    passes = [(score, cost.nfe_per_sample, None) for score, cost in pairs if cost.nfe_per_sample]
    return "forward passes a sample (NFE; seconds: not measured alone and alike)", passes


def draw_groups(series: str, scores: Sequence[Score]) -> Any | None:
    """Draw every group that some model has a number in; None with fewer than two groups."""
    entries = list(dict.fromkeys(score.entry for score in scores))
    run = {score.column for score in scores if score.status != "not run"}
    groups = list(dict.fromkeys(s.column for s in scores if s.is_group and s.column in run))
    if len(groups) < 2:
        return None
    lengths: list[int | None] = [*sorted({s.length for s in scores if s.length is not None})]
    places = [(length, group) for length in lengths or [None] for group in groups]
    index = {(s.entry, s.column, s.length): s for s in scores}
    size = (1.5, 0.9 + _BAR_INCHES * len(entries))
    figure, panels = drawing.make_panels(
        len(places), len(groups), size, (2.6, 0.7), sharex=True, sharey=True
    )
    for number, (axes, (length, group)) in enumerate(zip(panels, places, strict=True)):
        _draw_bars(axes, [index.get((entry, group, length)) for entry in entries])
        if number < len(groups):
            axes.set_title(group, fontsize=9)
        if number % len(groups) == 0:
            axes.set_ylabel("" if length is None else f"{length:,} tokens", fontsize=9)
            axes.set_yticks(range(len(entries)), entries, fontsize=7.5)
    panels[0].set_ylim(len(entries) - 0.4, -0.6)
    panels[0].set_xlim(0, 118)
    kinds = {"autoregressive": "hatched: autoregressive", "unknown": "dotted: kind not known"}
    shown = [told for kind, told in kinds.items() if kind in {score.kind for score in scores}]
    figure.supxlabel(f"score, % ({'; '.join(['black lines: 95 %', *shown])})", fontsize=9)
    figure.suptitle(series, fontsize=11)
    return figure


def _draw_bars(axes: Any, scores: Sequence[Score | None]) -> None:
    text = {"fontsize": 6.5, "va": "center", "in_layout": False}
    for place, score in enumerate(scores):
        if score is None or score.score is None:
            missing = score is not None and score.status == "missing"
            axes.text(1, place, "missing" if missing else "not run", color="0.35", **text)
            continue
        axes.barh(place, score.score, height=0.74, color=drawing.style_of(place)["color"],
                  edgecolor="white", hatch=_HATCHES[score.kind], linewidth=0)  # fmt: skip
        end = score.score
        if score.low is not None and score.high is not None:
            axes.plot([score.low, score.high], [place, place], color="black", linewidth=1)
            end = max(end, score.high)
        axes.text(min(end, 100) + 1.5, place, f"{score.score:.0f}", **text)
    axes.set_xticks([0, 50, 100])
    axes.tick_params(labelsize=7.5)
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)


def pick_lengths(scores: Sequence[Score]) -> list[Score]:
    """Return a benchmark's headline by length, or the first group, or task, that was run."""
    run = [s for s in scores if s.length is not None and s.status != "not run"]
    shown = [score for score in run if score.is_group] or run
    columns = list(dict.fromkeys(score.column for score in shown))
    headline = find_benchmark(scores[0].benchmark).headline
    chosen = headline if headline in columns else next(iter(columns), None)
    return [score for score in shown if score.column == chosen]


def draw_lengths(series: str, scores: Sequence[Score], floors: Sequence[Score] = ()) -> Any | None:
    """Draw what `pick_lengths` gives, with its floors; None below two lengths."""
    points = pick_lengths(scores)
    lengths = sorted({score.length for score in points if score.length is not None})
    if len(lengths) < 2:
        return None
    frame = pandas.DataFrame(points)
    frame = frame.astype(dict.fromkeys(("length", "score", "low", "high"), float))
    by_entry = dict(list(frame.sort_values("length", kind="stable").groupby("entry")))
    entries = dict.fromkeys(score.entry for score in scores)
    lines = [(n, by_entry[own]) for n, own in enumerate(entries) if own in by_entry]
    if len(lines) <= MOST_IN_A_PANEL:
        figure, panels = drawing.make_panels(1, 1, (7.2, 4.4 + 0.11 * len(lines)))
    else:
        figure, panels = drawing.make_panels(
            len(lines), 4, (2.7, 2.1), (0, 0.6), sharex=True, sharey=True
        )
    for number, (place, line) in enumerate(lines):
        axes = panels[number % len(panels)]
        if len(panels) > 1:
            for _, other in lines:
                axes.plot(other.length, other.score, color="0.82", linewidth=0.8, zorder=1)
            axes.set_title("\n".join(textwrap.wrap(line.entry.iloc[0], 34)), fontsize=8)
        _draw_line(axes, line, drawing.style_of(place, line.kind.iloc[0]))
    below = [floor for floor in floors if floor.column == points[0].column and floor.length]
    _draw_floors(panels, [line.entry.iloc[0] for _, line in lines], below)
    for axes in panels:
        drawing.label_lengths(axes, lengths)
        axes.set_ylim(-3, 103)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(True, color="0.92")
        if scores[0].benchmark == "ruler":
            axes.axhline(RULER_THRESHOLD, color="0.35", linestyle=(0, (1, 2)), linewidth=1)
            axes.annotate(f"threshold {RULER_THRESHOLD:g} %", (0.01, RULER_THRESHOLD), va="bottom",
                          xycoords=("axes fraction", "data"), fontsize=6.5,
                          color="0.35")  # fmt: skip
    figure.suptitle(f"{series}: {points[0].column}", fontsize=11)
    score = "score, % (bands: 95 %)"
    if len(panels) > 1:
        figure.supxlabel("context length, tokens (grey: the other models)", fontsize=9)
        figure.supylabel(score, fontsize=9)
    else:  # the figure's own label would lie under the legend
        panels[0].set_xlabel("context length, tokens", fontsize=9)
        panels[0].set_ylabel(score, fontsize=9)
        drawing.add_legend(figure, *panels[0].get_legend_handles_labels())
    return figure


def _draw_floors(panels: Sequence[Any], entries: Sequence[str], floors: Sequence[Score]) -> None:
    """Draw last windows broken and chance dotted, thin and grey, each named once."""
    shown = {LAST_WINDOW: ("last window", "--"), CHANCE: (CHANCE, ":")}
    drawn: set[str] = set()
    lines: dict[tuple[str, str], list[Score]] = {}
    for floor in floors:
        if floor.reader in shown and floor.score is not None:
            lines.setdefault((floor.base, floor.reader), []).append(floor)
    for (base, reader), own in lines.items():
        name, style = shown[reader]
        where = [n for n, entry in enumerate(entries) if base in ("", entry)]
        for axes in {id(panels[n % len(panels)]): panels[n % len(panels)] for n in where}.values():
            own = sorted(own, key=lambda floor: floor.length or 0)
            label = None if name in drawn else f"{name} (grey)"
            drawn.add(name)
            axes.plot([f.length for f in own], [f.score for f in own], color="0.55", marker=".",
                      markersize=3, linewidth=0.9, linestyle=style, label=label,
                      zorder=2)  # fmt: skip


def _draw_line(axes: Any, line: pandas.DataFrame, style: dict[str, Any]) -> None:
    """Draw one model; a missing score breaks the line and is marked at the bottom."""
    axes.fill_between(
        line.length, line.low, line.high, color=style["color"], alpha=0.14, linewidth=0
    )
    label = line.entry.iloc[0]
    axes.plot(line.length, line.score, markersize=5, linewidth=1.6, label=label, zorder=3, **style)
    for length in line.length[line.score.isna()]:
        axes.annotate("missing", (length, 1), fontsize=6.5, ha="center",
                      color=style["color"], rotation=90)  # fmt: skip


def draw_curves(points: pandas.DataFrame, trained_lengths: Mapping[str, int | None]) -> Any:
    """Draw perplexity over context length, one panel a text and target."""
    numbers = ("perplexity", "perplexity_low", "perplexity_high")
    points = points.astype({"length": int, **dict.fromkeys(numbers, float)})
    panels = [panel for _, panel in points.groupby(["text", "target"], sort=False)]
    most = max(panel.model.nunique() for panel in panels)
    figure, all_axes = drawing.make_panels(len(panels), len(panels), (7.0, 4.6 + 0.2 * most))
    for axes, panel in zip(all_axes, panels, strict=True):
        for number, (_, curve) in enumerate(panel.groupby("model", sort=False)):
            _draw_curve(axes, curve, number)
        _label_curves(axes, panel, {trained_lengths.get(model) for model in panel.model})
    return figure


def _label_curves(axes: Any, points: pandas.DataFrame, trained: Iterable[int | None]) -> None:
    """Give a panel scales and labels, the trained lengths, and the names of its curves."""
    lengths = sorted(points.length.unique())
    axes.set_yscale("log")
    drawing.label_lengths(axes, lengths)
    known = points.perplexity[points.perplexity < math.inf]
    lowest, highest = (known.min(), known.max()) if len(known) else (1.0, 1.0)  # all may be missing
    # A very wide band runs out of the panel, so that the curves stay legible.
    axes.set_ylim(lowest / 2, highest * 2)
    finer = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    drawing.label_decades(axes.yaxis, 4 * highest / lowest, ",.10g", finer=finer)
    for length in sorted(filter(None, trained)):
        if lengths[0] <= length <= lengths[-1]:
            axes.axvline(length, color="0.35", linestyle="--", linewidth=1)
            axes.annotate(
                f"trained on {length:,}", (length, 0.98), xycoords=("data", "axes fraction"),
                rotation=90, ha="right", va="top", fontsize=7.5, color="0.35",
            )  # fmt: skip
    counts = set(points.num_tokens.dropna()) - {0}
    tokens = f"{counts.pop():,}" if len(counts) == 1 else ""
    first = points.iloc[0]
    title = TARGET_TITLES[first.target].format(tokens=tokens)
    axes.set_title(title.replace("  ", " "), fontsize=10)
    axes.set_xlabel(f"context length, tokens (text: {Path(first.text).name})")
    axes.set_ylabel("perplexity a token\n(bands: 95 % over the masks drawn)")
    axes.grid(True, which="major", color="0.9")
    # Below the panel: inside, six models' names lie over curves and marks.
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _draw_curve(axes: Any, curve: pandas.DataFrame, number: int) -> None:
    """Draw one model; a missing point breaks the line and is marked at the bottom."""
    style, first, values = drawing.style_of(number), curve.iloc[0], curve.perplexity
    ends = curve.perplexity_low, curve.perplexity_high
    axes.fill_between(curve.length, *ends, color=style["color"], alpha=0.18, linewidth=0)
    kinds = sorted({ESTIMATOR_NAMES[name] for name in curve.estimator.dropna()})
    axes.plot(
        curve.length, values, color=style["color"],
        marker=style["marker"], markersize=4.5, linewidth=1.5,
        label=f"{first.title}, {name_scaling(first.scaling)} ({', '.join(kinds) or 'missing'})",
    )  # fmt: skip
    for length in curve.length[values.isna()]:
        axes.annotate(
            "missing", (length, 0.02 + 0.05 * number), rotation=0, fontsize=7,
            xycoords=("data", "axes fraction"), ha="center", color=style["color"],
        )  # fmt: skip
