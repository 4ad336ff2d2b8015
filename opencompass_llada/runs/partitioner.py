"""Packs a run's cells into tasks, or cuts data sets into shards: OpenCompass partitioners.

OpenCompass numbers shards, so that after another number of splits the same name stands for other
samples, and takes a data set's size from ``.cache/dataset_size.json`` by its abbreviation alone.
Here a shard is named by its samples, and each data set is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from opencompass.partitioners import NaivePartitioner, NumWorkerPartitioner, SizePartitioner
from opencompass.utils import build_dataset_from_cfg

from opencompass_llada.runs.recorded_files import (
    dataset_name,
    find_answer_files,
    model_name,
    shard_name,
)


class PackingPartitioner(NaivePartitioner):
    """Deals the unfinished (model, data set) pairs to tasks that take about as long as each other.

    A task may have several models, as no stock partitioner's: starting its process costs about 10
    seconds, more than a tiny model takes for a dozen cells. Every model's data sets are dealt to
    all tasks by their lengths, so that none waits for a slower model than the others have; loading
    a tiny model twice costs less. A task's cells keep their order, and each task begins with
    another model, so that a fault leaves what can be had. For larger models use the stock one.
    """

    def __init__(self, out_dir: str, num_tasks: int, keep_keys: list[str] | None = None) -> None:
        """Check the number of tasks: at least 1; fewer are made of fewer pairs."""
        super().__init__(out_dir=out_dir, n=1, keep_keys=keep_keys)
        if num_tasks < 1:
            raise ValueError(f"num_tasks={num_tasks} must be at least 1; use 1 or more.")
        self.num_tasks = num_tasks

    def partition(
        self,
        model_dataset_combinations: Sequence[Mapping[str, Any]],
        work_dir: str,
        out_dir: str,
        add_cfg: Mapping[str, Any] | None = None,
    ) -> list[Config]:
        """Make the tasks: ``models``, and ``datasets`` with one list a model.

        Two configs of one name, such as a sampler's for each benchmark, are two models of a task.
        """
        pairs = super().partition(model_dataset_combinations, work_dir, out_dir, {})
        models: list[Any] = []
        own: list[list[Any]] = []
        for pair in pairs:
            model, dataset = pair["models"][0], pair["datasets"][0][0]
            if model not in models:
                models.append(model)
                own.append([])
            own[models.index(model)].append(dataset)
        sizes = _sizes([dataset for datasets in own for dataset in datasets])
        dealt: list[list[list[Any]]] = [[] for _ in range(min(self.num_tasks, len(pairs)))]
        loads = [0.0] * len(dealt)
        for datasets in own:
            places: list[list[int]] = [[] for _ in dealt]
            # The longest first, each to the task with the least to do.
            for place in sorted(range(len(datasets)), key=lambda n: -sizes[id(datasets[n])]):
                least = loads.index(min(loads))
                loads[least] += sizes[id(datasets[place])]
                places[least].append(place)
            for cells, chosen in zip(dealt, places, strict=True):
                cells.append([datasets[place] for place in sorted(chosen)])
        return [
            self._task(
                models[turn:] + models[:turn], cells[turn:] + cells[:turn], work_dir, add_cfg
            )
            for number, cells in enumerate(dealt)
            for turn in [number * len(models) // len(dealt)]
        ]

    @staticmethod
    def _task(
        models: Sequence[Any],
        datasets: Sequence[Sequence[Any]],
        work_dir: str,
        add_cfg: Mapping[str, Any] | None,
    ) -> Config:
        """Return a task of the models that have data sets in it."""
        held = [(model, own) for model, own in zip(models, datasets, strict=True) if own]
        cells = {"models": [model for model, _ in held], "datasets": [list(own) for _, own in held]}
        return Config({**cells, "work_dir": work_dir, **(add_cfg or {})})


def _sizes(datasets: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return what each data set costs, by its identity: the tokens of its prompts.

    One without a length costs as much as the others do in the mean.
    """
    lengths = {id(own): own.get("length") for own in datasets}
    known = [float(n) for n in lengths.values() if isinstance(n, int) and n > 0]
    mean = sum(known) / len(known) if known else 1.0
    return {key: float(n) if isinstance(n, int) and n > 0 else mean for key, n in lengths.items()}


