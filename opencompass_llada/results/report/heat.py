"""Heat maps as HTML tables: values to hover, links to the samples, colours as classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opencompass_llada.results.collect import Collection
from opencompass_llada.results.grid import Grid
from opencompass_llada.results.heatmap import COLOUR_MAP, METRIC_NAMES
from opencompass_llada.results.plots import make_entry_grids
from opencompass_llada.results.score_intervals import grid_interval
from opencompass_llada.results.table import ResultRow
from opencompass_llada.results.tidy import TidyRow


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """One place of a heat map."""

    text: str
    """Score without decimals, or ``–`` where it is missing."""
    level: str
    """Class of its colour: ``s0`` to ``s100``, or ``missing``."""
    hover: str
    """All that is known of it."""
    link: str
    """Anchor of its samples; '' if there are none."""
    ends_trained: bool
    """Whether it is the last column inside the trained length."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """One model's heat map."""

    title: str
    """Line of the leaderboard."""
    caption: str
    """Metric and number of samples."""
    heads: tuple[str, ...]
    """Lengths."""
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]
    """Depth and its cells."""


def make_heat_maps(
    collection: Collection, anchors: Mapping[tuple[str, str, str], str]
) -> list[HeatMap]:
    """Make a heat map for each line of the leaderboard that has lengths and depths.

    Args:
        collection: What was read.
        anchors: Of samples, by run, model and data set.
    """
    maps = []
    for grid in make_entry_grids(collection):
        lines = []
        for depth in grid.depths:
            cells = []
            for length in grid.lengths:
                row = grid.rows.get((length, depth))
                link = anchors.get(_key(row), "") if isinstance(row, TidyRow) else ""
                interval = grid_interval(collection, [row]) if isinstance(row, TidyRow) else None
                cells.append(_make_cell(grid, length, depth, row, link, interval))
            lines.append((f"{depth:g}", tuple(cells)))
        number = f", {grid.num_samples} samples a cell" if grid.num_samples else ""
        maps.append(
            HeatMap(
                title=grid.title,
                caption=METRIC_NAMES.get(grid.metric, grid.metric) + number,
                heads=tuple(f"{length:,}" for length in grid.lengths),
                rows=tuple(lines),
            )
        )
    return maps


def _key(row: TidyRow) -> tuple[str, str, str]:
    return row.run, row.model, row.dataset


def _make_cell(
    grid: Grid,
    length: int,
    depth: float,
    row: ResultRow | None,
    link: str,
    interval: tuple[float, float] | None,
) -> HeatCell:
    score = grid.scores.get((length, depth))
    inside = [value for value in grid.lengths if value <= (grid.trained_length or 0)]
    ends = bool(inside) and length == inside[-1] and length != grid.lengths[-1]
    where = f"{length:,} tokens, depth {depth:g} %: "
    if score is None:
        reason = row.reason if row is not None else "not part of the run"
        status = row.status if row is not None else "missing"
        return HeatCell(
            text="–", level="missing", hover=f"{where}{status} ({reason})", link=link,
            ends_trained=ends,
        )  # fmt: skip
    hover = f"{where}{score:.1f} %"
    if row is not None and (number := row.n):
        hover += f" of {number} samples"
        if interval is not None:
            hover += f", 95 % interval {interval[0]:.0f} to {interval[1]:.0f}"
    return HeatCell(
        text=f"{score:.0f}", level=f"s{round(score)}", hover=hover, link=link, ends_trained=ends
    )


def write_colours() -> str:
    """Return CSS rules for the classes s0 to s100, in the figures' own colours."""
    from matplotlib import colormaps

    rules = []
    for level in range(101):
        red, green, blue, _ = colormaps[COLOUR_MAP](level / 100)
        shade = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        text = "#fff" if shade < 0.5 else "#000"
        code = "".join(f"{round(255 * value):02x}" for value in (red, green, blue))
        rules.append(f".s{level},.s{level} a{{background:#{code};color:{text}}}")
    return "\n".join(rules)
