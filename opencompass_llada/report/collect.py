"""Reads several runs into one frame of results, with everything that a report needs.

Averages nothing and draws nothing. A cell that is missing, failed or partial is a row without a
number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas

from opencompass_llada.files import replacing
from opencompass_llada.report.curves import CURVE_COLUMNS, read_curves
from opencompass_llada.report.identity import describe_protocol, find_kind, separate
from opencompass_llada.report.results import (
    COLUMNS,
    CellFiles,
    Row,
    make_frame,
    read_cell,
    read_cell_rows,
    reader_of,
)
from opencompass_llada.report.writers import show_controls
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.checkpoints import cut_paths
from opencompass_llada.runs.exit_status import MissingCell, describe_missing, find_missing
from opencompass_llada.runs.hashes import find_tokenizer
from opencompass_llada.runs.provenance import (
    Provenance,
    describe_versions,
    last_time,
    read_provenance,
)
from opencompass_llada.runs.run_folder import Config, RunFolder, find_runs

#: The tidy table: a run's own columns, where a result comes from, what makes it comparable.
TIDY_COLUMNS = {
    **COLUMNS,
    "run": "string",
    "entry": "string",  # line of the leaderboard: model and scaling, and what tells it from others
    "checkpoint": "string",  # the model's path, and the adapter's besides where there is one
    "kind": "string",  # ``diffusion``, ``autoregressive`` or ``unknown``
    "sampler": "string",
    "dtype": "string",  # precision, where the config says; empty for the checkpoint's
    "generation_length": "int64",  # tokens, where the config says
    "prompt_limit": "string",  # max_seq_len and truncation; empty for nothing
    "template_hash": "string",
    "prompt_hash": "string",  # of the prompts, in order; None where no predictions are left
    "tokenizer_hash": "string",  # of what counts lengths, where its files are at hand
    "data": "string",  # the data set's path in the config
    "trained_length": "int64",  # tokens that the model was trained on, where known
    "recorded": "string",  # when the answers were made, ISO 8601 in UTC; empty where nothing says
}
#: What averages need besides: each sample's score and what it depends on, and what chance and the
#: solver have on the same samples; None where not recorded.
SAMPLE_COLUMNS = ("sample_scores", "units", "bounds")
READING_COLUMNS = (*TIDY_COLUMNS, *SAMPLE_COLUMNS, "reader", "window")
#: What a perplexity point loses where its cell is not whole.
CURVE_NUMBERS = ("perplexity", "perplexity_low", "perplexity_high", "nll_per_token",
                 "standard_error", "bits_per_byte")  # fmt: skip
CellKey = tuple[str, str, str]  # names of run, model and data set
CELL_KEY = ["run", "model", "dataset"]  # the columns of it
NUM_SAMPLES = 3
FEW_DRAWS = 16


def key_of(row: Any) -> CellKey:
    """Return what tells the cell of a row of the results from all others."""
    return row.run, row.model, row.dataset


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Everything read from several runs."""

    runs: tuple[RunFolder, ...]  # as given; which number is the later one goes by recorded time
    #: Of `TIDY_COLUMNS` and `SAMPLE_COLUMNS`, one row a model, data set and metric.
    results: pandas.DataFrame = field(hash=False)
    cells: Mapping[CellKey, CellFiles] = field(hash=False)
    #: Rows of the cells that were run otherwise, with the ``setting`` of each (`robustness`).
    variants: pandas.DataFrame = field(hash=False)
    #: Rows of the cells in which a model was shown less, with ``reader`` and ``window`` (`floors`).
    readings: pandas.DataFrame = field(hash=False)
    curves: pandas.DataFrame = field(hash=False)  # perplexities with the entry of each
    provenance: Mapping[str, Provenance] = field(hash=False)  # by run
    notes: tuple[str, ...]  # what to know: what is missing, what was kept apart and why

    @property
    def rows(self) -> list[Any]:
        """The rows of the results, with a column an attribute."""
        return list(self.results.itertuples())

    def write_parquet(self, path: Path) -> Path:
        """Write the tidy table with a type for every column even if all of it is missing."""
        import pyarrow

        kinds = {"string": pyarrow.string(), "int64": pyarrow.int64(), "float64": pyarrow.float64()}
        schema = pyarrow.schema([(name, kinds[kind]) for name, kind in TIDY_COLUMNS.items()])
        with replacing(path) as temporary:
            self.results[[*TIDY_COLUMNS]].to_parquet(temporary, schema=schema, index=False)
        return path


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Results of another program, in the form of a run's."""

    run: RunFolder  # without any pairs
    rows: tuple[Row, ...] = field(hash=False)  # of `TIDY_COLUMNS` and `SAMPLE_COLUMNS`
    cells: Mapping[CellKey, CellFiles] = field(hash=False)
    provenance: Provenance = field(hash=False)


