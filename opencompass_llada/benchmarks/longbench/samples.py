"""Reads LongBench's published rows, and checks each.

The files are read as they are (``data/TASK.jsonl``, ``data/TASK_e.jsonl``, or ``data.zip`` with
both, as on the hub); no loader script is run. Writes no prompts.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from opencompass_llada.benchmarks.data_files import (
    MissingDataError,
    find_data,
    parse_json_lines,
    take,
)
from opencompass_llada.benchmarks.longbench.facts import LongBenchTask, list_tasks
from opencompass_llada.benchmarks.longbench.v2 import read_rows as read_v2_rows

logger = logging.getLogger(__name__)

DEFAULT_PATH = "opencompass/Longbench"
HOW_TO_GET = (
    "Set COMPASS_DATA_CACHE to the folder whose data/Longbench/data holds LongBench's jsonl files "
    "(data.zip of THUDM/LongBench on the Hugging Face hub, unpacked or as it is in data/Longbench; "
    "DATASET_SOURCE=HF downloads it), give the folder itself as path=..., or use the sample set: "
    "path='asset:longbench' (LLADA_DATA=embedded for the shipped configs)."
)


@dataclass(frozen=True, kw_only=True)
class LongBenchRow:
    """One line of a file."""

    context: str
    question: str
    """The row's ``input``; empty for tasks that only have a context."""
    answers: tuple[str, ...]
    """All gold answers."""
    length: int
    """Words (English, code) or characters (Chinese) of the first three."""
    classes: tuple[str, ...]
    """All classes of a classification task, else empty."""


def read_rows(path: str, task: LongBenchTask, benchmark: str) -> list[LongBenchRow]:
    """Read all rows of a task, and warn where there are fewer or more than published.

    Args:
        path: LongBench's folder: ``asset:NAME``, a folder, or ``opencompass/Longbench``.
        task: Which task.
        benchmark: ``longbench`` or ``longbench_e``.

    Raises:
        MissingDataError: If the folder or the file is not there.
        ValueError: If a line is not a row; names file and line.
    """
    folder = find_data(path, benchmark="LongBench", how_to_get=HOW_TO_GET)
    name = task.name + ("_e" if benchmark == "longbench_e" else "")
    with _open_file(folder, f"{name}.jsonl") as (lines, shown_name):
        rows = [_parse_row(row, task, where) for where, row in parse_json_lines(lines, shown_name)]
    if not rows:
        raise ValueError(f"{shown_name} holds no rows. {HOW_TO_GET}")
    published = task.num_samples if benchmark == "longbench" else sum(task.bucket_samples)
    if len(rows) != published and not path.startswith("asset:"):
        logger.warning(
            "%s holds %d rows and %d are published: scores are of these rows only.",
            shown_name,
            len(rows),
            published,
        )
    return rows


@contextmanager
def _open_file(folder: Path, name: str) -> Iterator[tuple[IO[str], str]]:
    """Open a data file in the folder, its data/ or its data.zip; yields its full name besides."""
    for path in (folder / "data" / name, folder / name):
        if path.is_file():
            # Lines end at \n only: other separators stand inside texts.
            with path.open(encoding="utf-8-sig", newline="\n") as lines:
                yield lines, str(path)
            return
    archive = folder / "data.zip"
    if archive.is_file():
        if not zipfile.is_zipfile(archive):
            raise ValueError(f"{archive} is no zip archive; it is damaged. Fetch it again.")
        with zipfile.ZipFile(archive) as files:
            if f"data/{name}" in files.namelist():
                with files.open(f"data/{name}") as raw:
                    yield io.TextIOWrapper(raw, "utf-8-sig", newline="\n"), f"{archive}/data/{name}"
                return
    present = sorted(
        {path.stem for path in [*folder.glob("data/*.jsonl"), *folder.glob("*.jsonl")]}
    )
    raise MissingDataError(
        f"LongBench's file {name!r} is not in {folder}, its data/ or its data.zip (tasks there: "
        f"{', '.join(present) or 'none'}). {HOW_TO_GET}",
        "longbench",
    )


def _parse_row(row: Mapping[str, Any], task: LongBenchTask, where: str) -> LongBenchRow:
    context, question = take(row, "context", where), take(row, "input", where)
    answers = take(row, "answers", where, Sequence[str])
    length = take(row, "length", where, int)
    classes = take({"all_classes": None, **row}, "all_classes", where, Sequence[str] | None) or ()
    if not answers:
        raise ValueError(
            f"{where}: answers={row['answers']!r} must be a list of at least one text."
        )
    if task.metric == "classification" and not classes:
        raise ValueError(f"{where}: a row of {task.name} must name its classes in all_classes.")
    return LongBenchRow(
        context=context, question=question, answers=answers, length=length, classes=classes
    )


def check_data_sets(configs: Sequence[Mapping[str, Any]]) -> None:
    """Read the rows of data set configs of any of LongBench's benchmarks, and forget them.

    OpenCompass itself loads the model first and reads the data after it.

    Raises:
        ValueError: As `read_rows` and `v2.read_rows`.
    """
    for config in configs:
        if config["benchmark"] == "longbench_v2":
            read_v2_rows(config["path"])
        else:
            (task,) = list_tasks(config["benchmark"], [config["task"]])
            read_rows(config["path"], task, config["benchmark"])
