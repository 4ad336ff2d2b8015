"""Arranges results by length and depth as grids, one a model, and draws them as heat maps."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import pandas

from opencompass_llada.report.drawing import make_panels
from opencompass_llada.report.writers import name_scaling, plain_field, write_plain_table

#: Sequential, light to dark, told apart by the colour-blind and in black and white.
COLOUR_MAP = "YlGnBu"
MISSING_COLOUR = "0.85"
METRIC_NAMES = {"accuracy": "answers that hold the keyword, %", "score": "NeedleBench score, %"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """One model's scores by length and depth."""

    model: str
    title: str
    metric: str
    unit: str  # what the lengths are counted with
    #: A row a depth (percent), a column a length (tokens), both ascending; NaN where missing.
    scores: pandas.DataFrame
    num_samples: int | None  # a cell, where all cells have the same number
    trained_length: int | None  # tokens that the model was trained on, where known
    #: Rows of the results by (length, depth).
    rows: Mapping[tuple[int, float], Any] = field(default_factory=dict, repr=False)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens, ascending."""
        return tuple(self.scores.columns)

    @property
    def depths(self) -> tuple[float, ...]:
        """Percent, ascending."""
        return tuple(self.scores.index)

    def mean(self, length: int | None = None) -> float | None:
        """Return the mean over a length's cells or all, or None if any of them is missing."""
        means = self.scores.mean(skipna=False)
        value = means.mean(skipna=False) if length is None else means[length]
        return None if math.isnan(value) else float(value)

    @property
    def num_trained(self) -> int:
        """How many of the lengths the model was trained on, if it was not on all; else 0."""
        number = sum(length <= (self.trained_length or 0) for length in self.lengths)
        return number if number < len(self.lengths) else 0


def make_grids(
    results: pandas.DataFrame,
    metric: str,
    trained_lengths: Mapping[str, int | None] | None = None,
    by: str = "model",
) -> list[Grid]:
    """Arrange the rows of a metric that have a length and a depth.

    Each model (by the column `by`) has one grid for every benchmark, language, prompt form,
    haystack, way of drawing needles and tokenizer; the title names those that tell the grids apart.
    """
    keys = [by, "benchmark", "language", "prompt", "haystack", "draws", "tokenizer"]
    own = results[(results.metric == metric) & results.length.notna() & results.depth.notna()]
    groups = [rows for _, rows in own.groupby(keys, sort=False, dropna=False)]
    firsts = [rows.iloc[0] for rows in groups]
    grids = []
    for rows, first in zip(groups, firsts, strict=True):
        model, numbers = first[by], set(rows.n[rows.status == "ok"])
        differences = _name_differences(first, firsts, by)
        for row in rows[rows.duplicated(["length", "depth"])].itertuples():
            raise ValueError(
                f"model {row.model!r}: data set {row.dataset!r} has length {row.length} and depth "
                f"{row.depth:g}, which another one of the same grid has too; a heat map cannot "
                "show both. Evaluate one of them in a run of its own."
            )
        grids.append(
            Grid(
                model=model,
                title=", ".join([first.title, name_scaling(first.scaling), *differences]),
                metric=metric,
                unit=_describe_unit(first.tokenizer),
                scores=rows.pivot(index="depth", columns="length", values="score").astype(float),
                num_samples=numbers.pop() if len(numbers) == 1 else None,
                trained_length=(trained_lengths or {}).get(model),
                rows={(row.length, row.depth): row for row in rows.itertuples()},
            )
        )
    return grids


def _name_differences(own: Any, others: Sequence[Any], by: str) -> list[str]:
    """Return what tells a grid from the run's others besides its model and scaling."""
    same_language = [other for other in others if other.language == own.language]
    same_model = [other for other in others if other[by] == own[by]]
    parts: list[tuple[str | None, set[str | None]]] = [
        (own.benchmark, {other.benchmark for other in others}),
        (own.language, {other.language for other in others}),
        (own.prompt and f"{own.prompt} prompt", {other.prompt for other in others}),
        (own.haystack, {other.haystack for other in same_language}),
        (own.draws and f"{own.draws} needles", {other.draws for other in others}),
        (_describe_unit(own.tokenizer), {other.tokenizer for other in same_model}),
    ]
    return [name for name, values in parts if name and len(values) > 1]


def _describe_unit(tokenizer: str | None) -> str:
    named = {None: "tokens", "gpt-4": "GPT-4 tokens"}
    return named.get(tokenizer) or f"tokens of {str(tokenizer).removeprefix('asset:')}"


