"""Lays out, styles and saves figures, readable in print and by the colour-blind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.files import replacing

#: Okabe and Ito's palette, told apart by the colour-blind; black is left for lines of reference.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
#: Masked diffusion is drawn with full lines and marks, autoregressive broken and hollow.
LINE_STYLES = {"diffusion": "-", "autoregressive": "--", "unknown": ":"}
DOTS_PER_INCH = 160
#: Larger figures get fewer dots an inch; drawing them takes time with the square of it.
MOST_DOTS = 2400


def make_panels(
    number: int,
    columns: int,
    size: tuple[float, float],
    margin: tuple[float, float] = (0, 0),
    **shared: Any,
) -> tuple[Any, list[Any]]:
    """Return a figure, and its panels of that many inches each; pyplot stays untouched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, number)
    rows = math.ceil(number / columns)
    inches = (size[0] * columns + margin[0], size[1] * rows + margin[1])
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, **shared).ravel())
    for axes in panels[number:]:
        axes.set_axis_off()
    return figure, panels[:number]


def save_figure(figure: Any, *paths: Path) -> tuple[Path, ...]:
    """Write a figure as PNG or, by the suffix, as SVG whose bytes are the same every time."""
    import matplotlib

    dots = min(DOTS_PER_INCH, MOST_DOTS / max(figure.get_size_inches()))
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        style = {"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.family": "DejaVu Sans"}
        metadata = {"Date" if path.suffix == ".svg" else "Software": None}
        with matplotlib.rc_context(style), replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=dots, metadata=metadata)
        # The layout found for the first file holds; finding it takes as long as drawing.
        figure.set_layout_engine("none")
    return paths


def style_of(place: int, kind: str = "diffusion") -> dict[str, Any]:
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


def add_legend(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Name lines or points below all panels."""
    figure.legend(handles, labels, loc="outside lower center", ncols=min(2, len(labels)),
                  fontsize=8, frameon=False)  # fmt: skip


def label_lengths(axes: Any, lengths: Sequence[int]) -> None:
    """Give an axis of lengths a logarithmic scale with the measured lengths on it."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=45, fontsize=8)
    axes.minorticks_off()


def label_decades(axis: Any, span: float, form: str, finer: Sequence[float] = ()) -> None:
    """Write plain numbers on a logarithmic axis, several a decade where it spans few.

    `finer` are the steps of a decade where it spans less than one.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator

    steps: Sequence[float] = (1.0, 2.0, 5.0) if span < 1000 else (1.0,)
    axis.set_major_locator(LogLocator(subs=finer if finer and span < 8 else steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format(value, form)))
