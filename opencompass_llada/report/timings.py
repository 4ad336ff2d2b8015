"""Reads the seconds that ``opencompass-llada time`` measured (`runs.timing`) as lines of a table.

A cell whose answers were made again since then has no timing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from opencompass_llada.report.collect import Collection
from opencompass_llada.report.results import finite
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.timing import FILE


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What answering one sample of a cell takes, one sample at a time."""

    entry: str
    benchmark: str
    length: int | None
    seconds: float  # median
    low: float  # quartiles
    high: float
    num_times: int  # samples times rounds
    cpu_seconds: float  # median, of all cores
    passes: float  # mean
    tokens_per_second: float
    joules: float | None  # mean; of the card, where it tells
    peak_memory_bytes: int | None  # of the card
    load_seconds: float  # median
    first_call_seconds: float  # median, with what is compiled
    device: str
    machine: str  # the device with the platform and its cores: seconds of one are compared
    is_alone: bool
    other_cores: float | None  # that other processes kept busy meanwhile


def find_timings(collection: Collection) -> list[Timing]:
    """Return the timings of all runs in the order of their files."""
    rows = {(row.run, row.model, row.dataset): row for row in collection.rows}
    found = []
    for run in collection.runs:
        content, fault = (
            recorded.read_object(run.path / FILE, run.path)
            if (run.path / FILE).is_file()
            else ({}, "")
        )
        for cell in () if fault else content.get("cells") or ():
            row = rows.get((run.name, cell.get("model"), cell.get("dataset")))
            if row is not None and _is_of(cell, run.path):
                found.append(_read(row, cell, content))
    return [timing for timing in found if timing is not None]


def _is_of(cell: Mapping[str, Any], run_path: Path) -> bool:
    """Tell whether a cell's answers are still those that were timed."""
    now = recorded.describe_predictions(run_path, str(cell["model"]), str(cell["dataset"]))
    return cell.get("answers") == now


def _read(row: Any, cell: Mapping[str, Any], timing: Mapping[str, Any]) -> Timing | None:
    model = (timing.get("models") or {}).get(cell["model"]) or {}
    series: list[Any] = [cell.get(name) for name in ("seconds", "cpu_seconds", "passes", "tokens")]
    series += [model.get(name) for name in ("load_seconds", "first_call_seconds")]
    if not all(_are_numbers(values) for values in series):
        return None
    seconds, cpu, passes, tokens, load, first = (list(map(float, values)) for values in series)
    joules: Any = cell.get("joules")
    device = str(model.get("device") or "not recorded")
    low, median, high = numpy.percentile(seconds, [25, 50, 75])
    return Timing(
        entry=row.entry,
        benchmark=row.benchmark,
        length=row.length,
        seconds=float(median),
        low=float(low),
        high=float(high),
        num_times=len(seconds),
        cpu_seconds=float(numpy.median(cpu)),
        passes=float(numpy.mean(passes)),
        tokens_per_second=sum(tokens) / sum(seconds),
        joules=float(numpy.mean(joules)) if _are_numbers(joules) else None,
        peak_memory_bytes=cell.get("peak_memory_bytes"),
        load_seconds=float(numpy.median(load)),
        first_call_seconds=float(numpy.median(first)),
        device=device,
        machine=f"{device}, {timing.get('platform')}, {timing.get('num_cores')} cores",
        is_alone=timing.get("is_alone") is True,
        other_cores=finite(timing.get("other_cores")),
    )


def _are_numbers(values: Sequence[Any] | None) -> bool:
    return bool(values) and all(finite(value) is not None for value in values or ())


def longest_alone(timings: Sequence[Timing], entry: str, benchmark: str) -> Timing | None:
    """Return a line's timing at the longest length that was timed alone."""
    own = [t for t in timings if (t.entry, t.benchmark, t.is_alone) == (entry, benchmark, True)]
    return max(own, key=lambda timing: timing.length or 0, default=None)
