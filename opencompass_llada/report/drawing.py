"""Lays out, styles and saves figures, readable in print and by the colour-blind."""

from __future__ import annotations

import math
import textwrap
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
MOST_SHRUNK = 5.5  # points: the smallest letters of a figure in a paper


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
    """Write a figure as PNG, SVG or PDF by the suffix, with the same bytes every time.

    A PDF holds its fonts as outlines (TrueType), which publishers ask for.
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # a name may hold what reads as a formula
        if "$" in text.get_text() and r"\mathdefault" not in text.get_text():
            text.set_parse_math(False)
    dots = min(DOTS_PER_INCH, MOST_DOTS / max(figure.get_size_inches()))
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        style = {"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.family": "DejaVu Sans",
                 "pdf.fonttype": 42}  # fmt: skip
        stamp = {".svg": "Date", ".pdf": "CreationDate"}.get(path.suffix, "Software")
        metadata = {stamp: None}
        with matplotlib.rc_context(style), replacing(path) as temporary:
            figure.set_dpi(dots)  # the formats of vectors leave another
            _write(figure, temporary, path.suffix[1:], metadata)
        # The layout found for the first file holds; finding it takes as long as drawing.
        figure.set_layout_engine("none")
    return paths


def _write(figure: Any, path: Path, form: str, metadata: dict[str, Any]) -> None:
    """Draw a figure to a file, once: `savefig` draws twice, to find the layout first.

    The layout is found in the one drawing, too.
    """
    from matplotlib.backends.registry import backend_registry

    module = backend_registry.load_backend_module({"png": "agg"}.get(form, form))
    getattr(module.FigureCanvas(figure), f"print_{form}")(path, metadata=metadata)


def fit_column(figure: Any, inches: float, *, is_grid: bool = False) -> str:
    """Give a figure a column's width and letters that stay legible there; return its heading.

    The heading goes, since a caption stands below. Panels of a grid keep their shape, others
    become higher, since their letters shrink less than they do.
    """
    from matplotlib.legend import Legend
    from matplotlib.text import Text

    width, height = figure.get_size_inches()
    scale, heading = inches / width, str(figure.get_suptitle())
    if heading:
        figure.suptitle("")
    height *= scale if is_grid else min(max(scale, 0.62), 1.0)
    figure.set_size_inches(inches, height)
    for text in figure.findobj(Text):
        text.set_fontsize(min(8.0, max(MOST_SHRUNK, text.get_fontsize() * min(1.0, scale * 1.3))))
    for axes in figure.axes:
        if (place := axes.get_subplotspec()) is not None:
            rows, columns = place.get_gridspec().get_geometry()
            wrap(axes.title, 0.9 * inches / columns)
            wrap(axes.xaxis.label, 0.8 * inches / columns)
            wrap(axes.yaxis.label, 0.8 * height / rows)
    for legend in figure.findobj(Legend):
        for text in legend.get_texts():  # of two columns
            wrap(text, inches / 2 - 0.5)
            height += text.get_text().count("\n") * text.get_fontsize() / 72 / 2
    figure.set_size_inches(inches, height)
    return heading


def wrap(text: Any, inches: float) -> None:
    """Break a text into lines of at most so many inches."""
    letters = int(inches * 72 / (0.55 * text.get_fontsize()))
    text.set_text("\n".join(textwrap.wrap(" ".join(text.get_text().split()), max(letters, 8))))


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
