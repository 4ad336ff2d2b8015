"""Makes the tasks of a stage: one partitioner for all benchmarks, on one machine and on Slurm.

Costs are those of `costs`, measured ones where the run has finished cells; `packing` says where the
line of all samples is cut. OpenCompass numbers shards, so that after another number of splits the
same name stands for other samples; here a shard is named by its samples, and each data set counted.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from opencompass.partitioners import NaivePartitioner
from opencompass.utils import build_dataset_from_cfg, get_infer_output_path

from opencompass_llada.benchmarks.data_checks import find_class, options_of
from opencompass_llada.options import check_value
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs import shards
from opencompass_llada.runs.costs import Calibration, Estimates
from opencompass_llada.runs.packing import (
    LOADS_A_TASK,
    Part,
    Range,
    Span,
    cut_line,
    share_equally,
    share_out,
    split_open,
)
from opencompass_llada.runs.provenance import read_provenance
from opencompass_llada.runs.shards import Pair

logger = logging.getLogger(__name__)

#: Samples of a cell (None: not cut) and who answers them: shard, start, stop.
Shares = tuple[int | None, list[tuple[int, int, int]]]
#: Seconds until a task begins in a fork or a worker, which share their imports.
SHARED_START = 0.2
#: Seconds to score a cell, and to read what the cells of a benchmark share.
SCORING_SECONDS, FIRST_READ = 0.2, 1.0
#: Samples of a cell that nobody counted.
UNCOUNTED = 100


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A model on a data set, its samples, and what one costs."""

    model: int
    model_cfg: Any
    dataset: Any
    total: int | None
    """Samples; None where it is not cut."""
    seconds: float
    """Of one sample; of the whole cell where it is not cut."""
    free: Sequence[Range]
    kept: Sequence[Range]
    step: int = 1

    def spans(self, number: int) -> list[Span]:
        """Return the samples to be answered; ``number`` is the cell's among all."""
        own = [(range_, self.step) for range_ in self.free] + [(range_, 0) for range_ in self.kept]
        return [
            Span(cell=number, start=start, stop=stop, seconds=self.seconds, step=step)
            for (start, stop), step in own
        ]

    def config(self, span: Span) -> Any:
        """Return the data set's config, or that of the shard of these samples."""
        if self.total is None or (span.start, span.stop) == (0, self.total):
            return self.dataset
        shard, total = deepcopy(self.dataset), self.total
        name = recorded.dataset_name(self.dataset)
        shard["abbr"] = recorded.shard_name(name, span.start, span.stop, total)
        given = self.dataset["reader_cfg"].get("test_range") or ""
        shard["reader_cfg"]["test_range"] = f"{given}[{span.start}:{span.stop}]"
        return shard


