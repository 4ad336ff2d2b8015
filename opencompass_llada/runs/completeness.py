"""Find the (model, data set) cells of a finished OpenCompass run that have no result.

OpenCompass exits 0 when every task failed. This looks at the files that a run should have left in
its work directory; it computes no scores and imports no OpenCompass.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from opencompass_llada.options import show
from opencompass_llada.runs.provenance import hash_file, read_seals, seal_fault

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
    datasets = list_names(cfg)
    for model, dataset in ((model_name(m), dataset_name(d)) for m, d in list_pairs(cfg)):
        for stage in stages:
            check = _predictions_fault if stage == "predictions" else _result_fault
            reason = check(root, model, dataset, datasets)
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
                fault = fault or ("" if content else "is empty")
                fault = fault or _origin_fault(path) or _share_fault(content)
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
    shards = [
        path
        for path in sorted(folder.glob(f"{_escape(dataset)}_[0-9]*.out"))
        if is_part(path.stem, dataset)
    ]
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


def list_names(cfg: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of all data sets of a run."""
    return frozenset(dataset_name(dataset) for _, dataset in list_pairs(cfg))


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
    if fault := _share_fault(content):
        return {}, f"the result {fault}"
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


def _share_fault(content: Mapping[str, Any]) -> str:
    """Say if an accuracy is no share; evaluators give it in percent."""
    for name, value in content.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name.partition("_")[0] == "accuracy" and is_number and (value < 0 or value > 100):
            return f"has {name}={show(value)}, outside 0 to 100, which no evaluator gives"
    return ""


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
    return [file.path for file in find_finished(folder, dataset)]


def _predictions_fault(
    root: Path, model: str, dataset: str, datasets: Container[str]
) -> str | None:
    folder = root / "predictions" / model
    files = find_answer_files(folder, dataset, datasets)
    for file in files:
        if file.is_partial:
            return f"inference stopped half-way ({file.path.name} is left)"
    files = find_finished(folder, dataset, datasets)
    for file in files:
        if fault := answers_fault(file.path):
            return f"predictions/{model}/{file.path.name} {fault}"
    if not files:
        return NO_PREDICTIONS
    if files[0].is_whole:
        return None
    if files[0].stop is not None:
        return find_gap(files)
    numbers = {file.number for file in files}
    # The last shard leaves no gap when it is lost; its task's log says that there was one.
    logs = root / "logs" / _LOG_FOLDERS["predictions"] / model
    started = [
        int(match.group(1))
        for path in logs.glob(f"{_escape(dataset)}_*.out")
        if (match := re.fullmatch(rf"{re.escape(dataset)}_(\d+)\.out", path.name))
    ]
    last = max([*(number for number in numbers if number is not None), *started])
    gaps = sorted(set(range(last + 1)) - numbers)
    return f"prediction shards {gaps} are missing" if gaps else None


@dataclass(frozen=True, kw_only=True)
class AnswerFile:
    """A file with answers of a cell: all of them, or those of a shard."""

    path: Path
    """``NAME.json``, or ``tmp_NAME.jsonl`` while it is unfinished."""
    start: int | None = None
    """First sample of a shard that is named by its samples."""
    stop: int | None = None
    """The sample after its last."""
    total: int | None = None
    """Samples of the whole data set."""
    number: int | None = None
    """Of a shard as OpenCompass names it, by its number: its samples are not known."""
    is_partial: bool = False
    """Whether inference is unfinished."""

    @property
    def is_whole(self) -> bool:
        """Whether it holds the whole data set, finished."""
        return self.stop is None and self.number is None and not self.is_partial


def shard_name(dataset: str, start: int, stop: int, total: int) -> str:
    """Return the name of a shard: that of the data set, with its samples, e.g. ``niah_0-4of10``."""
    return f"{dataset}_{start}-{stop}of{total}"


