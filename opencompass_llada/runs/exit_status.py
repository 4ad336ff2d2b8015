"""Says why a run exits with 1: which cells have no result, and what went wrong there.

OpenCompass exits 0 when every task failed; this looks at the files that a run should have left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs import shards
from opencompass_llada.runs.shards import OwnPart

LAST_LINES = 3
"""Lines of a log that are shown."""
TASK_NAME = "task"
"""What a task's process puts before the reason that it ended for."""


@dataclass(frozen=True)
class MissingCell:
    """One model on one data set without a usable result."""

    model: str
    dataset: str
    stage: str  # the first that failed: ``predictions`` or ``results``
    reason: str
    log_path: Path | None


def find_missing(
    cfg: Mapping[str, Any], work_dir: str | Path, stages: Sequence[str] = recorded.STAGES
) -> list[MissingCell]:
    """Return the cells of a resolved config without usable files, each with its first such stage.

    ``work_dir`` is the run's own directory; a run with ``-m infer`` leaves no results.
    """
    root, datasets = Path(work_dir), recorded.list_names(cfg)
    missing = []
    for model_cfg, dataset_cfg in recorded.list_pairs(cfg):
        model, dataset = recorded.model_name(model_cfg), recorded.dataset_name(dataset_cfg)
        for stage in stages:
            check = recorded.predictions_fault if stage == "predictions" else recorded.result_fault
            if reason := check(root, model, dataset, datasets):
                log = find_log(root, model, dataset, stage)
                missing.append(MissingCell(model, dataset, stage, reason, log))
                break
    return missing


def find_unanswered(run_path: Path, own: OwnPart) -> list[MissingCell]:
    """Return the parts of cells that a shard should have answered and has not."""
    missing = []
    for model, dataset, (start, stop) in shards.find_unanswered(
        run_path, own.shard.index, own.cells
    ):
        total = own.cells[model, dataset].total
        is_all = total is None or (start, stop) == (0, total)
        name = dataset if is_all else recorded.shard_name(dataset, start, stop, total or 0)
        log = find_log(run_path, model, dataset, "predictions")
        missing.append(MissingCell(model, name, "predictions", "is not answered to its end", log))
    return missing


def describe_missing(missing: Sequence[MissingCell], limit: int = 20) -> str:
    """Write a paragraph on missing cells, some of them in full: what is wrong, log, last error."""
    lines = [f"{len(missing)} (model, data set) pairs have no result:"]
    logs: set[Path] = set()
    for cell in missing[:limit]:
        lines.append(f"  {cell.model} on {cell.dataset}: {cell.reason}")
        if cell.log_path is not None and cell.log_path not in logs:
            logs.add(cell.log_path)
            lines.append(f"    log: {cell.log_path}")
            lines += [f"    | {line}" for line in read_last_error(cell.log_path)]
    if len(missing) > limit:
        lines.append(f"  and {len(missing) - limit} more")
    return "\n".join(lines)


def read_last_error(log_path: Path) -> list[str]:
    """Return the lines of the paragraph of `faults.guard`, else last exception, else log's end."""
    text = log_path.read_text(encoding="utf-8", errors="replace")
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    ends = [i for i, line in enumerate(lines) if line.startswith(f"{TASK_NAME}: ")]
    exception = re.compile(r"[\w.]+(Error|Exception|Exit|Interrupt)\b")
    ends = ends or [i for i, line in enumerate(lines) if exception.match(line)]
    start = ends[-1] if ends else len(lines) - LAST_LINES
    return lines[max(start, 0) :][:LAST_LINES]


def find_log(root: Path, model: str, dataset: str, stage: str) -> Path | None:
    """Return the log of the task that a cell belonged to; None in debug mode, which writes none.

    A task's log is named after its first data set; for the others the log that names the cell is
    looked for.
    """
    folder = root / "logs" / recorded.LOG_FOLDERS[stage] / model
    own = folder / f"{dataset}.out"
    if own.is_file():
        return own
    logs = sorted(folder.glob("*.out"))
    if shards := [path for path in logs if recorded.is_part(path.stem, dataset)]:
        return shards[-1]
    # A task of several models has its log in the folder of its first model.
    name = re.compile(re.escape(f"{model}/{dataset}") + r"[,\]_]")
    for log_path in [*logs, *sorted(folder.parent.glob("*/*.out"))]:
        if name.search(log_path.read_text(encoding="utf-8", errors="replace")):
            return log_path
    return None
