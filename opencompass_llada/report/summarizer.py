"""OpenCompass summarizer for needle in a haystack: table, CSV and heat maps, missing cells shown.

Writes what `table`, `grid` and `heatmap` make into the run's summary/ folder. It makes the run
exit with 1 when a cell has no result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.facts import find_benchmark
from opencompass_llada.files import write_text
from opencompass_llada.logs import get_logger
from opencompass_llada.options import reject_unknown
from opencompass_llada.report.grid import Grid, make_grids, write_markdown
from opencompass_llada.report.reporting import finish, index_by_abbr, merge_model_facts
from opencompass_llada.report.results import (
    ModelFacts,
    ResultRow,
    read_results,
    write_csv,
)

logger = get_logger(__name__)


class NeedleSummarizer:
    """Use it in any config: ``summarizer=dict(type=NeedleSummarizer)``."""

    def __init__(
        self,
        config: Mapping[str, Any],
        metric: str | None = None,
        models: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Keep what to summarize.

        Args:
            config: The run's config; OpenCompass gives it.
            metric: What heat maps and means show: ``accuracy`` (keyword hits) or ``score``
                (NeedleBench's, with its part credit for similar answers). None is accuracy, or
                score where OpenCompass's own evaluator was used, which reports nothing else.
            models: What configs know of models besides: ``dict(abbr=..., title=...,
                trained_length=...)`` each. Without it the abbreviation is the title, and no trained
                length is marked.
        """
        if metric is not None:
            reject_unknown("metric", [metric], find_benchmark("niah").metrics)
        self.config = config
        self.metric = metric
        self.described = index_by_abbr(models)

    def summarize(self, time_str: str | None = None) -> None:
        """Write all files and log their paths.

        Args:
            time_str: Names the files; OpenCompass gives the run's.

        Raises:
            SystemExit: With status 1, if a cell has no result; the log lists them.
        """
        work_dir = Path(self.config["work_dir"])
        stamp = time_str or datetime.now().strftime("%Y%m%d_%H%M%S")
        models = merge_model_facts(self.config, self.described)
        rows = read_results(self.config, work_dir, models)
        metric = self.metric or find_benchmark("niah").metrics[0]
        paths = write_summary(rows, models, metric, work_dir / "summary", stamp)
        for path in paths:
            logger.info("wrote %s", path.resolve())
        finish(self.config, work_dir, rows, self.described)


def write_summary(
    rows: Sequence[ResultRow],
    models: Sequence[ModelFacts],
    metric: str,
    folder: Path,
    stamp: str,
) -> list[Path]:
    """Write table, means and figures.

    Args:
        rows: From `read_results`, of one run or of several.
        models: What figures say of the models.
        metric: What they show.
        folder: Where to.
        stamp: Part of every file's name.

    Returns:
        The files; the figure of all models last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"results_{stamp}.csv"
    write_text(table, write_csv(rows))
    metric = _choose_metric(rows, metric)
    grids = make_grids(rows, metric, models)
    if not grids:
        logger.warning("No data set has a length and a depth: there is no heat map to draw.")
        return [table]
    means = folder / f"summary_{stamp}.md"
    text = write_markdown(grids)
    write_text(means, text)
    logger.info("\n%s", text)
    return [table, means, *_draw(grids, folder, stamp)]


def _choose_metric(rows: Sequence[ResultRow], metric: str) -> str:
    """Return the metric to show; OpenCompass's own NeedleBench evaluator has no accuracy."""
    cells = {row.dataset for row in rows if row.length is not None and row.depth is not None}
    showing = {row.dataset for row in rows if row.metric == metric}
    if not cells - showing:
        return metric
    if cells & showing:
        logger.warning(
            "%d data sets report no %r and are not in means and heat maps, among them %s; "
            "metric='score' shows them too.",
            len(cells - showing),
            metric,
            min(cells - showing),
        )
        return metric
    logger.warning("No data set reports %r: means and heat maps show 'score' instead.", metric)
    return "score"


def _draw(grids: Sequence[Grid], folder: Path, stamp: str) -> list[Path]:
    # Imported here: every task process imports this module to find the class.
    from opencompass_llada.report.heatmap import draw_heat_map, draw_small_multiples

    paths = []
    names = [grid.model for grid in grids]
    for number, grid in enumerate(grids):
        # A model that has several grids (languages, tokenizers) gets their numbers.
        suffix = f"_{number}" if names.count(grid.model) > 1 else ""
        paths.append(draw_heat_map(grid, folder / f"heatmap_{grid.model}{suffix}_{stamp}.png"))
    paths.append(draw_small_multiples(grids, folder / f"heatmap_all_{stamp}.png"))
    return paths
