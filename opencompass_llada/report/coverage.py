"""OpenCompass summarizer that says of each data set config whether all of it ran.

Reads which predictions and results there are, not what they say. Writes summary_*.md into the
run's summary/ folder, and makes the run exit with 1 when a result is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from opencompass_llada.files import write_text
from opencompass_llada.logs import get_logger
from opencompass_llada.report.safe_text import table_field
from opencompass_llada.runs.exit_status import describe_missing, find_missing

logger = get_logger(__name__)


class CoverageSummarizer:
    """Use it where scores do not matter: ``dict(type=CoverageSummarizer, sets=[...])``."""

    def __init__(self, config: Mapping[str, Any], sets: Sequence[Mapping[str, Any]]) -> None:
        """Keep what to report on.

        Args:
            config: The run's config; OpenCompass gives it.
            sets: ``dict(name=..., datasets=[abbr, ...], absent=...)`` each; `absent` says why a
                set was not run, and is empty for those that were.
        """
        self.config = config
        self.sets = sets

    def summarize(self, time_str: str | None = None) -> None:
        """Write and log the table.

        Args:
            time_str: Names the file; OpenCompass gives the run's.

        Raises:
            SystemExit: With status 1, if a result is missing; the log lists them.
        """
        work_dir = Path(self.config["work_dir"])
        missing = find_missing(self.config, work_dir)
        text = write_coverage(self.sets, {cell.dataset for cell in missing})
        stamp = time_str or datetime.now().strftime("%Y%m%d_%H%M%S")
        path = work_dir / "summary" / f"summary_{stamp}.md"
        write_text(path, text)
        logger.info("\n%s", text)
        logger.info("wrote %s", path.resolve())
        if missing:
            logger.error("%s", describe_missing(missing))
            raise SystemExit(1)


def write_coverage(sets: Sequence[Mapping[str, Any]], missing: set[str]) -> str:
    """Write a line a set: its cells, how many have no result, or why it was not run.

    Args:
        sets: See `CoverageSummarizer`.
        missing: Abbreviations of the data sets without a result.
    """
    lines = ["| data set config | cells | without a result | |", "|---|---:|---:|---|"]
    for entry in sets:
        lost = len(missing & set(entry["datasets"]))
        state = f"not run: {entry['absent']}" if entry["absent"] else ("MISSING" if lost else "ran")
        lines.append(
            f"| {table_field(entry['name'])} | {len(entry['datasets'])} | {lost} | {state} |"
        )
    return "\n".join(lines) + "\n"
