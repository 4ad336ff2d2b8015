"""Simulates how busy GPUs are with the tasks of a run: no GPU, no model and no data are needed.

    python benchmarks/cluster_simulation.py --record benchmarks/records/cluster_simulation.json

Tasks are those that the partitioner makes of the papers' configs with LLaDA-8B's shape, and those
that its predecessor made. Workers take them in order. What a task takes is interpolated between
times measured on an H100 (`inference_h100.json`, `model_shapes.json`), not by the formula that the
partitioner estimates by; samples of LongBench are shorter than the limit by a seeded draw, and
every sample is off by a seeded few percent, of both of which the partitioner knows nothing.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from mmengine.config import Config  # noqa: E402
from recording import describe_run, write_record  # noqa: E402

from opencompass_llada.benchmarks.benchmark import benchmark_of  # noqa: E402
from opencompass_llada.benchmarks.needle.plan import (  # noqa: E402
    LONGLLADA_LENGTHS,
    ULTRALLADA_LENGTHS,
)
from opencompass_llada.runs.cluster import OWN_START  # noqa: E402
from opencompass_llada.runs.costs import Work, describe_work  # noqa: E402
from opencompass_llada.runs.model_configs import ModelTable  # noqa: E402
from opencompass_llada.runs.partitioner import CostAwarePartitioner, known_rows  # noqa: E402
from opencompass_llada.runs.planning import list_data_sets  # noqa: E402
from opencompass_llada.runs.recorded_files import split_shard_name  # noqa: E402

MODEL = "llada_8b_base"
#: Rows of a table: without scaling, and UltraLLaDA's four shortest targets.
ROWS = ["none", *(f"diffusion_ntk:target_length={1024 * k}" for k in (8, 16, 32, 64))]
#: Samples of LongBench's tasks where they are not 200; 4,750 in all (THUDM/LongBench, README).
LONGBENCH_SAMPLES = {"multifieldqa_en": 150, "lcc": 500, "repobench-p": 500}
#: Share of the limit that a LongBench prompt has at least, and spread of a sample's time.
SHORTEST, SPREAD, SEED = 0.3, 0.05, 0


@dataclass(frozen=True)
class Measured:
    """Seconds that were measured on one GPU."""

    passes: Mapping[int, float]
    """Of a full pass, by tokens."""
    steps: Mapping[int, float]
    """Of a step of 32 tokens over cached keys, by their number."""
    a_token: float
    """Of each further token of such a step."""
    load: float
    """Of loading the weights."""

    def sample(self, work: Work, prompt: float) -> float:
        """Return the seconds of a sample with a prompt of so many tokens."""
        length = prompt + work.generated
        step = _interpolate(self.steps, length) + self.a_token * (work.step_tokens - 32)
        return work.full_passes * _interpolate(self.passes, length) + work.steps * step


def _interpolate(known: Mapping[int, float], length: float) -> float:
    """Return a value between known ones, straight on logarithmic axes, and on beyond the ends."""
    ends = sorted(known)
    place = min(max(sum(end <= length for end in ends) - 1, 0), len(ends) - 2)
    low, high = ends[place : place + 2]
    slope = math.log(known[high] / known[low]) / math.log(high / low)
    return known[low] * (length / low) ** slope


def read_measured() -> Measured:
    """Read the records; a further token of a step is that between 32 and 64 new ones at 32K."""
    records = ROOT / "benchmarks/records"
    times = json.loads((records / "inference_h100.json").read_text(encoding="utf-8"))
    shapes = json.loads((records / "model_shapes.json").read_text(encoding="utf-8"))
    floors = {n: times[f"floor {n}"]["seconds"] for n in (4096, 16384, 32768, 65536, 131072)}
    steps = {n: times["small steps"][f"{n} bfloat16"]["seconds"] for n in (4096, 32768)}
    answer = times["run 16K+512"]["modes"]["prompt"]  # 288 tokens a step on average
    step = (answer["seconds"] - answer["full_passes"] * floors[16384]) / (
        answer["nfe"] - answer["full_passes"]
    )
    return Measured(
        passes=floors,
        steps=steps,
        a_token=(step - _interpolate(steps, 16384)) / (288 - 32),
        load=shapes["models"]["LLaDA-8B"]["seconds_to_load"],
    )


def list_runs() -> dict[str, tuple[list[str], list[dict[str, Any]], dict[str, Any]]]:
    """Return scalings, data sets and options of models of each run that is simulated."""
    niah = {"data": "needlebench", "language": "en", "prompt": "base", "tokenizer": "gpt-4",
            "needle_draws": "published", "repeats": 10, "generation_length": 32}  # fmt: skip
    ruler = {"data": "ruler", "tokenizer": "gpt-4", "samples": 100, "prompt": "base"}
    own = {"lengths": [4096, 8192, 16384, 32768]}
    return {
        "grid": (
            ["none"],
            list_data_sets("niah", lengths=list(LONGLLADA_LENGTHS), **niah),
            {"benchmark": "niah"},
        ),
        "niah": (
            ROWS,
            list_data_sets("niah", lengths=list(ULTRALLADA_LENGTHS), **niah),
            {"benchmark": "niah", "num_steps": 16},
        ),
        "ruler": (ROWS, list_data_sets("ruler", **ruler, **own), {"benchmark": "ruler"}),
        "longbench": (
            ROWS,
            list_data_sets("longbench", data="longbench", benchmark="longbench"),
            {"benchmark": "longbench"},
        ),
    }


def make_models(
    scalings: Sequence[str], options: Mapping[str, Any], *, cached: bool
) -> list[dict[str, Any]]:
    """Return the model configs of a run, each on one GPU."""
    models = ModelTable().list_configs([MODEL], scalings, num_gpus=1, **options)
    for model in models:
        if options["benchmark"] == "longbench":
            model["max_seq_len"], model["drop_middle"] = 16000, True
        if cached:
            model["sampler"] = {**model["sampler"], "cache": "prompt"}
    return models


def count(dataset: Mapping[str, Any]) -> int:
    """Return the samples of a data set."""
    return known_rows(dataset) or LONGBENCH_SAMPLES.get(str(dataset.get("task")), 200)


def time_cells(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], measured: Measured
) -> dict[tuple[str, str], list[float]]:
    """Return what each sample takes, by the names of model and data set."""
    seconds = {}
    for model, dataset in pairs:
        draws = random.Random(f"{SEED} {dataset['abbr']}")  # noqa: S311
        work = describe_work(model, dataset)
        shortest = SHORTEST if benchmark_of(dataset).name == "longbench" else 1.0
        seconds[model["abbr"], dataset["abbr"]] = [
            measured.sample(work, work.prompt_length * draws.uniform(shortest, 1.0))
            * draws.uniform(1 - SPREAD, 1 + SPREAD)
            for _ in range(count(dataset))
        ]
    return seconds


def earlier_tasks(
    models: Sequence[Any], datasets: Sequence[Any], num_gpus: int, *, small_cells: bool
) -> list[tuple[list[Any], list[list[Any]]]]:
    """Return the tasks of the partitioner before: so many data sets of one model in a task."""
    if small_cells:
        size = -(-len(datasets) // -(-len(datasets) // 50))
    else:
        size = max(1, -(-len(datasets) // (2 * num_gpus)))
    return [
        ([model], [list(datasets[start : start + size])])
        for model in models
        for start in range(0, len(datasets), size)
    ]


def simulate(
    tasks: Sequence[tuple[Sequence[Any], Sequence[Sequence[Any]]]],
    seconds: Mapping[tuple[str, str], Sequence[float]],
    num_workers: int,
    *,
    load: float,
) -> dict[str, float]:
    """Let workers take tasks in order; each task starts a process and loads its models."""
    free = [0.0] * num_workers
    heapq.heapify(free)
    work = 0.0
    for models, datasets in tasks:
        took = OWN_START + load * len(models)
        for model, own in zip(models, datasets, strict=True):
            for dataset in own:
                name, shard = split_shard_name(dataset["abbr"])
                samples = seconds[model["abbr"], name]
                inside = sum(samples[slice(*shard[:2])] if shard else samples)
                took, work = took + inside, work + inside
        heapq.heappush(free, heapq.heappop(free) + took)
    end = max(free)
    return {
        "tasks": len(tasks),
        "hours": end / 3600,
        "perfect_hours": work / num_workers / 3600,
        "busy_share": work / (num_workers * end),
        "above_perfect": num_workers * end / work - 1,
    }


def simulate_run(
    name: str, num_gpus: int, measured: Measured, *, cached: bool
) -> dict[str, dict[str, float]]:
    """Return what a run takes, cut as now and as before."""
    scalings, datasets, options = list_runs()[name]
    models = make_models(scalings, options, cached=cached)
    pairs = [(model, dataset) for model in models for dataset in datasets]
    seconds = time_cells(pairs, measured)
    folder = "nowhere/predictions"
    cut = CostAwarePartitioner(out_dir=folder, num_workers=num_gpus, start_seconds=OWN_START)
    cut.count = count  # type: ignore[method-assign]  # no data is read
    made = cut(Config({"models": models, "datasets": datasets, "work_dir": "nowhere"}))
    now = [(task["models"], task["datasets"]) for task in made]
    before = earlier_tasks(models, datasets, num_gpus, small_cells=options["benchmark"] == "niah")
    return {
        key: simulate(tasks, seconds, num_gpus, load=measured.load)
        for key, tasks in (("now", now), ("before", before))
    }


def add_up(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return several runs, one after the other."""
    hours, perfect = (sum(run[key] for run in runs) for key in ("hours", "perfect_hours"))
    return {
        "tasks": sum(run["tasks"] for run in runs),
        "hours": hours,
        "perfect_hours": perfect,
        "busy_share": perfect / hours,
        "above_perfect": hours / perfect - 1,
    }