def split_shard_name(name: str) -> tuple[str, tuple[int, int, int] | None]:
    """Return the data set's name of a shard's, and start, stop, total; None for no such shard."""
    match = re.fullmatch(r"(.+)_(\d+)-(\d+)of(\d+)", name, re.DOTALL)
    if match is None:
        return name, None
    return match[1], (int(match[2]), int(match[3]), int(match[4]))


def is_part(name: str, dataset: str, datasets: Container[str] = ()) -> bool:
    """Tell whether a name is a data set's or that of a shard of it, of either way of naming.

    Args:
        name: Of a file or a record.
        dataset: The data set's.
        datasets: Names of data sets of the run; one such as ``NAME_4`` is no shard of ``NAME``.
    """
    head, _, number = name.rpartition("_")
    numbered = head == dataset and number.isdigit() and name not in datasets
    return name == dataset or numbered or split_shard_name(name)[0] == dataset


def find_answer_files(
    folder: Path, dataset: str, datasets: Container[str] = ()
) -> list[AnswerFile]:
    """Return the files that hold answers of a cell, shards in the order of their samples.

    Args:
        folder: predictions/MODEL of a run.
        dataset: The data set's abbreviation.
        datasets: As of `is_part`.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        partial = path.suffix == ".jsonl" and path.name.startswith("tmp_")
        if not (partial or path.suffix == ".json") or not path.is_file():
            continue
        stem = path.stem.removeprefix("tmp_") if partial else path.stem
        if not is_part(stem, dataset, datasets):
            continue
        _, samples = split_shard_name(stem)
        if stem == dataset:
            found.append(AnswerFile(path=path, is_partial=partial))
        elif samples is not None:
            start, stop, total = samples
            found.append(
                AnswerFile(path=path, start=start, stop=stop, total=total, is_partial=partial)
            )
        else:
            number = int(stem.rpartition("_")[2])
            found.append(AnswerFile(path=path, number=number, is_partial=partial))
    return sorted(found, key=lambda file: (file.start or 0, file.number or 0, file.path.name))


def find_finished(folder: Path, dataset: str, datasets: Container[str] = ()) -> list[AnswerFile]:
    """Return the files that make up a cell's answers: the whole one, else its shards in order.

    Args:
        folder: predictions/MODEL of a run.
        dataset: The data set's abbreviation.
        datasets: As of `is_part`.
    """
    files = [file for file in find_answer_files(folder, dataset, datasets) if not file.is_partial]
    whole = [file for file in files if file.is_whole]
    ranges = [file for file in files if file.stop is not None]
    return whole or ranges or files


def find_gap(shards: Sequence[AnswerFile]) -> str | None:
    """Say which samples no shard holds, or two; None if each is in one.

    Args:
        shards: Those named by their samples, in order; at least one.
    """
    totals = {shard.total for shard in shards}
    if len(totals) > 1:
        return f"its shards are of data sets of {sorted(map(str, totals))} samples"
    reached = 0
    for shard in shards:
        assert shard.start is not None, "shards here are named by their samples"
        if shard.start > reached:
            return f"samples {reached} to {shard.start - 1} are missing"
        if shard.start < reached:
            return f"sample {shard.start} is in two shards ({shard.path.name})"
        reached = shard.stop or 0
    (total,) = totals
    return f"samples {reached} to {total - 1} are missing" if reached != total else None  # type: ignore[operator]


def _result_fault(root: Path, model: str, dataset: str, datasets: Container[str]) -> str | None:
    """Say what is wrong with a result, or with the predictions that lie beside it, if any do."""
    content, fault = read_result(root / "results" / model / f"{dataset}.json")
    if not fault and not content:
        fault = "the result is empty"
    if not fault:
        fault = _predictions_fault(root, model, dataset, datasets) or ""
    return None if fault in ("", NO_PREDICTIONS) else fault


def _escape(name: str) -> str:
    """Escape what glob would take for a pattern."""
    return re.sub(r"([*?[])", r"[\1]", name)
