"""Names the cells of a run and judges the files that they left.

A cell is a model on a data set. Every file of predictions, results and configs has a seal in
``provenance/files.seals``: its digest, written before it came into place. Imports no OpenCompass.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.files import append_line, open_line, read_lines, sealed_line
from opencompass_llada.old_names import dotted_name
from opencompass_llada.options import show
from opencompass_llada.runs.hashes import hash_file, once_a_version

NO_PREDICTIONS = "no predictions were written"
STAGES = ("predictions", "results")
#: OpenCompass's folder of a stage's logs.
LOG_FOLDERS = {"predictions": "infer", "results": "eval"}
WRAPPER = "opencompass_llada.wrapper.LLaDACausalLM"
#: Keys of a model's config that OpenCompass keeps to itself.
HOST_KEYS = ("type", "abbr", "run_cfg", "summarizer_abbr", "pred_postprocessor", "min_out_len")
PROVENANCE = "provenance"
#: Which part of a run's samples this process and its tasks answer: see `shards`.
SHARD_VARIABLE = "LLADA_SHARD"

#: Inferencers that score texts: sampler and generation length decide nothing there.
SCORING = ("PPLInferencer", "LLInferencer", "OptionScoringInferencer", "PerplexityInferencer")


def list_groups(cfg: Mapping[str, Any]) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield the configs of models, and of the data sets that each of these is evaluated on."""
    for group in cfg.get("model_dataset_combinations") or [cfg]:
        yield list(group.get("models") or ()), list(group.get("datasets") or ())


