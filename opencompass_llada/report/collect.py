"""Several runs -> one tidy table with everything that tables, plots and the report need.

Reads files; averages nothing and draws nothing. A cell that is missing, failed or partial is a row
without a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from opencompass_llada.report.cells import CellFiles, read_cell
from opencompass_llada.report.curves import CurvePoint, read_curves
from opencompass_llada.report.frame import TidyRow
from opencompass_llada.report.identity import separate
from opencompass_llada.report.meaning import (
    describe_sampler,
    find_kind,
    generation_length,
    prompt_limit,
    template_hash,
)
from opencompass_llada.report.results import ResultRow, read_results
from opencompass_llada.report.runs import Run, find_runs
from opencompass_llada.report.safe_text import show_controls
from opencompass_llada.runs.exit_status import MissingCell, describe_missing, find_missing
from opencompass_llada.runs.hashes import find_tokenizer
from opencompass_llada.runs.provenance import (
    Provenance,
    describe_versions,
    last_time,
    read_provenance,
)
from opencompass_llada.runs.recorded_files import (
    dataset_name,
    is_part,
    model_name,
    split_shard_name,
)

SAMPLES_KEPT = 3
_NO_PREDICTIONS = "no predictions were written"


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Everything read from several runs."""

    runs: tuple[Run, ...]
    """The runs, in the order given; which number is the later one goes by recorded time."""
    rows: tuple[TidyRow, ...]
    """The tidy table."""
    cells: Mapping[tuple[str, str, str], CellFiles] = field(hash=False)
    """By run, model and data set."""
    curves: tuple[tuple[str, CurvePoint], ...]
    """Perplexity points with the entry that each belongs to."""
    provenance: Mapping[str, Provenance] = field(hash=False)
    """By run."""
    notes: tuple[str, ...]
    """What a reader has to know: what is missing, what was kept apart and why."""


def collect(work_dirs: Sequence[str | Path]) -> Collection:
    """Read the runs of several work directories.

    Args:
        work_dirs: See `runs.find_runs`.

    Raises:
        ValueError: If there is no run in one of them, or nothing but runs whose configs cannot be
            read.
    """
    runs = find_runs(work_dirs)
    if not any(run.pairs for run in runs):
        raise ValueError("; ".join(text for run in runs for text in run.damage))
    return collect_runs(runs)


def collect_runs(runs: Sequence[Run]) -> Collection:
    """Read runs that were found or made already.

    Args:
        runs: The runs; their names differ.
    """
    rows: list[TidyRow] = []
    cells: dict[tuple[str, str, str], CellFiles] = {}
    provenance, notes = {}, []
    for run in runs:
        records = read_provenance(run.path)
        provenance[run.name] = records
        found = {(name, data): cell for name, data, cell in _read_cells(run)}
        cells |= {(run.name, *key): cell for key, cell in found.items()}
        absent = find_missing(run.as_config(), run.path)
        rows += _read_rows(run, found, records, {(c.model, c.dataset): c for c in absent})
        notes += [f"{run.name}: {note}" for note in (*run.notes, *run.damage, *records.notes)]
        if absent:
            notes.append(f"{run.name}: {describe_missing(absent)}")
        notes += _describe_faulty(run, [row for row in rows if row.run == run.name], absent)
    started = {run.name: _find_time(run, provenance[run.name]) for run in runs}
    names = list(started)
    if all(started.values()):
        names.sort(key=lambda name: started[name])
    order = {name: place for place, name in enumerate(names)}
    checkpoints = {
        (name, model): str(record.get("checkpoint_hash") or "")
        for name, records in provenance.items()
        for model, record in records.models.items()
    }
    separated, remarks = separate(_name_counters(rows), order, checkpoints)
    return Collection(
        runs=tuple(runs),
        rows=tuple(separated),
        cells=cells,
        curves=tuple(_read_curves(runs, separated)),
        provenance=provenance,
        notes=(*notes, *describe_versions(provenance), *remarks),
    )


def _name_counters(rows: Sequence[TidyRow]) -> list[TidyRow]:
    """Call tokenizers of one content by one name, the first: tables and series go by the name."""
    names: dict[str, str | None] = {}
    for row in rows:
        if row.tokenizer_hash and row.tokenizer:
            names.setdefault(row.tokenizer_hash, row.tokenizer)
    return [
        replace(row, tokenizer=names[row.tokenizer_hash])
        if row.tokenizer and row.tokenizer_hash
        else row
        for row in rows
    ]


def _read_cells(run: Run) -> Iterator[tuple[str, str, CellFiles]]:
    for model, dataset in run.pairs:
        name, data = model_name(model), dataset_name(dataset)
        yield name, data, read_cell(run.path, name, data, SAMPLES_KEPT)


def _read_rows(
    run: Run,
    cells: Mapping[tuple[str, str], CellFiles],
    records: Provenance,
    absent: Mapping[tuple[str, str], MissingCell],
) -> Iterator[TidyRow]:
    """Yield a run's rows; the entry is the model's own name until `separate` says otherwise."""
    pairs = {(model_name(m), dataset_name(d)): (m, d) for m, d in run.pairs}
    facts = {entry.abbr: entry for entry in run.facts}
    for row in read_results(run.as_config(), run.path, run.facts):
        key = (row.model, row.dataset)
        (model, dataset), cell = pairs[key], cells[key]
        limits = records.models.get(row.model)
        yield TidyRow(
            **asdict(_judge(row, run, cell, absent.get(key), records)),
            run=run.name,
            entry=name_entry(row),
            checkpoint=name_weights(model),
            kind=find_kind(model, limits),
            sampler=describe_sampler(model),
            generation_length=generation_length(model, dataset),
            prompt_limit=prompt_limit(model),
            template_hash=template_hash(dataset),
            prompt_hash=cell.prompt_hash,
            tokenizer_hash=_hash_counter(row, model, records),
            data=str(dataset.get("path", "")),
            trained_length=facts[row.model].trained_length,
            recorded=_find_time(run, records, row.model, row.dataset),
        )


