"""Heat maps of scores by length and depth: one model, or all of a run on one scale.

Draws grids. Reads no results and computes no scores.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.files import replacing
from opencompass_llada.report.grid import Grid

#: Sequential, light to dark, told apart by the colour-blind and in black and white.
COLOUR_MAP = "YlGnBu"
MISSING_COLOUR = "0.85"
METRIC_NAMES = {
    "accuracy": "answers that hold the keyword, %",
    "score": "NeedleBench score, %",
}
CELL_INCHES = (0.62, 0.34)
PANEL_TITLE_CHARACTERS = 34


def draw_heat_map(grid: Grid, path: Path) -> Path:
    """Draw one model's grid.

    Args:
        grid: The scores.
        path: PNG to write.

    Returns:
        The path.
    """
    width = max(4.6, 2.6 + CELL_INCHES[0] * len(grid.lengths))
    height = max(3.2, 1.9 + CELL_INCHES[1] * len(grid.depths))
    figure = _new_figure(width, height)
    axes = figure.subplots()
    image = _draw_panel(axes, grid)
    axes.set_title(_wrap(grid.title, int(width * 8.5)), fontsize=11, pad=22)
    axes.text(
        0.5, 1.015, _describe_cells([grid]), transform=axes.transAxes,
        ha="center", va="bottom", fontsize=8, color="0.3",
    )  # fmt: skip
    axes.set_xlabel(f"context length, {grid.unit}")
    axes.set_ylabel("depth of the needle, % of the context")
    _add_colour_bar(figure, image, axes, grid.metric)
    return _save(figure, path)


def draw_small_multiples(grids: Sequence[Grid], path: Path, max_columns: int = 3) -> Path:
    """Draw all grids side by side on one colour scale.

    Args:
        grids: Grids of one metric.
        path: PNG or SVG to write.
        max_columns: Panels in a row.

    Returns:
        The path.
    """
    return _save(build_small_multiples(grids, max_columns), path)


def build_small_multiples(grids: Sequence[Grid], max_columns: int = 3) -> Any:
    """Return the figure of `draw_small_multiples`.

    Args:
        grids: Grids of one metric.
        max_columns: Panels in a row.
    """
    columns = min(max_columns, len(grids))
    rows = math.ceil(len(grids) / columns)
    widest = max(len(grid.lengths) for grid in grids)
    tallest = max(len(grid.depths) for grid in grids)
    panel_width = max(2.9, 0.7 + CELL_INCHES[0] * widest)
    panel_height = max(2.6, 1.1 + CELL_INCHES[1] * tallest)
    figure = _new_figure(columns * panel_width + 1.2, rows * panel_height + 0.9)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    image = None
    for axes, grid in zip(panels, grids, strict=False):
        image = _draw_panel(axes, grid)
        axes.set_title(_wrap(grid.title, PANEL_TITLE_CHARACTERS), fontsize=9)
    for axes in panels[len(grids) :]:
        axes.set_axis_off()
    units = {grid.unit for grid in grids}
    unit = units.pop() if len(units) == 1 else "tokens (as each model's tokenizer counts)"
    figure.supxlabel(f"context length, {unit}", fontsize=10)
    figure.supylabel("depth of the needle, % of the context", fontsize=10)
    figure.suptitle(f"Needle in a haystack: {_describe_cells(grids)}", fontsize=11)
    _add_colour_bar(figure, image, list(panels), grids[0].metric)
    return figure


def _new_figure(width: float, height: float) -> Any:
    """Return a figure with a canvas of its own: pyplot's global state stays untouched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_panel(axes: Any, grid: Grid) -> Any:
    """Draw cells, their values, the missing ones and the trained length; return the image."""
    values = [
        [_as_float(grid.scores.get((length, depth))) for length in grid.lengths]
        for depth in grid.depths
    ]
    image = axes.imshow(values, vmin=0, vmax=100, cmap=COLOUR_MAP, aspect="auto")
    for row, depth in enumerate(grid.depths):
        for column, length in enumerate(grid.lengths):
            _label_cell(axes, column, row, grid.scores.get((length, depth)))
    axes.set_xticks(range(len(grid.lengths)), [f"{length:,}" for length in grid.lengths])
    axes.set_yticks(range(len(grid.depths)), [f"{depth:g}" for depth in grid.depths])
    axes.tick_params(labelsize=8)
    _mark_trained_length(axes, grid)
    return image


def _label_cell(axes: Any, column: int, row: int, score: float | None) -> None:
    if score is None:
        from matplotlib.patches import Rectangle

        corner = (column - 0.5, row - 0.5)
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor=MISSING_COLOUR, edgecolor="0.5", hatch="////", lw=0)
        )
        box = {"facecolor": MISSING_COLOUR, "edgecolor": "none", "pad": 0.6}
        text = axes.text(column, row, "missing", ha="center", va="center", fontsize=6.5, bbox=box)
        text.set_in_layout(False)
        return
    colour = "white" if score > 60 else "black"
    text = axes.text(column, row, f"{score:.0f}", ha="center", va="center", fontsize=8)
    text.set_color(colour)
    text.set_in_layout(False)  # it lies inside; measuring a thousand of them takes seconds


def _mark_trained_length(axes: Any, grid: Grid) -> None:
    """Draw a line after the last length that the model was trained on, if there are longer ones."""
    if grid.trained_length is None:
        return
    inside = sum(length <= grid.trained_length for length in grid.lengths)
    if 0 < inside < len(grid.lengths):
        axes.axvline(inside - 0.5, color="black", lw=3.2)
        axes.axvline(inside - 0.5, color="#ff7f0e", lw=1.8)


def _describe_cells(grids: Sequence[Grid]) -> str:
    """Say how many samples a cell has and what the line means."""
    numbers = {grid.num_samples for grid in grids}
    number = numbers.pop() if len(numbers) == 1 else None
    parts = []
    if number is not None:
        parts.append(f"{number} sample{'s' * (number != 1)} a cell")
    trained = {grid.trained_length for grid in grids}
    length = trained.pop() if len(trained) == 1 else None
    if length is not None:
        parts.append(f"trained on {length:,} tokens")
    if any(_has_line(grid) for grid in grids):
        parts.append("orange line: end of the trained length")
    return "; ".join(parts) or "scores by length and depth"


def _has_line(grid: Grid) -> bool:
    trained = grid.trained_length
    return trained is not None and grid.lengths[0] <= trained < grid.lengths[-1]


def _add_colour_bar(figure: Any, image: Any, axes: Any, metric: str) -> None:
    height = figure.get_size_inches()[1]
    bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=max(30, 5 * height), pad=0.02)
    bar.set_label(METRIC_NAMES.get(metric, metric), fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _as_float(score: float | None) -> float:
    return math.nan if score is None else score


def _wrap(text: str, characters: int) -> str:
    return "\n".join(textwrap.wrap(text, characters))


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format=path.suffix[1:])
    return path
