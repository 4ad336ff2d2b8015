"""Draws perplexity curves. Reads no results and computes no perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.files import replacing
from opencompass_llada.results.curves import CurvePoint, split_curves

#: Okabe and Ito's palette, told apart by the colour-blind; black is left for lines of reference.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
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


def draw_curves(
    points: Sequence[CurvePoint], trained_lengths: Mapping[str, int | None], path: Path
) -> Path:
    """Draw perplexity over context length, one panel a text and target.

    Args:
        points: From `curves.read_curves`.
        trained_lengths: Tokens that each model was trained on, by abbreviation, where known.
        path: PNG to write.

    Returns:
        The path.
    """
    figure = build_curves(points, trained_lengths)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format=path.suffix[1:])
    return path


def build_curves(points: Sequence[CurvePoint], trained_lengths: Mapping[str, int | None]) -> Any:
    """Return the figure of `draw_curves`.

    Args:
        points: From `curves.read_curves`.
        trained_lengths: Tokens that each model was trained on, by abbreviation, where known.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[list[CurvePoint]]] = {}
    for curve in split_curves(points):
        panels.setdefault((curve[0].text, curve[0].target), []).append(curve)
    most = max((len(curves) for curves in panels.values()), default=0)
    figure = Figure(figsize=(7.0 * len(panels), 4.6 + 0.2 * most), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((text, target), curves) in zip(all_axes, panels.items(), strict=True):
        _draw_panel(axes, text, target, curves, trained_lengths)
    return figure


def _draw_panel(
    axes: Any,
    text: str,
    target: str,
    curves: Sequence[Sequence[CurvePoint]],
    trained_lengths: Mapping[str, int | None],
) -> None:
    for number, curve in enumerate(curves):
        _draw_curve(axes, curve, number)
    lengths = sorted({point.length for curve in curves for point in curve})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=45, fontsize=8)
    axes.minorticks_off()
    known = [p.perplexity for curve in curves for p in curve if p.perplexity is not None]
    known = [value for value in known if math.isfinite(value)] or [1.0]  # all may be missing
    # A very wide bar runs out of the panel, so that the curves stay legible.
    axes.set_ylim(min(known) / 2, max(known) * 2)
    _label_perplexities(axes)
    _mark_trained_lengths(axes, {trained_lengths.get(c[0].model) for c in curves}, lengths)
    counts = {point.num_tokens for curve in curves for point in curve if point.num_tokens}
    tokens = f"{counts.pop():,}" if len(counts) == 1 else ""
    axes.set_title(TARGET_TITLES[target].format(tokens=tokens).replace("  ", " "), fontsize=10)
    axes.set_xlabel(f"context length, tokens (text: {Path(text).name})")
    axes.set_ylabel("perplexity a token\n(bars: 95 % over the masks drawn)")
    axes.grid(True, which="major", color="0.9")
    # Below the panel: inside, six models' names lie over curves and marks.
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _draw_curve(axes: Any, curve: Sequence[CurvePoint], number: int) -> None:
    """Draw one model; a missing point breaks the line and is marked at the bottom."""
    colour, nan = COLOURS[number % len(COLOURS)], float("nan")
    values = [nan if point.perplexity is None else point.perplexity for point in curve]
    errors = [
        [value - (nan if low is None else low) for value, low in _ends(curve, values, "low")],
        [(nan if high is None else high) - value for value, high in _ends(curve, values, "high")],
    ]
    kinds = sorted({ESTIMATOR_NAMES[point.estimator] for point in curve if point.estimator})
    first = curve[0]
    scaling = "no scaling" if first.scaling == "none" else first.scaling
    axes.errorbar(
        [point.length for point in curve], values, yerr=errors, color=colour, capsize=2.5,
        marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
        markersize=4.5, linewidth=1.5,
        label=f"{first.title}, {scaling} ({', '.join(kinds) or 'missing'})",
    )  # fmt: skip
    for point in curve:
        if point.perplexity is None:
            axes.annotate(
                "missing", (point.length, 0.02 + 0.05 * number), rotation=0, fontsize=7,
                xycoords=("data", "axes fraction"), ha="center", color=colour,
            )  # fmt: skip


def _ends(
    curve: Sequence[CurvePoint], values: Sequence[float], end: str
) -> list[tuple[float, float | None]]:
    return [
        (value, getattr(point, f"perplexity_{end}"))
        for point, value in zip(curve, values, strict=True)
    ]


def _label_perplexities(axes: Any) -> None:
    """Write plain numbers, several a decade where the curves span less than two."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = axes.get_ylim()
    steps: tuple[float, ...] = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
    if high / low < 8:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _mark_trained_lengths(axes: Any, trained: set[int | None], lengths: Sequence[int]) -> None:
    for length in sorted(value for value in trained if value is not None):
        if lengths[0] <= length <= lengths[-1]:
            axes.axvline(length, color="0.35", linestyle="--", linewidth=1)
            axes.annotate(
                f"trained on {length:,}", (length, 0.98), xycoords=("data", "axes fraction"),
                rotation=90, ha="right", va="top", fontsize=7.5, color="0.35",
            )  # fmt: skip