class _ShardsBySample:
    """Over a stock partitioner: names shards by their samples and continues what is there."""

    out_dir: str

    def partition(
        self,
        model_dataset_combinations: Sequence[Mapping[str, Any]],
        work_dir: str,
        out_dir: str,
        add_cfg: Mapping[str, Any] | None = None,
    ) -> list[Config]:
        """Make the tasks, model by model, since each has answers of its own already."""
        tasks: list[Config] = []
        for group in model_dataset_combinations:
            for model in group["models"]:
                self._folder = Path(out_dir) / model_name(model)
                own = [{"models": [model], "datasets": list(group["datasets"])}]
                tasks += super().partition(own, work_dir, out_dir, add_cfg or {})  # type: ignore[misc]
        return tasks

    def count(self, dataset: Mapping[str, Any]) -> int:
        """Return how many samples a data set has now, its test_range applied."""
        sizes: dict[str, int] = self.__dict__.setdefault("_sizes", {})
        key = str(dataset)
        if key not in sizes:
            sizes[key] = len(build_dataset_from_cfg(dataset).test)
        return sizes[key]

    def cut(self, dataset: Mapping[str, Any], step: int) -> list[Any]:
        """Return the configs of the shards, of ``step`` samples each, that are to be made."""
        total, name = self.count(dataset), dataset_name(dataset)
        given = dataset["reader_cfg"].get("test_range") or ""
        files = find_answer_files(self._folder, name)
        shards = [file for file in files if file.samples is not None and file.total == total]
        unsharded = (self._folder / f"tmp_{name}.jsonl").is_file()
        if not isinstance(given, str) or (unsharded and not shards):
            return [dataset]  # what is unfinished is continued as it was begun
        done = [(own.start, own.stop) for f in shards if not f.is_partial and (own := f.samples)]
        begun = [(own.start, own.stop) for f in shards if f.is_partial and (own := f.samples)]
        made = []
        for start, stop in plan_ranges(total, step, done, begun):
            shard = deepcopy(dataset)
            shard["abbr"] = shard_name(name, start, stop, total)  # type: ignore[index]
            shard["reader_cfg"]["test_range"] = f"{given}[{start}:{stop}]"
            made.append(shard)
        # OpenCompass passes over the i-th shard where NAME_i.json lies: here another data set's.
        place = 0
        while place < len(made):
            if (self._folder / f"{name}_{place}.json").exists():
                made.insert(place, dataset)
            place += 1
        return made


class SampleNumWorkerPartitioner(_ShardsBySample, NumWorkerPartitioner):
    """OpenCompass's NumWorkerPartitioner with shards named by their samples."""

    def get_size(self, dataset: Mapping[str, Any]) -> int:
        """Return how many samples a data set has."""
        return self.count(dataset)

    def split_dataset(self, dataset_cfg: Mapping[str, Any]) -> list[Any]:
        """Return the shards of a data set that are to be made."""
        step = -(-self.count(dataset_cfg) // self.num_split)
        return self.cut(dataset_cfg, max(step, self.min_task_size))


class SampleSizePartitioner(_ShardsBySample, SizePartitioner):
    """OpenCompass's SizePartitioner with shards named by their samples."""

    def get_cost(self, dataset: Mapping[str, Any], get_raw_factors: bool = False) -> Any:
        """Return a data set's cost, or its number of samples and the cost of each."""
        size, factor = self.count(dataset), self.get_factor(dataset)
        return (size, factor) if get_raw_factors else size * factor

    def split_dataset(self, dataset_cfg: Mapping[str, Any]) -> list[Any]:
        """Return the shards of a data set that are to be made."""
        size, factor = self.get_cost(dataset_cfg, get_raw_factors=True)
        most = max(self.max_task_size // factor, 1)
        return self.cut(dataset_cfg, -(-size // -(-size // most)))


def plan_ranges(
    total: int, step: int, done: Sequence[tuple[int, int]], begun: Sequence[tuple[int, int]] = ()
) -> list[tuple[int, int]]:
    """Cut what is not done into ranges of ``step``, so that done and planned hold each sample once.

    ``done`` are ranges (start, stop) with all their answers, the first of two that overlap counts;
    ``begun`` ones with some, continued as they are where nothing done overlaps.
    """
    taken: list[tuple[int, int]] = []
    for start, stop in sorted(done):
        if not taken or start >= taken[-1][1]:
            taken.append((start, stop))
    planned: list[tuple[int, int]] = []
    for start, stop in begun:
        if all(stop <= other[0] or start >= other[1] for other in [*taken, *planned]):
            planned.append((start, stop))
    reached = 0
    made = list(planned)
    for start, stop in [*sorted([*taken, *planned]), (total, total)]:
        made += [(i, min(i + step, start)) for i in range(reached, start, step)]
        reached = stop
    return sorted(made)
