"""Averages of a benchmark's tasks by named groups, one line a model and length.

Numbers only: reads no files. A group with a missing member has no number; it is never the mean of
the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from opencompass_llada.benchmarks.facts import Group
from opencompass_llada.report.results import ResultRow
from opencompass_llada.report.safe_text import write_csv_rows


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One group's average for one model at one length."""

    model: str
    """Abbreviation."""
    title: str
    """Full name."""
    scaling: str
    """RoPE scaling."""
    benchmark: str
    """E.g. ``ruler``."""
    tokenizer: str | None
    """What the length is counted with."""
    length: int | None
    """Tokens, where the benchmark has lengths."""
    group: str
    """Name of the group."""
    weighting: str
    """How tasks are weighted."""
    metric: str
    """What is averaged."""
    num_tasks: int
    """Members of the group."""
    n: int | None
    """Samples of all members together."""
    score: float | None
    """None unless status is ``ok``."""
    standard_error: float | None
    """From the members' own, taken as independent; None if any has none."""
    status: str
    """``ok``, ``missing`` (a member has no result) or ``not run`` (not part of the run)."""
    reason: str = ""
    """Which members are missing."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: a model at a length, with its rows by task."""

    first: ResultRow
    """Any of its rows: model, benchmark, length and tokenizer are the same in all."""
    by_task: dict[str, ResultRow] = field(hash=False)
    """Rows by task name."""


def make_lines(rows: Sequence[ResultRow], metric: str) -> list[Line]:
    """Collect rows that name a task into lines, in order of model, benchmark and length.

    Args:
        rows: From `table.read_results`.
        metric: Which metric's rows.

    Raises:
        ValueError: If two data sets of a line have the same task.
    """
    lines: dict[tuple[Any, ...], dict[str, ResultRow]] = {}
    for row in rows:
        if row.metric != metric or row.task is None:
            continue
        by_task = lines.setdefault((row.model, row.benchmark, row.length, row.tokenizer), {})
        if row.task in by_task:
            raise ValueError(
                f"{row.model}: {by_task[row.task].dataset!r} and {row.dataset!r} both "
                f"are task={row.task!r} at length={row.length}; a table has room for one of them: "
                "give them different task names or lengths."
            )
        by_task[row.task] = row
    models = list(dict.fromkeys(row.model for row in rows))
    made = [Line(first=next(iter(by_task.values())), by_task=by_task) for by_task in lines.values()]
    return sorted(
        made,
        key=lambda line: (
            models.index(line.first.model),
            line.first.benchmark,
            line.first.length or 0,
        ),
    )


def average_group(line: Line, group: Group) -> GroupRow:
    """Average a group's members on one line.

    Args:
        line: From `make_lines`.
        group: What to average.
    """
    members = [line.by_task.get(name) for name in group.members]
    present = [row for row in members if row is not None]
    scored = [row for row in present if row.status == "ok" and row.score is not None]
    counts = [row.n for row in scored if row.n]
    status, reason = _judge(group, line)
    score, error = None, None
    if status == "ok":
        if group.weighting == "samples" and len(counts) < len(scored):
            status, reason = "missing", "a member has no number of samples to be weighted by"
        else:
            weights = [float(row.n or 0) for row in scored]
            if group.weighting == "mean":
                weights = [1.0] * len(scored)
            score, error = _weighted(scored, weights)
    return GroupRow(
        model=line.first.model,
        title=line.first.title,
        scaling=line.first.scaling,
        benchmark=line.first.benchmark,
        tokenizer=line.first.tokenizer,
        length=line.first.length,
        group=group.name,
        weighting=group.weighting,
        metric=line.first.metric,
        num_tasks=len(group.members),
        n=sum(counts) if score is not None and len(counts) == len(scored) else None,
        score=score,
        standard_error=error,
        status=status,
        reason=reason,
    )


def _judge(group: Group, line: Line) -> tuple[str, str]:
    """Return a group's status on a line, and why."""
    absent = [name for name in group.members if name not in line.by_task]
    present = [line.by_task[name] for name in group.members if name in line.by_task]
    bad = [str(row.task) for row in present if row.status != "ok"]
    if bad:
        return "missing", f"no result of {', '.join(bad)}"
    if absent:
        return "not run", f"not in this run: {', '.join(absent)}"
    return "ok", ""


def _weighted(
    rows: Sequence[ResultRow], weights: Sequence[float]
) -> tuple[float | None, float | None]:
    """Return the weighted mean of scores and its standard error, where every row has one."""
    total = sum(weights)
    score = sum(w * (row.score or 0.0) for w, row in zip(weights, rows, strict=True)) / total
    errors = [row.standard_error for row in rows]
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return score, None
    return score, math.hypot(*(w * e for w, e in zip(weights, known, strict=True))) / total


def write_group_csv(rows: Sequence[GroupRow]) -> str:
    """Return group averages as CSV; what is missing is an empty field."""
    return write_csv_rows([entry.name for entry in fields(GroupRow)], map(asdict, rows))