def main() -> None:
    """Simulate and print; write a record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file of the record")
    given = parser.parse_args()
    measured = read_measured()
    results: dict[str, Any] = {}
    for cached in (False, True):
        way = "prompt_cached" if cached else "no_cache"
        grid = simulate_run("grid", 32, measured, cached=cached)
        runs = [
            simulate_run(name, 8, measured, cached=cached)
            for name in ("niah", "ruler", "longbench")
        ]
        papers = {key: add_up([run[key] for run in runs]) for key in ("now", "before")}
        results[way] = {"grid_32_gpus": grid, "papers_8_gpus": papers}
        for name, both in results[way].items():
            for key, row in both.items():
                sys.stdout.write(
                    f"{way} {name} {key}: {row['tasks']:.0f} tasks, {row['hours']:.3f} h of "
                    f"{row['perfect_hours']:.3f} h, {100 * row['busy_share']:.1f} % busy\n"
                )
    inputs = {
        "passes": measured.passes, "steps": measured.steps, "step_a_token": measured.a_token,
        "load_seconds": measured.load, "start_seconds": OWN_START, "rows": ROWS,
        "longbench_shortest": SHORTEST, "spread": SPREAD, "seed": SEED,
    }  # fmt: skip
    if given.record:
        write_record(given.record, {**describe_run(), "inputs": inputs, "results": results})


if __name__ == "__main__":
    main()