def collect(work_dirs: Sequence[str | Path], imported: Sequence[Imported] = ()) -> Collection:
    """Read the runs of several work directories (see `run_folder.find_runs`).

    Raises:
        ValueError: If there is no run in one of them, or none whose configs can be read.
    """
    runs = find_runs(work_dirs)
    if not any(run.pairs for run in runs):
        raise ValueError("; ".join(text for run in runs for text in run.damage))
    return collect_runs(runs, imported)


def collect_runs(runs: Sequence[RunFolder], imported: Sequence[Imported] = ()) -> Collection:
    """Read runs that were found or made already, with others' results; their names differ."""
    rows: list[Row] = []
    cells: dict[CellKey, CellFiles] = {}
    provenance: dict[str, Provenance] = {}
    notes: list[str] = []
    for run in runs:
        records = provenance[run.name] = read_provenance(run.path)
        absent = find_missing(run.as_config(), run.path)
        own: list[Row] = []
        for model, dataset in run.pairs:
            key = (run.name, recorded.model_name(model), recorded.dataset_name(dataset))
            cells[key] = read_cell(run.path, *key[1:], NUM_SAMPLES)
            for row in _read_rows(run, model, dataset, cells[key], records, absent):
                row |= {"reader": reader_of(dataset), "window": dataset.get("window")}
                own.append({**row, "setting": str(dataset.get("setting") or "")})
        rows += own
        notes += [f"{run.name}: {note}" for note in (*run.notes, *run.damage, *records.notes)]
        if absent:
            notes.append(f"{run.name}: {describe_missing(absent)}")
        named = {(cell.model, cell.dataset) for cell in absent}
        for row in own:
            cell = (row["model"], row["dataset"])
            if row["status"] != "ok" and cell not in named and cell[0] not in run.ambiguous:
                named.add(cell)
                notes.append(f"{run.name}: {cell[0]} on {cell[1]}: {row['reason']}")
    variants = [row for row in rows if row["setting"]]
    readings = [row for row in rows if row["reader"] != "full"]
    rows = [row for row in rows if not row["setting"] and row["reader"] == "full"]
    for other in imported:
        rows += [_place(row, rows) for row in other.rows]
        cells |= other.cells
        provenance[other.run.name] = other.provenance
        notes += [f"{other.run.name}: {note}" for note in other.run.notes]
    runs = [*runs, *(other.run for other in imported)]
    results = make_frame(rows, [*TIDY_COLUMNS, *SAMPLE_COLUMNS])
    checkpoints = {
        (name, model): str(record.get("checkpoint_hash") or "")
        for name, records in provenance.items()
        for model, record in records.models.items()
    }
    started = {run.name: _find_time(run, provenance[run.name]) for run in runs}
    # Oldest first; as given where one of them has no time.
    order = sorted(started, key=started.__getitem__) if all(started.values()) else list(started)
    results, remarks = separate(_name_tokenizers(results), order, checkpoints)
    curves = _read_curves(runs, results)
    return Collection(
        runs=tuple(runs),
        results=results,
        cells=cells,
        variants=_name_entries(make_frame(variants, [*TIDY_COLUMNS, "setting"]), results),
        readings=_name_entries(make_frame(readings, READING_COLUMNS), results),
        curves=curves,
        provenance=provenance,
        notes=(*notes, *describe_versions(provenance), *remarks, *remark_on_draws(curves, results)),
    )


