"""Adds up what generating the answers took: seconds, forward passes, tokens a second, memory.

A benchmark of which a cell was not recorded has no totals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencompass_llada.report.collect import CellKey, Collection, key_of


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One line's cost on one benchmark; numbers are None where a cell was not recorded."""

    entry: str
    kind: str
    benchmark: str
    num_prompts: int | None  # samples answered
    seconds: float | None  # in the model, of all samples
    seconds_per_sample: float | None
    nfe_per_sample: float | None  # forward passes until a sample's answer was complete, mean
    num_batch_passes: int | None  # forward passes of batches: the model's calls
    num_generated_tokens: int | None  # asked for; prompts are not counted
    tokens_per_second: float | None  # generated ones, of the model's time
    peak_memory_bytes: int | None  # most on the GPUs; on a CPU, of the whole process
    device: str  # several, if runs differ
    reason: str  # why totals are missing


def find_costs(collection: Collection) -> list[Cost]:
    """Add up the records of each line on each benchmark that generates text."""
    generated = collection.results[collection.results.benchmark != "perplexity"]
    groups = generated.groupby(["entry", "kind", "benchmark"], sort=False)
    return [
        _add_up(collection, names, list(dict.fromkeys(map(key_of, rows.itertuples()))))
        for names, rows in groups
    ]


def _add_up(collection: Collection, names: tuple[str, str, str], cells: Sequence[CellKey]) -> Cost:
    runs = {run.name: run for run in collection.runs}
    found, devices = [], []
    for run, model, dataset in cells:
        known = collection.provenance[run]
        found.append(list(known.of_cell(model, dataset, runs[run].datasets).values()))
        devices.append(str((known.models.get(model) or {}).get("device") or ""))
    records = [record for of_cell in found for record in of_cell]
    num_recorded, resumed = sum(map(bool, found)), sum(map(_is_of_part, records))
    whole = num_recorded == len(cells) and bool(records) and not resumed
    prompts = _total(records, "num_prompts") if whole else None
    seconds = _total(records, "seconds") if whole else None
    measured = bool(prompts and seconds)  # where nothing was counted, that is no cost of 0
    tokens = _total(records, "num_generated_tokens") if measured else None
    batch_passes = _total(records, "num_batch_passes") if measured else None
    # Records without them are of versions whose passes were the batches'.
    passes = None if batch_passes is None else _total(records, "num_forward_passes")
    peaks = [record.get("peak_memory_bytes") for record in records]
    reason = ""
    if resumed:
        reason = f"{resumed} records are of resumed cells and count the last part alone"
    elif not whole:
        reason = f"{num_recorded} of {len(cells)} cells are recorded"
    elif not measured:
        reason = "nothing is counted: texts are scored, or the model is of another wrapper"
    elif passes is None:
        reason = "recorded before passes were counted by sample"
    return Cost(
        entry=names[0],
        kind=names[1],
        benchmark=names[2],
        num_prompts=int(prompts) if prompts and measured else None,
        seconds=seconds if measured else None,
        seconds_per_sample=seconds / prompts if seconds and prompts else None,
        nfe_per_sample=passes / prompts if passes is not None and prompts else None,
        num_batch_passes=None if batch_passes is None else int(batch_passes),
        num_generated_tokens=None if tokens is None else int(tokens),
        tokens_per_second=tokens / seconds if tokens and seconds else None,
        peak_memory_bytes=max(peaks) if whole and peaks and None not in peaks else None,  # type: ignore[type-var]
        device=", ".join(filter(None, dict.fromkeys(devices))),
        reason=reason,
    )


def _is_of_part(record: Mapping[str, Any]) -> bool:
    """Tell whether a process answered some samples of a cell only: the rest is of an earlier one.

    A record without prompts is of a data set that is scored and not generated for.
    """
    return 0 < (record.get("num_prompts") or 0) < (record.get("num_samples") or 0)


def _total(records: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the sum, None if a record lacks the number."""
    values = [record.get(name) for record in records]
    known = [float(value) for value in values if isinstance(value, int | float)]
    return sum(known) if len(known) == len(values) else None
