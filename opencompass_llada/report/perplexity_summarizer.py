"""OpenCompass summarizer for perplexity: tidy CSV, markdown table and curves.

It makes the run exit with 1 when a point has no result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from opencompass_llada.files import write_text
from opencompass_llada.logs import get_logger
from opencompass_llada.report.curves import (
    BENCHMARK,
    read_curves,
    write_curves_csv,
    write_curves_markdown,
)
from opencompass_llada.report.reporting import finish, index_by_abbr, merge_model_facts
from opencompass_llada.report.results import read_results

logger = get_logger(__name__)


class PerplexitySummarizer:
    """Use it in any config: ``summarizer=dict(type=PerplexitySummarizer)``."""

    def __init__(self, config: Mapping[str, Any], models: Sequence[Mapping[str, Any]] = ()) -> None:
        """Keep what to summarize.

        Args:
            config: The run's config; OpenCompass gives it.
            models: What configs know of models besides: ``dict(abbr=..., title=...,
                trained_length=...)`` each.
        """
        self.config = config
        self.described = index_by_abbr(models)

    def summarize(self, time_str: str | None = None) -> None:
        """Write all files and log their paths.

        Args:
            time_str: Names the files; OpenCompass gives the run's.

        Raises:
            SystemExit: With status 1, if a point has no result; the log lists them.
        """
        # Imported here: every task process may import this module to find the class.
        from opencompass_llada.report.curves import draw_curves

        work_dir = Path(self.config["work_dir"])
        stamp = time_str or datetime.now().strftime("%Y%m%d_%H%M%S")
        models = merge_model_facts(self.config, self.described)
        points = read_curves(self.config, work_dir, models)
        folder = work_dir / "summary"
        folder.mkdir(parents=True, exist_ok=True)
        if points:
            table = folder / f"perplexity_{stamp}.csv"
            write_text(table, write_curves_csv(points))
            markdown = write_curves_markdown(points)
            means = folder / f"perplexity_{stamp}.md"
            write_text(means, markdown)
            trained = {facts.abbr: facts.trained_length for facts in models}
            figure = draw_curves(points, trained, folder / f"perplexity_{stamp}.png")
            logger.info("\n%s", markdown)
            for path in (table, means, figure):
                logger.info("wrote %s", path.resolve())
        else:
            logger.warning("No data set says benchmark=%r: there is no curve to draw.", BENCHMARK)
        rows = read_results(self.config, work_dir, models)
        finish(self.config, work_dir, rows, self.described)
