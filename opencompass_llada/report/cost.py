"""What generating the answers took: seconds, forward passes, generated tokens a second, memory.

Adds up the records of `provenance`. A benchmark of which a cell was not recorded has no totals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencompass_llada.report.collect import Collection
from opencompass_llada.runs.recorded_files import is_part


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One line's cost on one benchmark."""

    entry: str
    """Line of the leaderboard."""
    kind: str
    """``diffusion``, ``autoregressive`` or ``unknown``."""
    benchmark: str
    """As in the data set configs."""
    num_cells: int
    """Data sets."""
    num_recorded: int
    """Those with a record."""
    num_prompts: int | None
    """Samples answered."""
    seconds: float | None
    """Time in the model, of all samples."""
    seconds_per_sample: float | None
    """Mean."""
    nfe_per_sample: float | None
    """Forward passes that a sample went through until its answer was complete, mean."""
    num_batch_passes: int | None
    """Forward passes of batches: the model's calls."""
    num_generated_tokens: int | None
    """Asked for; prompts are not counted."""
    tokens_per_second: float | None
    """Generated tokens a second of the model's time."""
    peak_memory_bytes: int | None
    """Most on the GPUs; on a CPU, of the whole process."""
    device: str
    """Where it ran; several, if runs differ."""
    reason: str
    """Why totals are missing."""


def find_costs(collection: Collection) -> list[Cost]:
    """Add up the records of each line on each benchmark that generates text.

    Args:
        collection: From `collect`.
    """
    cells: dict[tuple[str, str, str], dict[tuple[str, str, str], None]] = {}
    for row in collection.rows:
        if row.benchmark != "perplexity":
            key = (row.entry, row.kind, row.benchmark)
            cells.setdefault(key, {})[row.run, row.model, row.dataset] = None
    return [
        _add_up(collection, entry, kind, benchmark, list(members))
        for (entry, kind, benchmark), members in cells.items()
    ]


def _add_up(
    collection: Collection,
    entry: str,
    kind: str,
    benchmark: str,
    members: Sequence[tuple[str, str, str]],
) -> Cost:
    records: list[dict[str, Any]] = []
    recorded, devices = 0, []
    datasets = {run.name: run.datasets for run in collection.runs}
    for run, model, dataset in members:
        known = collection.provenance[run]
        parts = [
            dict(record)
            for (name, data), record in known.datasets.items()
            if name == model and is_part(data, dataset, datasets[run])
        ]
        recorded += bool(parts)
        records += parts
        device = (known.models.get(model) or {}).get("device")
        if device and device not in devices:
            devices.append(str(device))
    resumed = sum(map(_is_of_part, records))
    whole = recorded == len(members) and bool(records) and not resumed
    prompts = _total(records, "num_prompts") if whole else None
    seconds = _total(records, "seconds") if whole else None
    tokens = _total(records, "num_generated_tokens") if whole else None
    batch_passes = _total(records, "num_batch_passes") if whole else None
    # Records without them are of versions whose passes were the batches'.
    passes = None if batch_passes is None else _total(records, "num_forward_passes")
    peaks = [record.get("peak_memory_bytes") for record in records]
    measured = bool(prompts and seconds)
    if not measured:  # nothing was counted, which is no cost of 0
        prompts = seconds = tokens = passes = batch_passes = None
    reason = "" if whole else f"{recorded} of {len(members)} cells are recorded"
    if resumed:
        reason = f"{resumed} records are of resumed cells and count the last part alone"
    if whole and passes is None:
        reason = "recorded before passes were counted by sample"
    if whole and not measured:
        reason = "nothing is counted: texts are scored, or the model is of another wrapper"
    return Cost(
        entry=entry,
        kind=kind,
        benchmark=benchmark,
        num_cells=len(members),
        num_recorded=recorded,
        num_prompts=int(prompts) if prompts is not None else None,
        seconds=seconds,
        seconds_per_sample=seconds / prompts if seconds and prompts else None,
        nfe_per_sample=passes / prompts if passes is not None and prompts else None,
        num_batch_passes=int(batch_passes) if batch_passes is not None else None,
        num_generated_tokens=int(tokens) if tokens is not None else None,
        tokens_per_second=tokens / seconds if tokens and seconds else None,
        peak_memory_bytes=max(peaks) if whole and peaks and None not in peaks else None,  # type: ignore[type-var]
        device=", ".join(devices),
        reason=reason,
    )


def _is_of_part(record: Mapping[str, Any]) -> bool:
    """Tell whether a process answered some samples of a cell only: the rest is of an earlier one.

    A record without prompts is of a data set that is scored and not generated for.
    """
    return 0 < (record.get("num_prompts") or 0) < (record.get("num_samples") or 0)


def _total(records: Sequence[dict[str, Any]], name: str) -> float | None:
    """Return the sum, None if a record lacks the number."""
    values = [record.get(name) for record in records]
    known = [float(value) for value in values if isinstance(value, int | float)]
    return sum(known) if len(known) == len(values) else None
