"""Plans a run of all data set configs of the package, each cut to a few samples.

Takes every file of configs/datasets, in each of its `FORMS`, says which lack their data, and cuts
samples, depths and answers of the others, never the length that a prompt is built at.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.cells import plain_config
from opencompass_llada.benchmarks.data_checks import SCORING_PACKAGES
from opencompass_llada.benchmarks.needlebench_v2.facts import REPEATS, split_task
from opencompass_llada.benchmarks.needlebench_v2.facts import SUITE as NEEDLEBENCH_V2
from opencompass_llada.benchmarks.short.facts import CHAT_TASKS, GENERATION_TASKS, LIKELIHOOD_TASKS
from opencompass_llada.options import reject_unknown
from opencompass_llada.runs import doctor, machine, reductions
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.runs.planning import Run, run_tasks, scores_texts, summarize_with
from opencompass_llada.runs.settings import (
    LEADING,
    SHARDS,
    TRAILING,
    Setting,
    number,
    only_variables,
    read_settings,
    text,
    texts,
)

#: Keywords of data set configs that say how many samples are made.
SAMPLE_KEYS = ("num_samples", "num_repeats_per_file", "num_texts")
#: Estimator of a likelihood -> options with which it takes the fewest forward passes, 4 of a text
#: of 4,096 tokens (64 in LongLLaDA's chunks, of which each is given all before it).
FEWEST_PASSES = {
    "bound": {"num_draws": 4},
    "longllada": {"num_draws": 2, "chunk_length": 1024},
}


def _list_forms() -> dict[str, tuple[str, dict[str, str]]]:
    tasks = (*GENERATION_TASKS, *LIKELIHOOD_TASKS)
    forms = {f"short_{task}": ("short", {"TASKS": task}) for task in tasks}
    chat = {"PROMPT": "chat"}
    forms |= {f"short_{task}_chat": ("short", {"TASKS": task, **chat}) for task in CHAT_TASKS}
    for suffix, prompt in (("", {}), ("_chat", chat)):
        for language, spoken in (("en", {}), ("zh", {"LANGUAGE": "zh"})):
            for file in ("multi_needle", "multi_reasoning", "niah"):
                forms[f"{file}_{language}{suffix}"] = (file, {**spoken, **prompt})
            forms[f"niah_{language}_128k{suffix}"] = ("niah_128k", {**spoken, **prompt})
        for k in (4, 8, 16, 32, 48, 64, 128):
            name = f"ruler_{k}k{suffix or '_base'}_gen"
            forms[name] = ("ruler", {"LENGTHS": str(1024 * k), **prompt})
    for language in ("en", "zh"):
        tasks_of = ",".join(task for task in NEEDLEBENCH_V2.tasks if task.endswith(language))
        forms[f"needlebench_v2_{language}"] = ("needlebench_v2", {"TASKS": tasks_of})
    return forms


#: Name of a form -> the file of configs/datasets that it is of, and the variables that it sets,
#: without their prefix. A file without forms is taken as it is.
FORMS = _list_forms()
_SETTINGS: dict[str, Setting] = {
    "models": LEADING["models"],
    "datasets": texts(
        "names of configs/datasets or forms of them, separated by commas; default all"
    ),
    "samples": number("samples of each cell"),
    "prompt_limit": number(
        "tokens of a prompt that the model gets; the middle of longer ones is dropped"
    ),
    "generation_length": number("most tokens generated for a sample"),
    "steps": number("denoising steps; block-causal models take one a token"),
    "absent": text(
        "skip, or error where a data set's files are not on this machine", "skip", "error"
    ),
    **TRAILING,
    **reductions.SETTINGS,
    **SHARDS,
}


@dataclass(frozen=True, kw_only=True)
class DataSetFile:
    """One file of configs/datasets, or one form of it."""

    name: str
    """Of the file without ``.py``, as ``--datasets`` takes it, or a key of `FORMS`."""
    cells: tuple[dict[str, Any], ...]
    """Its data set configs, whole, classes as dotted names."""
    absent: str
    """What of its data is not on this machine, and how to get it; empty if all is there."""


def plan_data_sets(settings: Mapping[str, Any]) -> Run:
    """Work out a run of all data sets from settings and environment variables."""
    values, gpus = read_settings(settings, _SETTINGS), machine.count_gpus()
    files = find_data_sets(values["datasets"])
    length = values["generation_length"]
    sets, datasets = [], []
    for file in files:
        if file.absent and values["absent"] == "error":
            raise ValueError(f"absent='error': data set config {file.name}: {file.absent}")
        cells = [] if file.absent else cut_cells(file, values["samples"], length)
        datasets += cells
        names = [cell["abbr"] for cell in cells]
        sets.append({"name": file.name, "datasets": names, "absent": file.absent})
    skipped = [file.name for file in files if file.absent]
    headline = f"Every data set: {len(files)} configs, {len(datasets)} cells"
    values.announce(headline + (f"; no data for {', '.join(skipped)}" if skipped else ""))
    table, workers = ModelTable(), gpus or 1
    asked = reductions.Reductions.read(values)
    asked.check(table[name] for name in table.resolve(values["models"]))
    if datasets and scores_texts([{"models": [], "datasets": datasets}]):
        asked.refuse_scoring()
    models = table.list_configs(
        values["models"],
        num_gpus=gpus,
        dtype=values["dtype"],
        reductions=asked,
        block_length=length,  # answers are one block, unless the checkpoint has its own
        num_steps=values["steps"],
        keep_steps=False,
    )
    for config in models:  # prompts are cut in the middle
        config["max_out_len"] = length
        config["likelihood"] = {"num_draws": 4}
        config["max_seq_len"], config["drop_middle"] = values["prompt_limit"], True
    return Run(
        models=models,
        datasets=datasets,
        described_models=table.describe(models),
        settings=values.values,
        **run_tasks(workers),
        summarizer=summarize_with("CoverageSummarizer", sets=sets),
    )


def find_data_sets(names: Sequence[str] | None = None) -> list[DataSetFile]:
    """Read data set configs of the package, or forms of these names; all by default."""
    folder = Path(importlib.import_module("opencompass_llada.configs").__path__[0]) / "datasets"
    files = {path.stem for path in folder.glob("[!_]*.py")}
    plain = files - {file for file, _ in FORMS.values()}
    known: dict[str, tuple[str, dict[str, str]]] = {name: (name, {}) for name in plain} | FORMS
    reject_unknown("data set config", names or [], known)
    found = []
    for name in sorted(names or known):
        file, variables = known[name]
        with only_variables(variables):
            found.append(_read(name, folder / f"{file}.py"))
    return found


def _read(name: str, path: Path) -> DataSetFile:
    from mmengine.config import Config

    cfg = Config.fromfile(str(path), format_python_code=False)
    keys = [key for key in cfg if key.endswith("_datasets")]
    if not keys:
        raise ValueError(f"{path.name} must define a *_datasets list, as OpenCompass asks.")
    cells = tuple(plain_config(cell) for key in keys for cell in cfg[key])
    findings = [finding for finding in doctor.check_data(cells) if finding.level != "ok"]
    reasons = [f"{finding.topic}: {finding.text}" for finding in findings]
    reasons += [reason for cell in cells if (reason := _stock_fault(cell))]
    return DataSetFile(name=name, cells=cells, absent="; ".join(dict.fromkeys(reasons)))


def _stock_fault(cell: Mapping[str, Any]) -> str:
    """Return what one of OpenCompass's own data sets lacks, without its download."""
    from opencompass.utils.datasets_info import DATASETS_MAPPING

    package, _, name = cell["type"].rpartition(".")
    if not package.startswith("opencompass."):
        return ""
    path = str(cell["path"])
    local = DATASETS_MAPPING.get(path, {}).get("local", path)
    folders = ("", os.environ.get("COMPASS_DATA_CACHE", ""), doctor.OPENCOMPASS_CACHE)
    places = [Path(folder).expanduser() / local for folder in folders]
    if not any(place.exists() for place in places):
        return f"{path}: no file or folder {places[1]}"
    needed, distribution = SCORING_PACKAGES.get(name, ("", ""))
    if needed and importlib.util.find_spec(needed) is None:
        return f"{path}: its score needs the package {distribution}"
    return ""