def list_pairs(cfg: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield every (model config, data set config) that a run evaluates, model by model."""
    for models, datasets in list_groups(cfg):
        yield from itertools.product(models, datasets)


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


def type_name(config: Mapping[str, Any]) -> str:
    """Return the bare name of a config's type, ``''`` if it has none."""
    kind = config.get("type")
    return str(kind).rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def is_ours(model: Mapping[str, Any]) -> bool:
    """Tell whether a model's type is this package's wrapper."""
    kind = model.get("type")
    is_named = isinstance(kind, str) or hasattr(kind, "__qualname__")
    return is_named and dotted_name(kind) == WRAPPER


def model_keywords(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a model's class in its config."""
    return {key: model[key] for key in model if key not in HOST_KEYS}


def own_file(stem: str, suffix: str) -> str:
    """Return the name of a file of records, another for each shard: no two write one file."""
    index = os.environ.get(SHARD_VARIABLE, "").partition("/")[0].strip()
    return f"{stem}.shard-{index}{suffix}" if index.isdecimal() else f"{stem}{suffix}"


def seal_file(path: Path, content: Path, **facts: Any) -> None:
    """Record what a file of a run will hold, before ``content`` is moved there."""
    run_path = path.parents[1 if path.parent.name in ("configs", PROVENANCE) else 2]
    name = path.relative_to(run_path).as_posix()
    record = {"file": name, "sha256": hash_file(content), "time": time.time(), **facts}
    append_line(run_path / PROVENANCE / own_file("files", ".seals"), sealed_line(record))


def read_seals(run_path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the newest record of each sealed file, by its path in the run's folder."""
    paths = sorted((run_path / PROVENANCE).glob("files*.seals"))
    stamps = tuple((path, (found := path.stat()).st_mtime_ns, found.st_size) for path in paths)
    return _read_all_seals(stamps)


@functools.lru_cache(maxsize=64)
def _read_all_seals(stamps: tuple[tuple[Path, int, int], ...]) -> Mapping[str, Mapping[str, Any]]:
    newest: dict[str, Mapping[str, Any]] = {}
    for path, _, _ in stamps:
        for name, record in _read_seals(path).items():
            if name not in newest or newest[name].get("time", 0) <= record.get("time", 0):
                newest[name] = record
    return newest


@once_a_version
def _read_seals(path: Path) -> Mapping[str, Mapping[str, Any]]:
    records = (open_line(line) for _, line in read_lines(path))
    return {str(record["file"]): record for record in records if record and "file" in record}


def seal_fault(path: Path, run_path: Path) -> str:
    """Say if a file is not what the run wrote; '' if it is, or if nothing is recorded of it."""
    seal = read_seals(run_path).get(path.relative_to(run_path).as_posix())
    if not path.is_file():
        return "is no file"
    if seal is None or seal.get("sha256") == hash_file(path):
        return ""
    return "is not as the run wrote it (its digest is another): torn, changed or of another run"


def read_object(path: Path, run_path: Path) -> tuple[dict[str, Any], str]:
    """Return the JSON object in a file of a run, and what is wrong with the file."""
    try:
        text = path.read_bytes()
        if not text.strip():
            return {}, "is empty"
        if fault := seal_fault(path, run_path):
            return {}, fault
        content = json.loads(text.decode("utf-8"))
    except OSError as error:
        return {}, f"cannot be read ({error})"
    except (ValueError, RecursionError) as error:
        return {}, f"is not valid JSON ({error})"
    return (content, "") if isinstance(content, dict) else ({}, "is not a JSON object")


def read_answers(path: Path) -> tuple[dict[str, Any], str]:
    """Return the answers in a file of predictions by index as text, or what is wrong with it."""
    content, fault = read_object(path, path.parents[2])
    if fault:
        return {}, fault
    if not content:
        return {}, "is empty"
    if [*content] != [str(index) for index in range(len(content))]:
        return {}, "does not number its samples from 0 on"
    if not all(isinstance(answer, dict) for answer in content.values()):
        return {}, "holds samples that are no records"
    return content, ""


def answers_fault(path: Path) -> str:
    """Say what is wrong with a file of predictions, '' if nothing; asked again, it is not read."""
    try:
        return _answers_fault(path)
    except OSError as error:
        return f"cannot be read ({error})"


_answers_fault = once_a_version(lambda path: read_answers(path)[1])


def read_result(path: Path) -> tuple[dict[str, Any], str]:
    """Return the content of ``RUN/results/MODEL/NAME.json``, or {} and what is wrong with it.

    A result beside predictions that it was not made of is none.
    """
    if not path.is_file():
        return {}, "no result was written"
    content, fault = read_object(path, path.parents[2])
    if fault:
        return {}, f"the result {fault}"
    if "error" in content:
        return {}, f"the evaluator reported an error: {content['error']}"
    if fault := _origin_fault(path):
        return {}, fault
    if fault := _share_fault(content):
        return {}, f"the result {fault}"
    return content, ""


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
    names = {*present, *made_of}
    first = min(name for name in names if present.get(name) != made_of.get(name))
    return (
        f"the result was not made of the predictions beside it (predictions/{model}/{first} is "
        "another file by now)"
    )


def _share_fault(content: Mapping[str, Any]) -> str:
    """Say if an accuracy is no share; evaluators give it in percent."""
    for name, value in content.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name.partition("_")[0] == "accuracy" and is_number and (value < 0 or value > 100):
            return f"has {name}={show(value)}, outside 0 to 100, which no evaluator gives"
    return ""


def describe_predictions(run_path: Path, model: str, dataset: str) -> dict[str, str]:
    """Return the SHA-256 of each prediction file of a cell, by the file's name."""
    files = find_finished(run_path / "predictions" / model, dataset)
    return {file.path.name: hash_file(file.path) for file in files}


def find_damage(root: Path) -> list[str]:
    """Say which files of a run's predictions and results are torn, changed or of another run."""
    found = [(path, answers_fault(path)) for path in sorted(root.glob("predictions/*/*.json"))]
    for path in sorted(root.glob("results/*/*.json")):
        content, fault = read_object(path, root)
        fault = fault or ("" if content else "is empty")
        found.append((path, fault or _origin_fault(path) or _share_fault(content)))
    return [f"{path} {fault}" for path, fault in found if fault]


@dataclass(frozen=True)
class AnswerFile:
    """A file with answers of a cell: all of them, or those of a shard."""

    path: Path  # ``NAME.json``, or ``tmp_NAME.jsonl`` while it is unfinished
    samples: range | None = None  # of a shard that is named by them
    total: int | None = None  # samples of that shard's whole data set
    number: int | None = None  # of a shard as OpenCompass names it; its samples are not known
    is_partial: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it holds the whole data set, finished."""
        return self.samples is None and self.number is None and not self.is_partial


def shard_name(dataset: str, start: int, stop: int, total: int) -> str:
    """Return the name of a shard: that of the data set, with its samples, e.g. ``niah_0-4of10``."""
    return f"{dataset}_{start}-{stop}of{total}"


def split_shard_name(name: str) -> tuple[str, tuple[int, int, int] | None]:
    """Return the data set's name of a shard's, and start, stop, total; None for no such shard."""
    match = re.fullmatch(r"(.+)_(\d+)-(\d+)of(\d+)", name, re.DOTALL)
    return (match[1], (int(match[2]), int(match[3]), int(match[4]))) if match else (name, None)


def is_part(name: str, dataset: str, datasets: Container[str] = ()) -> bool:
    """Tell whether a name is a data set's or that of a shard of it, of either way of naming.

    A name in ``datasets``, all data sets of the run, such as ``NAME_4``, is no shard of ``NAME``.
    """
    head, _, number = name.rpartition("_")
    numbered = head == dataset and number.isdigit() and name not in datasets
    return name == dataset or numbered or split_shard_name(name)[0] == dataset


def find_answer_files(
    folder: Path, dataset: str, datasets: Container[str] = ()
) -> list[AnswerFile]:
    """Return the files of a cell in ``predictions/MODEL``, shards in the order of their samples."""
    found = []
    # By name before anything else: every cell of a run asks for its own among the files of all.
    beginnings = (dataset, f"tmp_{dataset}")
    for name in os.listdir(folder) if folder.is_dir() else ():
        if not name.startswith(beginnings):
            continue
        path = folder / name
        partial = path.suffix == ".jsonl" and name.startswith("tmp_")
        stem = path.stem.removeprefix("tmp_") if partial else path.stem
        is_answers = (partial or path.suffix == ".json") and is_part(stem, dataset, datasets)
        if not (is_answers and path.is_file()):
            continue
        samples, total, number = None, None, None
        if stem != dataset:
            _, shard = split_shard_name(stem)
            if shard is not None:
                samples, total = range(*shard[:2]), shard[2]
            else:
                number = int(stem.rpartition("_")[2])
        found.append(AnswerFile(path, samples, total, number, partial))
    return sorted(found, key=lambda f: ((f.samples or range(0)).start, f.number or 0, f.path.name))


def find_finished(folder: Path, dataset: str, datasets: Container[str] = ()) -> list[AnswerFile]:
    """Return the files that make up a cell's answers: the whole one, else its shards in order."""
    files = [file for file in find_answer_files(folder, dataset, datasets) if not file.is_partial]
    whole = [file for file in files if file.is_whole]
    named_by_samples = [file for file in files if file.samples is not None]
    return whole or named_by_samples or files


def find_gap(files: Sequence[AnswerFile], started: Iterable[int] = ()) -> str | None:
    """Say which samples or shards `find_finished` lacks, or has twice; None if each is there once.

    ``started`` are numbers of shards that there were, besides those of the files.
    """
    if files[0].is_whole:
        return None
    numbers = {file.number for file in files if file.number is not None}
    if numbers:
        gaps = sorted(set(range(max(*numbers, *started, 0) + 1)) - numbers)
        return f"prediction shards {gaps} are missing" if gaps else None
    totals = {shard.total for shard in files}
    if len(totals) > 1:
        return f"its shards are of data sets of {sorted(map(str, totals))} samples"
    reached = 0
    for shard in files:
        assert shard.samples is not None, "shards here are named by their samples"
        if shard.samples.start > reached:
            return f"samples {reached} to {shard.samples.start - 1} are missing"
        if shard.samples.start < reached:
            return f"sample {shard.samples.start} is in two shards ({shard.path.name})"
        reached = shard.samples.stop
    total = files[0].total or 0
    return f"samples {reached} to {total - 1} are missing" if reached != total else None


def predictions_fault(root: Path, model: str, dataset: str, datasets: Container[str]) -> str | None:
    """Say why a cell's predictions are not all there and sound; None if they are."""
    folder = root / "predictions" / model
    for file in find_answer_files(folder, dataset, datasets):
        if file.is_partial:
            return f"inference stopped half-way ({file.path.name} is left)"
    files = find_finished(folder, dataset, datasets)
    for file in files:
        if fault := answers_fault(file.path):
            return f"predictions/{model}/{file.path.name} {fault}"
    if not files or files[0].is_whole:
        return None if files else NO_PREDICTIONS
    # The last shard leaves no gap when it is lost; its task's log says that there was one.
    logs = root / "logs" / LOG_FOLDERS["predictions"] / model
    numbered = re.compile(rf"{re.escape(dataset)}_(\d+)\.out")
    names = (numbered.fullmatch(path.name) for path in logs.glob("*.out"))
    return find_gap(files, [int(match[1]) for match in names if match])


def result_fault(root: Path, model: str, dataset: str, datasets: Container[str]) -> str | None:
    """Say what is wrong with a result, or with the predictions that lie beside it, if any do."""
    content, fault = read_result(root / "results" / model / f"{dataset}.json")
    if fault or not content:
        return fault or "the result is empty"
    beside = predictions_fault(root, model, dataset, datasets)
    return None if beside == NO_PREDICTIONS else beside