def make_entry_grids(results: pandas.DataFrame) -> list[Grid]:
    """Return one grid a line of the leaderboard, of hits where they are reported."""
    rows = results[results.depth.notna()]
    metric = "accuracy" if (rows.metric == "accuracy").any() else "score"
    trained = dict(zip(rows.entry, rows.trained_length, strict=True))
    grids = make_grids(rows, metric, trained, by="entry")
    names = [grid.model for grid in grids]
    return [g if names.count(g.model) > 1 else replace(g, title=g.model) for g in grids]


def write_means(grids: Sequence[Grid]) -> str:
    """Write a table of the means over depths of grids of one metric, one column a length.

    A mean with a missing cell is not shown: the field says how many are missing.
    """
    lengths = sorted({length for grid in grids for length in grid.lengths})
    heads = ["model", *(f"{length:,}" for length in lengths), "all"]
    rows = [
        [plain_field(grid.title), *(_mean_field(grid, length) for length in (*lengths, None))]
        for grid in grids
    ]
    title = f"Mean {grids[0].metric} over depths, percent; lengths in tokens"
    return f"{title}\n\n{write_plain_table(heads, rows)}\n"


def _mean_field(grid: Grid, length: int | None) -> str:
    if length is not None and length not in grid.lengths:
        return ""
    if (mean := grid.mean(length)) is not None:
        return f"{mean:.1f}"
    lost = "" if length is None else f" {grid.scores[length].isna().sum()} of {len(grid.depths)}"
    return f"missing{lost}"


def draw_heat_maps(grids: Sequence[Grid], max_columns: int = 3) -> Any:
    """Return a figure of all grids, which are of one metric, side by side on one colour scale."""
    widest = max(len(grid.lengths) for grid in grids)
    tallest = max(len(grid.depths) for grid in grids)
    size = (max(2.9, 0.7 + 0.62 * widest), max(2.6, 1.1 + 0.34 * tallest))
    figure, panels = make_panels(len(grids), max_columns, size, (1.2, 0.9))
    for axes, grid in zip(panels, grids, strict=True):
        image = _draw_panel(axes, grid)
        axes.set_title("\n".join(textwrap.wrap(grid.title, 34)), fontsize=9)
    units = {grid.unit for grid in grids}
    unit = units.pop() if len(units) == 1 else "tokens (as each model's tokenizer counts)"
    figure.supxlabel(f"context length, {unit}", fontsize=10)
    figure.supylabel("depth of the needle, % of the context", fontsize=10)
    heading = f"Needle in a haystack: {_describe_cells(grids)}"
    width, height = figure.get_size_inches()
    figure.suptitle("\n".join(textwrap.wrap(heading, int(11 * width))), fontsize=11)
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.9, aspect=max(30, 5 * height), pad=0.02)
    bar.set_label(METRIC_NAMES.get(grids[0].metric, grids[0].metric), fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _draw_panel(axes: Any, grid: Grid) -> Any:
    """Draw cells, their values, the missing ones and the trained length; return the image."""
    from matplotlib.patches import Rectangle

    image = axes.imshow(grid.scores, vmin=0, vmax=100, cmap=COLOUR_MAP, aspect="auto")
    for (row, column), score in numpy.ndenumerate(grid.scores.to_numpy()):
        style: dict[str, Any] = {"color": "white" if score > 60 else "black", "fontsize": 8}
        if math.isnan(score):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=MISSING_COLOUR,
                                     edgecolor="0.5", hatch="////", lw=0))  # fmt: skip
            box = {"facecolor": MISSING_COLOUR, "edgecolor": "none", "pad": 0.6}
            style = {"fontsize": 6.5, "bbox": box}
        text = "missing" if math.isnan(score) else f"{score:.0f}"
        # It lies inside; measuring a thousand of them for the layout takes seconds.
        axes.text(column, row, text, ha="center", va="center", in_layout=False, **style)
    axes.set_xticks(range(len(grid.lengths)), [f"{length:,}" for length in grid.lengths])
    axes.set_yticks(range(len(grid.depths)), [f"{depth:g}" for depth in grid.depths])
    axes.tick_params(labelsize=8)
    for colour, width in (("black", 3.2), ("#ff7f0e", 1.8)) if grid.num_trained else ():
        axes.axvline(grid.num_trained - 0.5, color=colour, lw=width)
    return image


def _describe_cells(grids: Sequence[Grid]) -> str:
    """Say how many samples a cell has and what the line is, where all grids agree."""
    numbers, trained = ({getattr(g, n) for g in grids} for n in ("num_samples", "trained_length"))
    parts = []
    if len(numbers) == 1 and (number := numbers.pop()) is not None:
        parts.append(f"{number} sample{'s' * (number != 1)} a cell")
    if len(trained) == 1 and (length := trained.pop()) is not None:
        parts.append(f"trained on {length:,} tokens")
    if any(grid.num_trained for grid in grids):
        parts.append("orange line: end of the trained length")
    return "; ".join(parts) or "scores by length and depth"