def cut_cells(file: DataSetFile, num_samples: int, generation_length: int) -> list[dict[str, Any]]:
    """Return some of a file's cells with few samples and short answers.

    Of each task there stay the shortest and the longest length at the middle depth. `abbr` gets
    the file's name in front, so that two files may hold the same cell.
    """
    cells = [_cut(cell, num_samples, generation_length) for cell in _choose(file.cells)]
    for cell in cells:
        cell["abbr"] = f"{file.name}__{cell['abbr']}"
    return cells


def _choose(cells: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    cells = list(cells)
    depths = sorted({cell["depth"] for cell in cells if "depth" in cell})
    chosen = [c for c in cells if "depth" not in c or c["depth"] == depths[len(depths) // 2]]
    lengths: dict[Any, list[int]] = {}
    for cell in chosen:
        lengths.setdefault(cell.get("task"), []).append(cell.get("length", 0))
    ends = {task: (min(found), max(found)) for task, found in lengths.items()}
    return [cell for cell in chosen if cell.get("length", 0) in ends[cell.get("task")]]


def _cut(cell: Mapping[str, Any], num_samples: int, generation_length: int) -> dict[str, Any]:
    made = deepcopy(dict(cell))
    known = [key for key in SAMPLE_KEYS if key in made]
    for key in known:
        made[key] = min(made[key], num_samples)
    if not known:
        made["reader_cfg"]["test_range"] = f"[0:{num_samples}]"
    if made.get("benchmark") == NEEDLEBENCH_V2.name:  # of its 440 texts, the first are the same
        repeats = made.get("repeats") or REPEATS[split_task(made["task"])[0]]
        made["repeats"] = min(repeats, num_samples)
    inferencer = made["infer_cfg"]["inferencer"]
    if "likelihood" in inferencer:
        likelihood = inferencer["likelihood"]
        likelihood.update(FEWEST_PASSES[likelihood.get("estimator", "bound")])
    else:
        length = inferencer.get("max_out_len", generation_length)
        inferencer["max_out_len"] = min(length, generation_length)
    return made
