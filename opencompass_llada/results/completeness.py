"""Find the (model, data set) cells of a finished OpenCompass run that have no result.

OpenCompass exits 0 when every task failed. This looks at the files that a run should have left in
its work directory; it computes no scores and imports no OpenCompass.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from opencompass_llada.results.provenance import hash_file, read_seals, seal_fault

NO_PREDICTIONS = "no predictions were written"
STAGES = ("predictions", "results")
_LOG_FOLDERS = {"predictions": "infer", "results": "eval"}
_LAST_LINES = 3
#: What a task's process puts before the reason that it ended for.
TASK_NAME = "task"


@dataclass(frozen=True, kw_only=True)
class MissingCell:
    """One model on one data set without a usable result."""

    model: str
    """The model's abbreviation."""

    dataset: str
    """The data set's abbreviation."""

    stage: str
    """The first stage that failed: ``predictions`` or ``results``."""

    reason: str
    """What is wrong with it."""

    log_path: Path | None
    """Log file of the task, if there is one."""


def find_missing(
    cfg: Mapping[str, Any], work_dir: str | Path, stages: Sequence[str] = STAGES
) -> list[MissingCell]:
    """Compare a run's config with the files it left.

    Args:
        cfg: The resolved config, with ``models`` and ``datasets`` or
            ``model_dataset_combinations``.
        work_dir: The run's own directory, which holds predictions/, results/ and logs/.
        stages: What to look for; a run with ``-m infer`` leaves no results.

    Returns:
        The missing cells in the config's order; each with its first missing stage.
    """
    root = Path(work_dir)
    missing = []
    for model, dataset in ((model_name(m), dataset_name(d)) for m, d in list_pairs(cfg)):
        for stage in stages:
            check = _predictions_fault if stage == "predictions" else _result_fault
            reason = check(root, model, dataset)
            if reason is None:
                continue
            log_path = find_log(root, model, dataset, stage)
            missing.append(
                MissingCell(
                    model=model, dataset=dataset, stage=stage, reason=reason, log_path=log_path
                )
            )
            break
    return missing


def find_damage(root: Path) -> list[str]:
    """Say which files of a run's predictions and results are torn, changed or of another run.

    Args:
        root: The run's own directory.
    """
    found = []
    for stage in STAGES:
        for path in sorted((root / stage).glob("*/*.json")):
            if stage == STAGES[0]:
                fault = answers_fault(path)
            else:
                content, fault = _read_object(path)
                fault = fault or (_origin_fault(path) if content else "is empty")
            if fault:
                found.append(f"{path} {fault}")
    return found


def describe_missing(missing: Sequence[MissingCell], limit: int = 20) -> str:
    """Write a paragraph on missing cells: what is wrong, the log file, its last error.

    Args:
        missing: At least one cell.
        limit: Cells to write out; the others are counted.

    Returns:
        Several lines.
    """
    lines = [f"{len(missing)} (model, data set) pairs have no result:"]
    errors_said: set[Path] = set()
    for cell in missing[:limit]:
        lines.append(f"  {cell.model} on {cell.dataset}: {cell.reason}")
        if cell.log_path is not None and cell.log_path not in errors_said:
            errors_said.add(cell.log_path)
            lines.append(f"    log: {cell.log_path}")
            lines += [f"    | {line}" for line in read_last_error(cell.log_path)]
    if len(missing) > limit:
        lines.append(f"  and {len(missing) - limit} more")
    return "\n".join(lines)


def read_last_error(log_path: Path) -> list[str]:
    """Return the lines of a log that say why it ended.

    They are the paragraph of `faults.guard`, else the last exception, else the log's end.

    Args:
        log_path: A log file of OpenCompass.

    Returns:
        At most a few lines.
    """
    text = log_path.read_text(encoding="utf-8", errors="replace")
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    ends = [i for i, line in enumerate(lines) if line.startswith(f"{TASK_NAME}: ")]
    exception = re.compile(r"[\w.]+(Error|Exception|Exit|Interrupt)\b")
    ends = ends or [i for i, line in enumerate(lines) if exception.match(line)]
    start = ends[-1] if ends else len(lines) - _LAST_LINES
    return lines[max(start, 0) :][:_LAST_LINES]