class CostAwarePartitioner(NaivePartitioner):
    """Deals what is not finished to tasks by its cost, the longest task first.

    A task may have several models, as no stock partitioner's, and a cell several tasks, which then
    have shards of it. Within a task models and cells keep their order.
    """

    def __init__(
        self,
        out_dir: str,
        num_workers: int = 1,
        num_tasks: int | None = None,
        task_seconds: float | None = None,
        start_seconds: float = SHARED_START,
        keep_keys: list[str] | None = None,
    ) -> None:
        """Check the options.

        Args:
            out_dir: ``RUN/predictions`` or ``RUN/results``; OpenCompass gives it.
            num_workers: Tasks at a time, over all nodes.
            num_tasks: So many tasks of equal cost, whatever that is; None decides by cost.
            task_seconds: How long a task shall be, such as for a time limit; None decides by cost.
            start_seconds: What a task's process takes to start.
            keep_keys: Parts of the config that tasks get, OpenCompass's own by default.
        """
        super().__init__(out_dir=out_dir, n=1, keep_keys=keep_keys)
        for name, value in (("num_workers", num_workers), ("num_tasks", num_tasks)):
            if check_value(name, value, int | None) is not None and value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1; use 1 or more.")
        if task_seconds is not None and task_seconds <= 0:
            raise ValueError(f"task_seconds={task_seconds} must be above 0; leave it out.")
        self.num_workers, self.num_tasks, self.task_seconds = num_workers, num_tasks, task_seconds
        self.start_seconds = start_seconds
        #: In the stage of results cells are not cut, and cost all the same.
        self.scores = Path(out_dir).name == recorded.STAGES[1]
        self._sizes: dict[str, int | None] = {}
        self._distinct: dict[str, bool] = {}
        self._estimates = Estimates()

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
        cells = self._list_cells(model_dataset_combinations, Path(work_dir), Path(out_dir))
        by_processes: dict[tuple[int, int], list[int]] = {}
        for number, cell in enumerate(cells):
            run = cell.model_cfg.get("run_cfg") or {}
            key = (run.get("num_gpus", 0), run.get("num_procs", 1))
            by_processes.setdefault(key, []).append(number)
        parts = [part for own in by_processes.values() for part in self._cut(cells, own)]
        parts.sort(key=lambda part: -sum(span.cost for span in part))
        return [_make_task(cells, part, work_dir, add_cfg or {}) for part in parts]

    def _cut(self, cells: Sequence[_Cell], numbers: Sequence[int]) -> list[Part]:
        """Return the tasks of cells that ask for the same processes."""
        spans = [span for number in numbers for span in cells[number].spans(number)]
        # Within a model the longest samples come first: what runs out of memory does so at once.
        spans.sort(key=lambda span: (cells[span.cell].model, -span.seconds))
        total = sum(span.cost for span in spans)
        load = self.start_seconds
        if self.scores:
            load += FIRST_READ
        else:
            models = {cells[number].model: cells[number].model_cfg for number in numbers}
            load += max(self._estimates.model(model).load_seconds for model in models.values())
        least = LOADS_A_TASK * load
        if self.num_tasks is not None or self.task_seconds is not None:
            number = self.num_tasks or max(1, round(total / (self.task_seconds or total)))
            sizes, least = share_equally(total, number), 0.0
        elif self.num_workers == 1:
            sizes = _share_by_model(spans, cells, least)
        else:
            sizes = share_out(total, self.num_workers, least)
        return [part for part in cut_line(spans, sizes, least) if part]

    def _list_cells(
        self, combinations: Sequence[Mapping[str, Any]], run_path: Path, out_dir: Path
    ) -> list[_Cell]:
        """List the cells that have something to be done."""
        cfg = {"model_dataset_combinations": combinations}
        pairs, names = list(recorded.list_pairs(cfg)), recorded.list_names(cfg)
        known, own = Calibration(), None
        if not self.scores:
            own = shards.find_own(run_path, pairs, partial(self.cut_for_shards, pairs))
            known = self._estimates.calibrate(pairs, read_provenance(run_path))
        places = _number_models(pairs)
        cells = []
        for place, (model, dataset) in zip(places, pairs, strict=True):
            if Path(get_infer_output_path(model, dataset, str(out_dir))).exists():
                continue
            if self.scores:
                cells.append(_whole(place, model, dataset, SCORING_SECONDS))
                continue
            seconds = self._estimates.sample(model, dataset) * known.factor(model, dataset)
            folder = out_dir / recorded.model_name(model)
            files = recorded.find_answer_files(folder, recorded.dataset_name(dataset), names)
            shares = None if own is None else own.shares(model, dataset)
            mine = [] if own is None or shares is None else shares.of(own.shard.index)
            if shares is None:
                cells.append(self._look(place, model, dataset, seconds, files))
            elif mine and shares.total is None:
                cells.append(_whole(place, model, dataset, seconds * rows_or_guess(dataset)))
            elif mine:
                self._sizes[str(dataset)] = shares.total
                cells.append(self._look(place, model, dataset, seconds, files, mine))
        return [cell for cell in cells if cell.free or cell.kept]

    def _look(
        self,
        place: int,
        model: Any,
        dataset: Any,
        seconds: float,
        files: Sequence[recorded.AnswerFile],
        allowed: list[Range] | None = None,
    ) -> _Cell:
        """Return what is to be done of a cell, given the files of it; ``allowed``: of these."""
        by_samples = [file for file in files if file.samples is not None]
        # What was begun is continued as it is; not by a shard, with others at the same cell.
        begun = not by_samples and any(file.is_partial for file in files) and allowed is None
        is_one_task = self.num_workers == 1 and (self.num_tasks or 1) == 1 and allowed is None
        total = None
        if not begun and (by_samples or not is_one_task or self.task_seconds):
            total = self.count_to_cut(model, dataset)
        if not total:  # of an empty one, too, whose task says so
            return _whole(place, model, dataset, seconds * rows_or_guess(dataset))
        ranges = [(s.start, s.stop, f.is_partial) for f in by_samples
                  if f.total == total and (s := f.samples) is not None]  # fmt: skip
        free, kept = split_open(
            allowed if allowed is not None else [(0, total)],
            [(start, stop) for start, stop, is_partial in ranges if not is_partial],
            [(start, stop) for start, stop, is_partial in ranges if is_partial],
        )
        return _Cell(
            model=place, model_cfg=model, dataset=dataset, total=total, seconds=seconds,
            free=free, kept=kept, step=max(1, int(model.get("batch_size") or 1)),
        )  # fmt: skip

    def cut_for_shards(self, pairs: Sequence[Pair], number: int) -> dict[tuple[str, str], Shares]:
        """Cut all cells into parts of equal cost, whatever is there of them: see `shards`."""
        cells = []
        for place, (model, dataset) in zip(_number_models(pairs), pairs, strict=True):
            seconds = self._estimates.sample(model, dataset)
            total = self.count_to_cut(model, dataset)
            if not total:
                cells.append(_whole(place, model, dataset, seconds * rows_or_guess(dataset)))
                continue
            step = max(1, int(model.get("batch_size") or 1))
            cells.append(
                _Cell(
                    model=place, model_cfg=model, dataset=dataset, total=total, seconds=seconds,
                    free=[(0, total)], kept=[], step=step,
                )
            )  # fmt: skip
        spans = [span for place, cell in enumerate(cells) for span in cell.spans(place)]
        spans.sort(key=lambda span: (cells[span.cell].model, -span.seconds))
        size = sum(span.cost for span in spans) / number
        ranges: dict[int, list[tuple[int, int, int]]] = {place: [] for place in range(len(cells))}
        for shard, part in enumerate(cut_line(spans, [size] * number, size / 10)):
            for span in part:
                ranges[span.cell].append((shard, span.start, span.stop))
        return {
            (recorded.model_name(cell.model_cfg), recorded.dataset_name(cell.dataset)): (
                cell.total, sorted(ranges[place], key=lambda own: own[1])
            )
            for place, cell in enumerate(cells)
        }  # fmt: skip

    def count_to_cut(self, model: Mapping[str, Any], dataset: Mapping[str, Any]) -> int | None:
        """Return a cell's samples, None where parts of it would be answered otherwise than all.

        So one that takes samples at random, and one of equal prompts for a sampler that draws: a
        repeat's random numbers depend on those before it.
        """
        given = (dataset.get("reader_cfg") or {}).get("test_range") or ""
        if "reader_cfg" not in dataset or not isinstance(given, str):
            return None
        total = self.count(dataset)
        if total is None or not self._estimates.draws(model):
            return total
        key = str(dataset)
        if key not in self._distinct:
            self._distinct[key] = has_distinct_prompts(dataset)
        return total if self._distinct[key] else None

    def count(self, dataset: Mapping[str, Any]) -> int | None:
        """Return how many samples a data set has; None where it cannot be loaded here.

        Its task then says why.
        """
        key = str(dataset)
        if key not in self._sizes:
            self._sizes[key] = count_samples(dataset)
        return self._sizes[key]


