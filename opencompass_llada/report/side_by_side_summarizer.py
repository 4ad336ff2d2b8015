"""OpenCompass summarizer for its own data sets: its table of models side by side, then our report.

The table is OpenCompass's DefaultSummarizer's, as it writes it; report and exit status are those of
every summarizer of this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from opencompass_llada.report.reporting import finish, index_by_abbr, merge_model_facts
from opencompass_llada.report.results import read_results


class SideBySideSummarizer:
    """Takes DefaultSummarizer's options: ``dict(type=SideBySideSummarizer, dataset_abbrs=...)``."""

    def __init__(
        self,
        config: Mapping[str, Any],
        dataset_abbrs: Sequence[Any] | None = None,
        summary_groups: Sequence[Mapping[str, Any]] = (),
        models: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Keep what to summarize.

        Args:
            config: The run's config; OpenCompass gives it.
            dataset_abbrs: The table's lines; None for all data sets.
            summary_groups: Means over data sets, in OpenCompass's form.
            models: What configs know of models besides: ``dict(abbr=..., title=...,
                trained_length=...)`` each.
        """
        self.config = config
        self.dataset_abbrs = dataset_abbrs
        self.summary_groups = list(summary_groups)
        self.described = index_by_abbr(models)

    def summarize(self, time_str: str | None = None) -> None:
        """Write OpenCompass's table and the report.

        Args:
            time_str: Names the table's files; OpenCompass gives the run's.

        Raises:
            SystemExit: With status 1, if a result is missing; the log lists them.
        """
        from opencompass.summarizers import DefaultSummarizer

        stamp = time_str or datetime.now().strftime("%Y%m%d_%H%M%S")
        table = DefaultSummarizer(
            self.config, dataset_abbrs=self.dataset_abbrs, summary_groups=self.summary_groups
        )
        table.summarize(time_str=stamp)
        work_dir = Path(self.config["work_dir"])
        rows = read_results(self.config, work_dir, merge_model_facts(self.config, self.described))
        finish(self.config, work_dir, rows, self.described)
