"""Figures of the leaderboard, PNG and SVG: readable in print and by the colour-blind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from opencompass_llada.results.board import Score
from opencompass_llada.results.collect import Collection
from opencompass_llada.results.cost import Cost
from opencompass_llada.results.effective_length import main_metrics
from opencompass_llada.results.grid import Grid, make_grids
from opencompass_llada.results.table import ModelFacts
from opencompass_llada.results.table_cells import file_name
from opencompass_llada.results.tidy import TidyRow

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
    from opencompass_llada.results.curve_figure import build_curves
    from opencompass_llada.results.heatmap import build_small_multiples
    from opencompass_llada.results.plots.costs import draw_costs
    from opencompass_llada.results.plots.group_bars import draw_groups
    from opencompass_llada.results.plots.length_curves import draw_lengths

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
