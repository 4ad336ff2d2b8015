"""OpenCompass summarizer for results in parts: LongBench-E by length, LongBench v2 by difficulty.

A part is one metric of the result files. Writes a table with a line a model and part, and the same
files as `group_summarizer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.facts import Group, parse_groups
from opencompass_llada.files import write_text
from opencompass_llada.logs import get_logger
from opencompass_llada.report.groups import (
    Line,
    average_group,
    make_lines,
    write_group_csv,
)
from opencompass_llada.report.reporting import finish, index_by_abbr, merge_model_facts
from opencompass_llada.report.results import read_results, write_csv
from opencompass_llada.report.safe_text import table_field

logger = get_logger(__name__)

NO_SAMPLES = "-"


class BreakdownSummarizer:
    """Use it in any config: ``summarizer=dict(type=BreakdownSummarizer, parts={...})``."""

    def __init__(
        self,
        config: Mapping[str, Any],
        parts: Mapping[str, str],
        groups: Sequence[Mapping[str, Any]] = (),
        models: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Keep what to summarize.

        Args:
            config: The run's config; OpenCompass gives it.
            parts: Label of a line -> metric of the result files, e.g.
                ``{'all': 'score', '0-4k': 'score_0-4k'}``. The first is one that every result has.
            groups: As `GroupSummarizer` takes them.
            models: As `GroupSummarizer` takes them.

        Raises:
            ValueError: For a wrong group, or no parts.
        """
        if not parts:
            raise ValueError("parts={} must name at least one metric, as in {'all': 'score'}.")
        self.config = config
        self.parts = dict(parts)
        self.groups = parse_groups(groups)
        self.described = index_by_abbr(models)

    def summarize(self, time_str: str | None = None) -> None:
        """Write all files and log the table.

        Args:
            time_str: Names the files; OpenCompass gives the run's.

        Raises:
            SystemExit: With status 1, if a result is missing; the log lists them.
        """
        work_dir = Path(self.config["work_dir"])
        stamp = time_str or datetime.now().strftime("%Y%m%d_%H%M%S")
        rows = read_results(self.config, work_dir, merge_model_facts(self.config, self.described))
        lines = {label: make_lines(rows, metric) for label, metric in self.parts.items()}
        text = write_markdown(lines, self.groups)
        averages = [
            average_group(line, group)
            for of_part in lines.values()
            for line in of_part
            for group in self.groups
        ]
        folder = work_dir / "summary"
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("\n%s", text)
        for name, content in {
            f"results_{stamp}.csv": write_csv(rows),
            f"groups_{stamp}.csv": write_group_csv(averages),
            f"summary_{stamp}.md": text,
        }.items():
            write_text(folder / name, content)
            logger.info("wrote %s", (folder / name).resolve())
        finish(self.config, work_dir, rows, self.described)


def write_markdown(lines: Mapping[str, Sequence[Line]], groups: Sequence[Group]) -> str:
    """Write the table: a line a model and part, a column a group and a task.

    Args:
        lines: Label of the part -> its lines, one a model.
        groups: The groups, in the order of the columns.

    Returns:
        Markdown.
    """
    everything = [line for of_part in lines.values() for line in of_part]
    tasks = list(dict.fromkeys(task for line in everything for task in line.by_task))
    models = list(dict.fromkeys(line.first.model for line in everything))
    heads = ["model", "scaling", "part", *(f"**{group.name}**" for group in groups), *tasks]
    text = [
        "percent",
        "",
        f"| {' | '.join(heads)} |",
        "|---|---|---|" + "---:|" * (len(heads) - 3),
    ]
    for model in models:
        for label, of_part in lines.items():
            text += [
                f"| {' | '.join(_cells(line, label, groups, tasks))} |"
                for line in of_part
                if line.first.model == model
            ]
    text += ["", f"- {NO_SAMPLES}: the data has no samples in this part, or a group such a task"]
    return "\n".join(text) + "\n"


def _cells(line: Line, label: str, groups: Sequence[Group], tasks: Sequence[str]) -> list[str]:
    scaling = "no scaling" if line.first.scaling == "none" else line.first.scaling
    cells = [table_field(line.first.title), scaling, label]
    for group in groups:
        row = average_group(line, group)
        absent = NO_SAMPLES if row.status == "not run" else "missing"
        cells.append(absent if row.score is None else f"**{row.score:.1f}**")
    for task in tasks:
        if task not in line.by_task:
            cells.append(NO_SAMPLES)
            continue
        score = line.by_task[task].score
        cells.append("missing" if score is None else f"{score:.1f}")
    return cells
