"""Tells how far a run is: one line a model and benchmark, with the expected end.

Looks at the files that tasks leave while they run; starts and stops nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.benchmark import benchmark_of
from opencompass_llada.files import left_lock
from opencompass_llada.runs.provenance import read_provenance
from opencompass_llada.runs.recorded_files import (
    dataset_name,
    find_answer_files,
    find_finished,
    find_gap,
    model_name,
)
from opencompass_llada.runs.run_folder import RunFolder, find_runs


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """One model on one benchmark."""

    model: str
    benchmark: str
    num_cells: int
    num_answered: int  # with all predictions
    num_scored: int  # with a result
    share: float  # of the work that is answered, 0 to 1; a cell counts by its length in tokens
    last_change: datetime | None  # of its files
    expected_end: datetime | None  # of inference; None before the first answer and after the last

    @property
    def is_done(self) -> bool:
        """Whether every cell has a result."""
        return self.num_scored == self.num_cells

    def describe(self, now: datetime, width: int = 0) -> str:
        """Return the line, the model's name in ``width`` characters."""
        parts = [
            f"{self.model:<{width}} {self.benchmark:<14} {100 * self.share:4.0f} %",
            f"{self.num_answered}/{self.num_cells} answered, {self.num_scored} scored",
        ]
        if self.is_done:
            parts.append("done")
        elif self.expected_end is not None:
            left = write_span(self.expected_end - now)
            parts.append(f"end about {write_time(self.expected_end, now)} ({left})")
        else:
            parts.append("being scored" if self.share >= 1 else "waiting")
        if self.last_change is not None and not self.is_done:
            parts.append(f"last change {write_span(now - self.last_change)} ago")
        return "  ".join(parts)


@dataclass(frozen=True, kw_only=True)
class RunTotals:
    """A whole run."""

    num_cells: int
    num_answered: int  # cells with all predictions
    num_samples: int  # answers
    share: float  # of the work that is answered, 0 to 1; a cell counts by its length in tokens


def read_totals(run: RunFolder) -> RunTotals:
    """Look at a run's files; a data set without a length counts as the mean of the others."""
    stated = [float(own["length"]) for _, own in run.pairs if own.get("length")]
    mean = sum(stated) / len(stated) if stated else 1.0
    done = total = 0.0
    answered = samples = 0
    for model, dataset in run.pairs:
        share, files = _answered_share(run.path / "predictions" / model_name(model), dataset)
        length = float(dataset.get("length") or mean)
        done, total = done + share * length, total + length
        answered += share >= 1
        samples += sum(map(_count, files))
    return RunTotals(
        num_cells=len(run.pairs),
        num_answered=answered,
        num_samples=samples,
        share=done / total if total else 1.0,
    )


def read_progress(run: RunFolder, now: datetime) -> list[RunProgress]:
    """Look at a run's files.

    The expected end takes a benchmark's pace so far, from its first data set's start to its last
    answer, for what is left of it. It is wrong by as much as time does not go with length, and
    where other models share the machine. ``now`` is the machine's time.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for model, dataset in run.pairs:
        groups.setdefault((model_name(model), benchmark_of(dataset).name), []).append(dataset)
    starts = {
        key: datetime.fromisoformat(str(record["started"])).astimezone().replace(tzinfo=None)
        for key, record in read_provenance(run.path).datasets.items()
        if "started" in record
    }
    return [
        _look(run.path, model, benchmark, datasets, starts, now)
        for (model, benchmark), datasets in groups.items()
    ]


def _look(
    root: Path,
    model: str,
    benchmark: str,
    datasets: Sequence[Mapping[str, Any]],
    starts: Mapping[tuple[str, str], datetime],
    now: datetime,
) -> RunProgress:
    names = [dataset_name(dataset) for dataset in datasets]
    answered = [_answered_share(root / "predictions" / model, own) for own in datasets]
    scored = [file for name in names if (file := root / f"results/{model}/{name}.json").is_file()]
    files = [*scored, *(file for _, own in answered for file in own)]
    changes = [datetime.fromtimestamp(file.stat().st_mtime) for file in files]
    lengths = [float(dataset.get("length") or 1) for dataset in datasets]
    done = sum(length * own for length, (own, _) in zip(lengths, answered, strict=True))
    share = done / sum(lengths)
    last = max(changes, default=None)
    begun = [starts[model, name] for name in names if (model, name) in starts]
    start = min([*begun, *(time for time in changes if time <= now)], default=None)
    end = None
    if 0 < share < 1 and start is not None and last is not None and last > start:
        end = now + (last - start) * ((1 - share) / share)
    return RunProgress(
        model=model,
        benchmark=benchmark,
        num_cells=len(datasets),
        num_answered=sum(own >= 1 for own, _ in answered),
        num_scored=len(scored),
        share=share,
        last_change=last,
        expected_end=end,
    )


def _answered_share(folder: Path, dataset: Mapping[str, Any]) -> tuple[float, list[Path]]:
    """Return which share of a data set is answered, and the files that hold it."""
    name = dataset_name(dataset)
    whole = folder / f"{name}.json"
    if whole.is_file():
        return 1.0, [whole]
    found = find_answer_files(folder, name)
    files = [file.path for file in found]
    finished = find_finished(folder, name)
    if finished and finished[0].samples is not None and find_gap(finished) is None:
        return 1.0, files
    expected = dataset.get("num_samples") or dataset.get("num_repeats_per_file")
    share = sum(map(_count, files)) / expected if expected else 0.0
    return (1.0 if share >= 1 and not any(f.is_partial for f in found) else min(share, 0.99)), files


def _count(path: Path) -> int:
    """Return the answers in a file, finished or not; 0 if it has just been renamed."""
    try:
        return path.read_bytes().count(b"\n" if path.suffix == ".jsonl" else b'"prediction"')
    except FileNotFoundError:
        return 0


def write_time(end: datetime, now: datetime) -> str:
    """Return the time of day, with the date where it is another day."""
    return f"{end:%H:%M}" if end.date() == now.date() else f"{end:%Y-%m-%d %H:%M}"


def write_span(length: timedelta) -> str:
    """Return a length of time in its two largest units."""
    seconds = max(0, round(length.total_seconds()))
    for size, unit, below, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // below} {lower}"
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


def describe_left(owner: Mapping[str, Any]) -> str:
    """Say of a run whose lock its driver has left that it was killed, and what to do."""
    doing = owner.get("doing") or "a run"
    return (
        f"The driver of {doing}, process {owner['pid']} on {owner['host']}, was killed: it has "
        "left its lock. Its tasks and Slurm jobs end with it; logs/ says how far they were. Go on "
        "with -r."
    )


def run_watch(work_dir: str | Path, every: float, *, once: bool) -> int:
    """Show progress until everything is scored, or once; return 1 where the driver was killed.

    Raises:
        ValueError: If there is no run, or no time between two looks.
    """
    if not 0 < every < float("inf"):
        raise ValueError(f"--every {every} must be above 0")
    while True:
        run, now = find_runs([work_dir])[-1], datetime.now()
        lines = read_progress(run, now)
        width = max((len(line.model) for line in lines), default=0)
        text = "".join(f"{line.describe(now, width)}\n" for line in lines)
        clear = "\033[2J\033[H" if sys.stdout.isatty() and not once else ""
        left = left_lock(run.path)
        killed = f"{describe_left(left)}\n" if left else ""
        sys.stdout.write(f"{clear}{run.name}, {now:%H:%M:%S}\n{text}{killed}")
        sys.stdout.flush()
        if left:
            return 1
        if once or all(line.is_done for line in lines):
            return 0
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            return 0
