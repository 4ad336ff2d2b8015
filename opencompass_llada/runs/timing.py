"""Measures the seconds of a finished run's models: a few of its prompts, alone in one process.

Each model is loaded in turn, round after round, so that a machine that slows down does so for all;
loading and a cell's first call, which compiles, are kept apart. Writes ``timing.json`` into the
run's folder, which `report.cost` reads; scores nothing and changes no answer.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any

from opencompass_llada.benchmarks.benchmark import benchmark_of
from opencompass_llada.files import write_text
from opencompass_llada.options import reject_unknown
from opencompass_llada.prompting.encode import VerbatimText
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.machine import OTHER_CORES, busy_seconds, other_cores
from opencompass_llada.runs.provenance import describe_environment
from opencompass_llada.runs.run_folder import Pair, RunFolder, find_runs

logger = logging.getLogger(__name__)

FILE = "timing.json"
#: GPU memory that others may hold: this process's own context is not told from theirs.
OTHER_BYTES = 2 * 2**30


def run_time(given: argparse.Namespace) -> int:
    """Time as the command line asks; print a line a cell and write the file."""
    for name in ("samples", "rounds"):
        if getattr(given, name) < 1:
            value = getattr(given, name)
            raise ValueError(f"--{name} {value} must be at least 1; use 1 or more")
    run = find_runs([given.work_dir])[-1]
    pairs = choose_cells(run, given.models)
    timing = measure(run, pairs, samples=given.samples, rounds=given.rounds)
    write_text(run.path / FILE, json.dumps(timing, indent=1) + "\n")
    sys.stdout.write(describe(timing) + f"{run.path / FILE}\n")
    return 0


def choose_cells(run: RunFolder, models: Sequence[str] | None = None) -> list[Pair]:
    """Return each model's cells to time: of every benchmark one of the shortest and the longest.

    Of cells of one length the middle one is taken, so that a needle lies in the middle.

    Raises:
        ValueError: For a model that the run has not, or a run without answers to generate again.
    """
    cells: dict[tuple[str, str], dict[Any, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    for model, dataset in run.pairs:
        is_variant = dataset.get("setting") or dataset.get("reader", "full") != "full"
        if recorded.is_ours(model) and not is_variant and _read_prompts(run, model, dataset, 1):
            key = (recorded.model_name(model), benchmark_of(dataset).name)
            cells[key][dataset.get("length")].append((model, dataset))
    names = list(dict.fromkeys(name for name, _ in cells))
    reject_unknown("model of this run", models or (), names)
    chosen: list[Pair] = []
    for (name, _), by_length in cells.items():
        lengths = sorted(by_length, key=lambda length: length or 0)
        for length in dict.fromkeys((lengths[0], lengths[-1])) if name in (models or names) else ():
            alike = by_length[length]
            chosen.append(alike[len(alike) // 2])
    if not chosen:
        raise ValueError(
            f"{str(run.path)!r} has no generated answers of LLaDACausalLM, so there is nothing to "
            "time; give the folder of a finished run, such as outputs/llada_niah/TIME."
        )
    return chosen


def _read_prompts(run: RunFolder, model: Any, dataset: Any, number: int) -> list[str]:
    """Return the first prompts of a cell whose answers were generated, as the model was given."""
    folder = run.path / "predictions" / recorded.model_name(model)
    prompts: list[str] = []
    for file in recorded.find_finished(folder, recorded.dataset_name(dataset), run.datasets):
        answers, _ = recorded.read_answers(file.path)
        prompts += [
            str(answer["origin_prompt"])
            for answer in answers.values()
            if isinstance(answer.get("prediction"), str)
            and isinstance(answer.get("origin_prompt"), str)
        ]
    return prompts[:number]


def measure(
    run: RunFolder, pairs: Sequence[Pair], *, samples: int = 3, rounds: int = 3
) -> dict[str, Any]:
    """Time cells, each sample once a round, and say how alone this process was."""
    import torch

    by_config: dict[str, list[Pair]] = defaultdict(list)
    for model, dataset in pairs:  # one name may stand for a sampler a benchmark
        by_config[repr(model)].append((model, dataset))
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    models: dict[str, dict[str, Any]] = {
        recorded.model_name(model): {"load_seconds": [], "first_call_seconds": []}
        for model, _ in pairs
    }
    before = busy_seconds()
    for number in range(rounds):
        groups = list(by_config.values())
        for own in groups[:: -1 if number % 2 else 1]:  # who comes first is no advantage
            _time_model(run, own, samples, models[recorded.model_name(own[0][0])], cells)
    machine = describe_environment()
    others = other_cores(before, busy_seconds())
    return {
        **{key: machine[key] for key in ("command", "platform", "num_cores", "git_commit")},
        "date": date.today().isoformat(),
        "versions": machine["packages"],
        "num_threads": torch.get_num_threads(),
        "samples": samples,
        "rounds": rounds,
        "other_cores": others,
        "is_alone": others is not None and others < OTHER_CORES and not _gpu_is_shared(),
        "models": models,
        "cells": list(cells.values()),
    }


def _time_model(
    run: RunFolder,
    pairs: Sequence[Pair],
    samples: int,
    times: dict[str, Any],
    cells: dict[tuple[str, str], dict[str, Any]],
) -> None:
    """Load a model and time its cells; adds to what earlier rounds measured."""
    import torch

    from opencompass_llada.wrapper import LLaDACausalLM

    start = time.perf_counter()
    model = LLaDACausalLM(**recorded.model_keywords(pairs[0][0]))
    times["load_seconds"].append(time.perf_counter() - start)
    assert model.engine is not None, "the weights are loaded"
    times["device"] = _describe_device(model.engine.device)
    for _, dataset in pairs:
        name = recorded.dataset_name(dataset)
        prompts = _read_prompts(run, pairs[0][0], dataset, samples)
        cell = cells.setdefault(
            (recorded.model_name(pairs[0][0]), name),
            {
                "model": recorded.model_name(pairs[0][0]),
                "dataset": name,
                "length": dataset.get("length"),
                "answers": recorded.describe_predictions(
                    run.path, recorded.model_name(pairs[0][0]), name
                ),
                **{key: [] for key in ("seconds", "cpu_seconds", "passes", "tokens", "joules")},
            },
        )
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        first = _answer(model, prompts[0], dataset)
        times["first_call_seconds"].append(first["seconds"])
        for prompt in prompts:
            for key, value in _answer(model, prompt, dataset).items():
                cell[key].append(value)
        on_gpu = torch.cuda.is_available()
        cell["peak_memory_bytes"] = torch.cuda.max_memory_allocated() if on_gpu else None


def _answer(model: Any, prompt: str, dataset: Mapping[str, Any]) -> dict[str, float | None]:
    """Generate one answer as the run did, and return what it took."""
    inferencer = (dataset.get("infer_cfg") or {}).get("inferencer") or {}
    totals = model.engine.totals
    before = (totals.num_forward_passes, totals.num_generated_tokens, totals.seconds)
    cpu = time.process_time()
    model.generate(
        [VerbatimText(prompt)],
        inferencer.get("max_out_len"),
        stopping_criteria=inferencer.get("stopping_criteria"),
    )
    seconds = totals.seconds - before[2]
    watts = _read_watts(model.engine.device)
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "passes": totals.num_forward_passes - before[0],
        "tokens": totals.num_generated_tokens - before[1],
        "joules": None if watts is None else watts * seconds,
    }


def _read_watts(device: Any) -> float | None:
    """Return the power that a GPU drew in its last period of up to a second, where it tells."""
    import torch

    if device.type != "cuda":
        return None
    with suppress(ImportError, RuntimeError, AttributeError):  # no NVML, or a card without a sensor
        return torch.cuda.power_draw(device) / 1000
    return None


def _describe_device(device: Any) -> str:
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


def _gpu_is_shared() -> bool:
    """Tell whether others hold memory of the GPU that was timed."""
    import torch

    if not torch.cuda.is_available():
        return False
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved() > OTHER_BYTES


def describe(timing: Mapping[str, Any]) -> str:
    """Return a line a cell: median seconds, the middle half, and the seconds of its cores."""
    import numpy

    lines = [
        "{}, {}: {:.4g} s a sample [{:.4g}, {:.4g}], CPU {:.4g} s".format(
            cell["model"],
            cell["dataset"],
            *numpy.percentile(cell["seconds"], [50, 25, 75]),
            numpy.median(cell["cpu_seconds"]),
        )
        for cell in timing["cells"]
    ]
    told = "alone" if timing["is_alone"] else "shared"
    others = "an unknown number of" if timing["other_cores"] is None else timing["other_cores"]
    lines.append(f"machine: {told}; other processes kept {others} cores busy")
    return "".join(f"{line}\n" for line in lines)
