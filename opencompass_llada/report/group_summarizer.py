"""OpenCompass summarizer for benchmarks of many tasks: a table of tasks and group averages.

Reads ``benchmark``, ``task`` and ``length`` from each data set's config, never from its
abbreviation. Writes results_*.csv (every result), groups_*.csv (averages) and summary_*.md into
the run's summary/ folder, and makes the run exit with 1 when a result is missing.
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
    GroupRow,
    Line,
    average_group,
    make_lines,
    write_group_csv,
)
from opencompass_llada.report.reporting import finish, index_by_abbr, merge_model_facts
from opencompass_llada.report.results import read_results, write_csv
from opencompass_llada.report.safe_text import table_field

logger = get_logger(__name__)

NOT_RUN = "-"


class GroupSummarizer:
    """Use it in any config: ``summarizer=dict(type=GroupSummarizer, groups=[...])``."""

    def __init__(
        self,
        config: Mapping[str, Any],
        groups: Sequence[Mapping[str, Any]] = (),
        metric: str = "score",
        models: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Keep what to summarize.

        Args:
            config: The run's config; OpenCompass gives it.
            groups: ``dict(name='NIAH', members=['niah_single_1', ...], weighting='mean')`` each;
                weighting is ``'mean'`` (the default) or ``'samples'``.
            metric: Which number of the result files.
            models: What configs know of models besides: ``dict(abbr=..., title=...,
                trained_length=...)`` each.

        Raises:
            ValueError: For a wrong group.
        """
        self.config = config
        self.groups = parse_groups(groups)
        self.metric = metric
        self.described = index_by_abbr(models)

    def summarize(self, time_str: str | None = None) -> None:
        """Write all files and log the table.

        Args:
            time_str: Names the files; OpenCompass gives the run's.

        Raises:
            SystemExit: With status 1, if a result is missing; the log lists them. A group with
                tasks that the run does not contain is shown as not run, which is no fault.
        """
        work_dir = Path(self.config["work_dir"])
        stamp = time_str or datetime.now().strftime("%Y%m%d_%H%M%S")
        rows = read_results(self.config, work_dir, merge_model_facts(self.config, self.described))
        lines = make_lines(rows, self.metric)
        averages = [[average_group(line, group) for group in self.groups] for line in lines]
        text = write_markdown(lines, averages, self.groups, self.metric)
        files = {
            f"results_{stamp}.csv": write_csv(rows),
            f"groups_{stamp}.csv": write_group_csv([row for line in averages for row in line]),
            f"summary_{stamp}.md": text,
        }
        folder = work_dir / "summary"
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("\n%s", text)
        for name, content in files.items():
            write_text(folder / name, content)
            logger.info("wrote %s", (folder / name).resolve())
        finish(self.config, work_dir, rows, self.described)


def write_markdown(
    lines: Sequence[Line],
    averages: Sequence[Sequence[GroupRow]],
    groups: Sequence[Group],
    metric: str,
) -> str:
    """Write the table: a line a model and length, a column a task and a group.

    Args:
        lines: From `groups.make_lines`.
        averages: For each line, its groups' averages.
        groups: The groups, in the order of the columns.
        metric: What the numbers are.

    Returns:
        Markdown.
    """
    tasks = list(dict.fromkeys(task for line in lines for task in line.by_task))
    with_length = any(line.first.length is not None for line in lines)
    heads = ["model", "scaling", *(["length"] if with_length else [])]
    heads += [f"**{group.name}**" for group in groups] + tasks
    text = [
        f"{metric}, percent" + ("; lengths in tokens" if with_length else ""),
        "",
        f"| {' | '.join(heads)} |",
        "|---|---|" + "---:|" * (len(heads) - 2),
    ]
    for line, line_averages in zip(lines, averages, strict=True):
        first = line.first
        cells = [
            table_field(first.title),
            "no scaling" if first.scaling == "none" else first.scaling,
        ]
        if with_length:
            cells.append("" if first.length is None else f"{first.length:,}")
        cells += [_average_cell(row) for row in line_averages]
        cells += [_task_cell(line, task) for task in tasks]
        text.append(f"| {' | '.join(cells)} |")
    text += ["", *_notes(lines, averages, groups)]
    return "\n".join(text).rstrip() + "\n"


def _average_cell(row: GroupRow) -> str:
    if row.status == "not run":
        return NOT_RUN
    return "missing" if row.score is None else f"**{row.score:.1f}**"


def _task_cell(line: Line, task: str) -> str:
    if task not in line.by_task:
        return NOT_RUN
    score = line.by_task[task].score
    return "missing" if score is None else f"{score:.1f}"


def _notes(
    lines: Sequence[Line], averages: Sequence[Sequence[GroupRow]], groups: Sequence[Group]
) -> list[str]:
    """Say what the groups are, how lengths are counted and what was not run."""
    notes = []
    for group in groups:
        how = "weighted by samples" if group.weighting == "samples" else "mean"
        notes.append(f"- {group.name}: {how} of {', '.join(group.members)}")
    counted = sorted({line.first.tokenizer for line in lines if line.first.tokenizer})
    if counted:
        notes.append(f"- lengths counted with: {', '.join(counted)}")
    if any(row.status == "not run" for line in averages for row in line):
        notes.append(f"- {NOT_RUN}: not part of this run, or a group with such a task")
    return notes