#: What earlier versions' dumped configs name; its options are among those of this one.
PackingPartitioner = CostAwarePartitioner


def _whole(place: int, model: Any, dataset: Any, seconds: float) -> _Cell:
    return _Cell(
        model=place, model_cfg=model, dataset=dataset, total=None, seconds=seconds,
        free=[(0, 1)], kept=[], step=0,
    )  # fmt: skip


def _make_task(
    cells: Sequence[_Cell], part: Part, work_dir: str, add_cfg: Mapping[str, Any]
) -> Config:
    """Return the config of a task of these samples."""
    models: dict[int, Any] = {}
    datasets: dict[int, list[Any]] = {}
    for span in sorted(part, key=lambda own: (own.cell, own.start)):
        cell = cells[span.cell]
        models[cell.model] = cell.model_cfg
        datasets.setdefault(cell.model, []).append(cell.config(span))
    made = {"models": list(models.values()), "datasets": list(datasets.values())}
    return Config({**made, "work_dir": work_dir, **add_cfg})


def _share_by_model(spans: Sequence[Span], cells: Sequence[_Cell], least: float) -> list[float]:
    """Return the seconds of each model, so that what ends one leaves the others; short ones join.

    Spans lie model by model.
    """
    by_model: dict[int, float] = {}
    for span in spans:
        place = cells[span.cell].model
        by_model[place] = by_model.get(place, 0.0) + span.cost
    sizes = [0.0]
    for seconds in by_model.values():
        if sizes[-1] >= least:
            sizes.append(0.0)
        sizes[-1] += seconds
    return sizes