def find_log(root: Path, model: str, dataset: str, stage: str) -> Path | None:
    """Return the log of the task that a cell belonged to.

    A task's log is named after its first data set; for the others the log that names the cell is
    looked for.

    Args:
        root: The run's directory.
        model: The model's abbreviation.
        dataset: The data set's abbreviation.
        stage: ``predictions`` or ``results``.

    Returns:
        The file, or None (in debug mode there are no log files).
    """
    folder = root / "logs" / _LOG_FOLDERS[stage] / model
    own = folder / f"{dataset}.out"
    if own.is_file():
        return own
    shards = sorted(folder.glob(f"{_escape(dataset)}_[0-9]*.out"))
    if shards:
        return shards[-1]
    # A task of several models has its log in the folder of its first model.
    name = re.compile(re.escape(f"{model}/{dataset}") + r"[,\]_]")
    for log_path in sorted(folder.glob("*.out")) + sorted(folder.parent.glob("*/*.out")):
        if name.search(log_path.read_text(encoding="utf-8", errors="replace")):
            return log_path
    return None


def list_pairs(cfg: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield every (model config, data set config) that a run evaluates, model by model."""
    for group in cfg.get("model_dataset_combinations") or [cfg]:
        for model in group.get("models") or ():
            for dataset in group.get("datasets") or ():
                yield model, dataset


def model_name(model: Mapping[str, Any]) -> str:
    """Return what a model's files are named by: its abbr, else as OpenCompass names it."""
    if "abbr" in model:
        return str(model["abbr"])
    tail = "_".join(os.path.realpath(model["path"]).split("/")[-2:])
    return f"{model['type']}_{tail}".replace("/", "_")


def dataset_name(dataset: Mapping[str, Any]) -> str:
    """Return what a data set's files are named by: its abbr, else as OpenCompass names it."""
    if "abbr" in dataset:
        return str(dataset["abbr"])
    parts = [dataset["path"], *([dataset["name"]] if "name" in dataset else [])]
    return "_".join(parts).replace("/", "_")


def read_answers(path: Path) -> tuple[dict[str, Any], str]:
    """Read a file of predictions.

    Args:
        path: ``RUN/predictions/MODEL/NAME.json``.

    Returns:
        Answers by index as text, and what is wrong with the file; one of both is empty.
    """
    content, fault = _read_object(path)
    if not fault and not content:
        fault = "is empty"
    if not fault and [*content] != [str(index) for index in range(len(content))]:
        fault = "does not number its samples from 0 on"
    if not fault and not all(isinstance(answer, dict) for answer in content.values()):
        fault = "holds samples that are no records"
    return ({}, fault) if fault else (content, "")


def answers_fault(path: Path) -> str:
    """Say what is wrong with a file of predictions, '' if nothing; asked again, it is not read.

    Args:
        path: ``RUN/predictions/MODEL/NAME.json``.
    """
    try:
        stamp = path.stat()
    except OSError as error:
        return f"cannot be read ({error})"
    return _answers_fault(path, stamp.st_mtime_ns, stamp.st_size, stamp.st_ino)


@lru_cache(maxsize=65536)
def _answers_fault(path: Path, *stamp: int) -> str:
    return read_answers(path)[1]


def read_result(path: Path) -> tuple[dict[str, Any], str]:
    """Read the result of a cell.

    Args:
        path: ``RUN/results/MODEL/NAME.json``.

    Returns:
        Its content, and what is wrong with it; {} if anything is. A result beside predictions
        that it was not made of is none.
    """
    if not path.is_file():
        return {}, "no result was written"
    content, fault = _read_object(path)
    if fault:
        return {}, f"the result {fault}"
    if "error" in content:
        return {}, f"the evaluator reported an error: {content['error']}"
    if fault := _origin_fault(path):
        return {}, fault
    return content, ""


def _read_object(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_bytes()
        if not text.strip():
            return {}, "is empty"
        if fault := seal_fault(path, path.parents[2]):
            return {}, fault
        content = json.loads(text.decode("utf-8"))
    except OSError as error:
        return {}, f"cannot be read ({error})"
    except (ValueError, RecursionError) as error:
        return {}, f"is not valid JSON ({error})"
    return (content, "") if isinstance(content, dict) else ({}, "is not a JSON object")


def _origin_fault(path: Path) -> str:
    """Say if the predictions beside a result are not those that it was made of."""
    run_path, model = path.parents[2], path.parent.name
    seal = read_seals(run_path).get(path.relative_to(run_path).as_posix(), {})
    made_of = seal.get("predictions")
    if not isinstance(made_of, dict):
        return ""
    present = describe_predictions(run_path, model, path.stem)
    if not present or present == made_of:
        return ""
    differing = sorted(
        name for name in {*present, *made_of} if present.get(name) != made_of.get(name)
    )
    return (
        f"the result was not made of the predictions beside it (predictions/{model}/{differing[0]} "
        "is another file by now)"
    )


def describe_predictions(run_path: Path, model: str, dataset: str) -> dict[str, str]:
    """Return the SHA-256 of each prediction file of a cell, by the file's name.

    Args:
        run_path: The run's folder.
        model: The model's abbreviation.
        dataset: The data set's abbreviation.
    """
    files = find_predictions(run_path / "predictions" / model, dataset)
    return {path.name: hash_file(path) for path in files}


def find_predictions(folder: Path, dataset: str) -> list[Path]:
    """Return the prediction files of a cell: the whole one, else its shards in order.

    Args:
        folder: ``RUN/predictions/MODEL``.
        dataset: The data set's abbreviation.
    """
    whole = folder / f"{dataset}.json"
    if whole.is_file():
        return [whole]
    pattern = re.compile(re.escape(dataset) + r"_(\d+)\.json")
    numbered = [
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := pattern.fullmatch(path.name)) and path.is_file()
    ]
    return [path for _, path in sorted(numbered)]


def _predictions_fault(root: Path, model: str, dataset: str) -> str | None:
    folder = root / "predictions" / model
    unfinished = [folder / f"tmp_{dataset}.jsonl", *folder.glob(f"tmp_{_escape(dataset)}_*.jsonl")]
    for path in unfinished:
        is_shard = re.fullmatch(rf"tmp_{re.escape(dataset)}(_\d+)?\.jsonl", path.name)
        if path.is_file() and is_shard:
            return f"inference stopped half-way ({path.name} is left)"
    files = find_predictions(folder, dataset)
    for path in files:
        if fault := answers_fault(path):
            return f"predictions/{model}/{path.name} {fault}"
    if not files:
        return NO_PREDICTIONS
    if files[0].stem == dataset:
        return None
    numbers = [int(path.stem.rpartition("_")[2]) for path in files]
    # The last shard leaves no gap when it is lost; its task's log says that there was one.
    logs = root / "logs" / _LOG_FOLDERS["predictions"] / model
    started = [
        int(match.group(1))
        for path in logs.glob(f"{_escape(dataset)}_*.out")
        if (match := re.fullmatch(rf"{re.escape(dataset)}_(\d+)\.out", path.name))
    ]
    gaps = sorted(set(range(max([*numbers, *started]) + 1)) - set(numbers))
    return f"prediction shards {gaps} are missing" if gaps else None


def _result_fault(root: Path, model: str, dataset: str) -> str | None:
    """Say what is wrong with a result, or with the predictions that lie beside it, if any do."""
    content, fault = read_result(root / "results" / model / f"{dataset}.json")
    if not fault and not content:
        fault = "the result is empty"
    if not fault:
        fault = _predictions_fault(root, model, dataset) or ""
    return None if fault in ("", NO_PREDICTIONS) else fault


def _escape(name: str) -> str:
    """Escape what glob would take for a pattern."""
    return re.sub(r"([*?[])", r"[\1]", name)
