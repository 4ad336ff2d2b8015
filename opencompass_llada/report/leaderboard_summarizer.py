"""OpenCompass summarizer for runs of any benchmarks: the leaderboard and its report.

Writes the report that every summarizer of this package writes and logs the leaderboard. It makes
the run exit with 1 when a result is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.logs import get_logger
from opencompass_llada.report.reporting import finish, index_by_abbr, merge_model_facts
from opencompass_llada.report.results import read_results

logger = get_logger(__name__)


class LeaderboardSummarizer:
    """Use it in any config: ``summarizer=dict(type=LeaderboardSummarizer)``."""

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
        """Write the report and log the leaderboard.

        Args:
            time_str: Not used: the report's files keep their names.

        Raises:
            SystemExit: With status 1, if a result is missing; the log lists them.
        """
        work_dir = Path(self.config["work_dir"])
        models = merge_model_facts(self.config, self.described)
        rows = read_results(self.config, work_dir, models)
        finish(self.config, work_dir, rows, self.described, log_board=True)