def _place(row: Row, own: Sequence[Row]) -> Row:
    """Put an imported row in the place of an own one with the same prompts and metric, if any."""
    key = ("prompt_hash", "metric")
    same = [other for other in own if all(other[name] == row[name] for name in key)]
    same.sort(key=lambda other: other["dataset"] != row["dataset"])  # of several, its namesake
    found = same[0] if same and row["prompt_hash"] else {}
    names = ("benchmark", "dataset", "task", "language", "prompt", "haystack", "tokenizer",
             "tokenizer_hash", "length", "depth", "draws", "prompt_limit", "units")  # fmt: skip
    return {**row, **{name: found[name] for name in names if found}}


def _name_entries(cells: pandas.DataFrame, results: pandas.DataFrame) -> pandas.DataFrame:
    """Return cells beside the results under the names that their models have there."""
    found = pandas.Series(index=cells.index, dtype=object)
    # Of a run whose own cells a later one measured again: the name that they have there.
    for own in (["run", "model", "benchmark"], ["model", "benchmark"]):
        names = results.drop_duplicates([*own, "entry"]).groupby(own).entry
        single = names.first()[names.size() == 1]
        keys = cells[own].itertuples(index=False, name=None)
        found = found.fillna(pandas.Series([single.get(key) for key in keys], cells.index))
    return cells.assign(entry=found)


def remark_on_draws(curves: pandas.DataFrame, results: pandas.DataFrame) -> list[str]:
    """Say where the intervals of perplexities are of too few draws to be relied on."""
    windows = {(row.entry, row.dataset): row.n or 0 for row in results.itertuples()}
    few = {
        point.num_draws // windows[point.entry, point.dataset]
        for point in curves.itertuples()
        if point.estimator == "bound"
        and point.standard_error
        and point.num_draws < FEW_DRAWS * windows.get((point.entry, point.dataset), 0)
    }
    if not few:
        return []
    return [
        f"perplexity: {min(few)} draws of masks a window are few: where one token of many is hard, "
        f"the 95 % intervals hold the bound less often; take num_draws={FEW_DRAWS} or more"
    ]


def _name_tokenizers(results: pandas.DataFrame) -> pandas.DataFrame:
    """Call tokenizers of one content by one name, the first: tables and series go by the name.

    A path may name a person, and is cut to what tells it from the others and from checkpoints.
    """
    known = results.dropna(subset=["tokenizer", "tokenizer_hash"])
    first = known.groupby("tokenizer_hash").tokenizer.transform("first")
    named = results.tokenizer.where(~results.index.isin(first.index), first)
    short = cut_paths([*named.dropna(), *results.checkpoint.dropna()])
    return results.assign(tokenizer=named.replace({name: short[name] for name in named.dropna()}))


def _read_rows(
    run: RunFolder,
    model: Config,
    dataset: Config,
    cell: CellFiles,
    records: Provenance,
    absent: Sequence[MissingCell],
) -> Iterator[Row]:
    """Yield a cell's rows; the entry is the model's own name until `separate` says otherwise."""
    abbr, name = recorded.model_name(model), recorded.dataset_name(dataset)
    facts = next(facts for facts in run.facts if facts.abbr == abbr)
    lost = next((c.reason for c in absent if (c.model, c.dataset) == (abbr, name)
                 and c.stage == "predictions"), "")  # fmt: skip
    limits = records.models.get(abbr)
    adapter = model.get("peft_path")
    title = facts.title if facts.scaling == "none" else f"{facts.title}, {facts.scaling}"
    shared = {
        "run": run.name,
        "entry": show_controls(title),
        "checkpoint": str(model.get("path", "")) + (f" + {adapter}" if adapter else ""),
        "kind": find_kind(model, limits),
        **describe_protocol(model, dataset, limits),
        "prompt_hash": cell.prompt_hash,
        "data": str(dataset.get("path", "")),
        "trained_length": facts.trained_length,
        "recorded": _find_time(run, records, abbr, name),
    }
    for row in read_cell_rows(facts, dataset, run.path):
        status, reason = _judge(row, run, cell, lost, records)
        if status != row["status"]:
            row |= {"score": None, "n": None, "standard_error": None}
        row |= {"status": status, "reason": reason, **shared}
        row["tokenizer_hash"] = _hash_tokenizer(row, model, records)
        row["sample_scores"] = _sample_scores(row, cell)
        row["units"] = cell.units
        yield row