def _find_time(run: Run, records: Provenance, model: str = "", dataset: str = "") -> str:
    """Return when a cell's answers were made, or a run without one; '' where nothing says."""
    sources: list[list[Any]] = [
        [
            record.get("started")
            for (name, part), record in records.datasets.items()
            if name == model and is_part(part, dataset, run.datasets)
        ],
        [records.models.get(model, {}).get("started")],
        [record.get("started") for record in records.runs],
        [*(file.stem for file in run.config_files), run.path.resolve().name],
    ]
    return next((time for source in sources if (time := last_time(source))), "")


def _hash_counter(row: ResultRow, model: Mapping[str, Any], records: Provenance) -> str | None:
    """Hash what counts tokens; a perplexity is a token's of the model itself.

    Where the files are not on this machine, what a process recorded of that path stands for them.
    """
    counter = row.tokenizer
    if counter is None and row.benchmark == "perplexity":
        counter = str(model.get("tokenizer_path") or model.get("path"))
    if counter is None:
        return None
    if found := find_tokenizer(counter):
        return found[0]
    told = [entry for entry in records.models.values() if entry.get("path") == counter]
    if not told and row.tokenizer is None:
        told = [records.models.get(row.model, {})]
    return next((entry["tokenizer_hash"] for entry in told if entry.get("tokenizer_hash")), None)


def name_weights(model: Mapping[str, Any]) -> str:
    """Return where a model's weights are from: its path and the adapter merged into it, if any."""
    adapter = model.get("peft_path")
    return str(model.get("path", "")) + (f" + {adapter}" if adapter else "")


def name_entry(row: ResultRow) -> str:
    """Return the line of the leaderboard that a row belongs to: title and scaling."""
    return show_controls(row.title if row.scaling == "none" else f"{row.title}, {row.scaling}")


def _judge(
    row: ResultRow, run: Run, cell: CellFiles, absent: MissingCell | None, records: Provenance
) -> ResultRow:
    """Take the number from a row whose cell is not whole, and say why."""

    def without(status: str, reason: str) -> ResultRow:
        return replace(row, status=status, reason=reason, score=None, n=None, standard_error=None)

    if row.model in run.ambiguous:
        return without("failed", f"{row.model!r} is the abbr of more than one model of this run")
    lost = absent.reason if absent is not None and absent.stage == "predictions" else ""
    if lost and lost != _NO_PREDICTIONS:
        return without("partial", lost)
    if row.status != "ok":
        return replace(row, reason=lost or row.reason) if row.status == "missing" else row
    if cell.num_predictions is not None and row.benchmark != "perplexity":
        parts = {
            name: record
            for (model, name), record in records.datasets.items()
            if model == row.model and is_part(name, row.dataset, run.datasets)
        }
        expected = max(row.n or 0, _count_asked(row.dataset, parts))
        # A result of part of the samples (LongBench-E's buckets) has fewer than were asked.
        if cell.num_predictions < expected:
            reason = f"{cell.num_predictions} of {expected} predictions are left"
            return without("partial", reason)
    return row


def _count_asked(dataset: str, parts: Mapping[str, Mapping[str, Any]]) -> int:
    """Return how many samples a data set has, by the records of it and its shards.

    What was made again in other shards has records of both: only shards named by number add up.
    """
    numbered, known = 0, [0]
    for name, record in parts.items():
        samples, own = split_shard_name(name)[1], int(record.get("num_samples") or 0)
        if samples is not None:
            known.append(samples[2])
        elif name == dataset:
            known.append(own)
        else:
            numbered += own
    return max(numbered, *known)


def _describe_faulty(
    run: Run, rows: Sequence[TidyRow], absent: Sequence[MissingCell]
) -> Iterator[str]:
    said = {(cell.model, cell.dataset) for cell in absent}
    for row in rows:
        key = (row.model, row.dataset)
        if row.status != "ok" and key not in said and row.model not in run.ambiguous:
            said.add(key)
            yield f"{run.name}: {row.model} on {row.dataset}: {row.reason}"


def _read_curves(runs: Sequence[Run], rows: Sequence[TidyRow]) -> Iterator[tuple[str, CurvePoint]]:
    entries = {(row.run, row.model, row.dataset): row.entry for row in rows}
    statuses = {(row.run, row.model, row.dataset): row.status for row in rows}
    for run in runs:
        for point in read_curves(run.as_config(), run.path, run.facts):
            key = (run.name, point.model, point.dataset)
            if statuses.get(key) not in ("ok", None) and point.status == "ok":
                point = _without_numbers(point, statuses[key])
            yield entries.get(key, point.title), point


def _without_numbers(point: CurvePoint, status: str) -> CurvePoint:
    kept: Any = replace(
        point, status="missing", reason=f"the cell is {status}", perplexity=None,
        perplexity_low=None, perplexity_high=None, nll_per_token=None, standard_error=None,
        bits_per_byte=None,
    )  # fmt: skip
    return kept


def check_samples(scores: Sequence[float] | None, row: TidyRow) -> tuple[float, ...] | None:
    """Return a cell's scores by sample if they add up to its score, else None.

    Args:
        scores: From `CellFiles.scores`.
        row: The cell's row.
    """
    if not scores or row.score is None or len(scores) != row.n:
        return None
    # RULER rounds a score to two decimals.
    matches = math.isclose(math.fsum(scores) / len(scores), row.score, abs_tol=0.006)
    in_range = all(0 <= score <= 100 for score in scores)
    return tuple(scores) if matches and in_range else None
