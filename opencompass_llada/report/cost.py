"""Adds up what generating the answers took: seconds, forward passes, tokens a second, memory.

A benchmark of which a cell was not recorded has no totals. Seconds of tasks that ran side by side
are of a shared machine; what `timings` holds was measured alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opencompass_llada.report.collect import CellKey, Collection, key_of
from opencompass_llada.report.timings import Timing, find_timings, longest_alone
from opencompass_llada.runs.machine import OTHER_CORES


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One line's cost on one benchmark; totals are None where a cell was not recorded."""

    entry: str
    kind: str
    benchmark: str
    num_prompts: int | None = None  # samples answered
    seconds: float | None = None  # in the model, of all samples
    seconds_per_sample: float | None = None
    nfe_per_sample: float | None = None  # forward passes until an answer was complete, mean
    num_batch_passes: int | None = None  # forward passes of batches: the model's calls
    num_generated_tokens: int | None = None  # asked for; prompts are not counted
    tokens_per_second: float | None = None  # generated ones, of the model's time
    is_shared: bool = (
        True  # unless every task is known to have run alone, seconds are the machine's
    )
    timed: Timing | None = None  # the longest cell that was measured alone
    peak_memory_bytes: int | None = None  # most on the GPUs; on a CPU, of the whole process
    device: str  # several, if runs differ
    reason: str = ""  # why totals are missing

    @property
    def peak_memory_gib(self) -> float | None:
        """The peak in GiB."""
        return self.peak_memory_bytes and self.peak_memory_bytes / 2**30


def find_costs(collection: Collection) -> list[Cost]:
    """Add up the records of each line on each benchmark that generates text."""
    generated = collection.results[collection.results.benchmark != "perplexity"]
    groups = generated.groupby(["entry", "kind", "benchmark"], sort=False)
    timings = find_timings(collection)
    return [
        replace(
            _add_up(collection, names, list(dict.fromkeys(map(key_of, rows.itertuples())))),
            timed=longest_alone(timings, names[0], names[2]),
        )
        for names, rows in groups
    ]


def _add_up(collection: Collection, names: tuple[str, str, str], cells: Sequence[CellKey]) -> Cost:
    runs = {run.name: run for run in collection.runs}
    records: list[Mapping[str, Any]] = []
    devices, num_recorded = [], 0
    for run, model, dataset in cells:
        known = collection.provenance[run]
        own = known.of_cell(model, dataset, runs[run].datasets).values()
        records += own
        num_recorded += bool(own)
        devices.append(str((known.models.get(model) or {}).get("device") or ""))
    entry, kind, benchmark = names
    device = ", ".join(filter(None, dict.fromkeys(devices)))
    cost = Cost(entry=entry, kind=kind, benchmark=benchmark, device=device)
    # Others of a resumed cell's samples were answered before; none is generated to score a text.
    counts = [(own.get("num_prompts") or 0, own.get("num_samples") or 0) for own in records]
    if resumed := sum(0 < prompts < samples for prompts, samples in counts):
        reason = f"{resumed} records are of resumed cells and count the last part alone"
        return replace(cost, reason=reason)
    if num_recorded < len(cells):
        return replace(cost, reason=f"{num_recorded} of {len(cells)} cells are recorded")
    peaks = [record.get("peak_memory_bytes") for record in records]
    if None not in peaks:
        cost = replace(cost, peak_memory_bytes=max(filter(None, peaks), default=0))
    prompts, seconds = _total(records, "num_prompts"), _total(records, "seconds")
    if not prompts or not seconds:  # where nothing was counted, that is no cost of 0
        reason = "nothing is counted: texts are scored, or the model is of another wrapper"
        return replace(cost, reason=reason)
    tokens = _total(records, "num_generated_tokens")
    batch_passes = _total(records, "num_batch_passes")
    # Records without them are of versions whose passes were the batches'.
    passes = None if batch_passes is None else _total(records, "num_forward_passes")
    return replace(
        cost,
        num_prompts=int(prompts),
        is_shared=not all(map(_was_alone, records)),
        seconds=seconds,
        seconds_per_sample=seconds / prompts,
        nfe_per_sample=None if passes is None else passes / prompts,
        num_batch_passes=None if batch_passes is None else int(batch_passes),
        num_generated_tokens=None if tokens is None else int(tokens),
        tokens_per_second=tokens / seconds if tokens else None,
        reason="recorded before passes were counted by sample" if passes is None else "",
    )


def _was_alone(record: Mapping[str, Any]) -> bool:
    """Tell whether nothing else is known to have run: neither a task beside it nor others'."""
    others = record.get("other_cores")
    return record.get("tasks_at_a_time") == 1 and others is not None and others < OTHER_CORES


def _total(records: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the sum, None if a record lacks the number."""
    values = [record.get(name) for record in records]
    known = [float(value) for value in values if isinstance(value, int | float)]
    return sum(known) if len(known) == len(values) else None