def _find_time(run: RunFolder, records: Provenance, model: str = "", dataset: str = "") -> str:
    """Return when a cell's answers were made, or a run without one; '' where nothing says."""
    sources: list[list[Any]] = [
        [own.get("started") for own in records.of_cell(model, dataset, run.datasets).values()],
        [records.models.get(model, {}).get("started")],
        [record.get("started") for record in records.runs],
        [*(file.stem for file in run.config_files), run.path.resolve().name],
    ]
    return next((time for source in sources if (time := last_time(source))), "")


def _hash_tokenizer(row: Row, model: Config, records: Provenance) -> str | None:
    """Hash what counts tokens (of a perplexity the model itself), else return what was recorded."""
    path = row["tokenizer"]
    if path is None and row["benchmark"] == "perplexity":
        path = str(model.get("tokenizer_path") or model.get("path"))
    if path is None:
        return None
    if found := find_tokenizer(path):
        return found[0]
    told = [record for record in records.models.values() if record.get("path") == path]
    if not told and row["tokenizer"] is None:
        told = [records.models.get(row["model"], {})]
    return next((record["tokenizer_hash"] for record in told if record.get("tokenizer_hash")), None)


def _judge(
    row: Row, run: RunFolder, cell: CellFiles, lost: str, records: Provenance
) -> tuple[str, str]:
    """Return a row's status and reason; with another status than its own it has no number."""
    if row["model"] in run.ambiguous:
        return "failed", f"{row['model']!r} is the abbr of more than one model of this run"
    if lost and lost != recorded.NO_PREDICTIONS:
        return "partial", lost
    if row["status"] != "ok":
        is_lost = lost and row["status"] == "missing"
        return row["status"], lost if is_lost else row["reason"]
    if cell.num_predictions is not None and row["benchmark"] != "perplexity":
        parts = records.of_cell(row["model"], row["dataset"], run.datasets)
        expected = max(row["n"] or 0, _count_asked(row["dataset"], parts))
        # A result of part of the samples (LongBench-E's buckets) has fewer than were asked.
        if cell.num_predictions < expected:
            return "partial", f"{cell.num_predictions} of {expected} predictions are left"
    return "ok", row["reason"]


def _count_asked(dataset: str, parts: Mapping[str, Mapping[str, Any]]) -> int:
    """Return how many samples a data set has, by the records of it and its shards.

    What was made again in other shards has records of both: only shards named by number add up.
    """
    numbered, known = 0, [0]
    for name, record in parts.items():
        samples, own = recorded.split_shard_name(name)[1], int(record.get("num_samples") or 0)
        if samples is not None:
            known.append(samples[2])
        elif name == dataset:
            known.append(own)
        else:
            numbered += own
    return max(numbered, *known)


def _sample_scores(row: Row, cell: CellFiles) -> tuple[float, ...] | None:
    """Return a row's scores by sample if they add up to its score; of hits also without details.

    Of a perplexity they are nats a token by window.
    """
    score, number = row["score"], row["n"]
    if row["benchmark"] == "perplexity":
        is_whole = score is not None and len(cell.window_nats) == number
        return cell.window_nats if is_whole else None
    scores = cell.scores.get(row["metric"])
    if score is None or not number:
        return None
    in_range = scores and len(scores) == number and all(0 <= value <= 100 for value in scores)
    # RULER rounds a score to two decimals.
    if scores and in_range and math.isclose(math.fsum(scores) / number, score, abs_tol=0.006):
        return scores
    hits = score / 100 * number
    if row["metric"] == "accuracy" and abs(hits - round(hits)) < 1e-6:
        return (100.0,) * round(hits) + (0.0,) * (number - round(hits))
    return None


def _read_curves(runs: Sequence[RunFolder], results: pandas.DataFrame) -> pandas.DataFrame:
    """Return perplexity points with their entries; a cell that is not whole has no numbers."""
    rows = {key_of(row): row for row in results.itertuples()}
    points: list[Row] = []
    for run in runs:
        for point in read_curves(run.as_config(), run.path, run.facts).to_dict("records"):
            row = rows.get((run.name, point["model"], point["dataset"]))
            if row is not None and row.status != "ok" and point["status"] == "ok":
                point |= dict.fromkeys(CURVE_NUMBERS)
                point |= {"status": "missing", "reason": f"the cell is {row.status}"}
            points.append({**point, "entry": point["title"] if row is None else row.entry})
    return make_frame(points, [*CURVE_COLUMNS, "entry"])
