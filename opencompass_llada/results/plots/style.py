"""What all figures share: colours, markers, a canvas without global state, saving twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.files import replacing
from opencompass_llada.results.curve_figure import COLOURS, MARKERS

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