def _number_models(pairs: Sequence[Pair]) -> list[int]:
    """Return the number of each pair's model, equal configs having one."""
    models: list[Any] = []
    by_id: dict[int, int] = {}
    for model, _ in pairs:
        if id(model) not in by_id:
            if model not in models:
                models.append(model)
            by_id[id(model)] = models.index(model)
    return [by_id[id(model)] for model, _ in pairs]


def has_distinct_prompts(dataset: Mapping[str, Any]) -> bool:
    """Say whether no two samples of a data set have the same input; it is built.

    False where that fails: its task then says why.
    """
    try:
        rows = build_dataset_from_cfg(dataset).test
        columns = dataset["reader_cfg"].get("input_columns") or []
        names = [columns] if isinstance(columns, str) else list(columns)
        inputs = [json.dumps([row[name] for name in names], default=str) for row in rows]
    except Exception as error:
        name = recorded.dataset_name(dataset)
        logger.warning("%s is not cut: %s: %s", name, type(error).__name__, error)
        return False
    return len(set(inputs)) == len(inputs)


def count_samples(dataset: Mapping[str, Any]) -> int | None:
    """Return a data set's samples, its test_range applied; it is built where nothing else says."""
    if (number := known_rows(dataset)) is not None:
        return number
    try:
        return len(build_dataset_from_cfg(dataset).test)
    except Exception as error:
        name = recorded.dataset_name(dataset)
        logger.warning("%s is not cut: it could not be loaded here (%s).", name, error)
        return None


def rows_or_guess(dataset: Mapping[str, Any]) -> int:
    """Return a data set's samples as far as its config tells, else a guess."""
    return known_rows(dataset) or UNCOUNTED


def known_rows(dataset: Mapping[str, Any]) -> int | None:
    """Return a data set's samples where its config tells them; None where only its data does."""
    try:
        kind, options = find_class(dataset["type"]), options_of(dataset)
        rows = kind.count_rows(kind.check_options(**options))
    except (AttributeError, KeyError, ValueError, TypeError):  # a class of others, or a fault
        return None
    given = (dataset.get("reader_cfg") or {}).get("test_range") or ""
    if rows is None or not isinstance(given, str):
        return None
    chosen = range(rows * int(dataset.get("n") or 1))
    if re.sub(r"\[-?\d*:-?\d*\]", "", given):
        return None
    for start, stop in re.findall(r"\[(-?\d*):(-?\d*)\]", given):
        chosen = chosen[int(start) if start else None : int(stop) if stop else None]
    return len(chosen)
