"""Orders the tasks of a run on this machine: which comes next, and on which GPUs.

Holds besides what the two stages of a run share here: the workers, and how each cell is scored, so
that inference can do that where the answers are. Workers that are idle at the end draw figures.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from opencompass_llada.runs.recorded_files import dataset_name, model_name
from opencompass_llada.runs.workers import DEVICES_VARIABLE, Job, WorkerDied, WorkerPool

CellName = tuple[str, str]
"""Names of a model and a data set."""


@dataclass(frozen=True, kw_only=True)
class LocalSession:
    """What the stages of one run share."""

    workers: WorkerPool = field(default_factory=WorkerPool)
    scoring: dict[CellName, Config] = field(default_factory=dict)
    """The task that scores a cell alone; empty where the run does not score."""

    def score_by(self, tasks: Iterable[Mapping[str, Any]]) -> None:
        """Take the tasks of scoring, to be divided among those of inference."""
        for task in tasks:
            for model, datasets in zip(task["models"], task["datasets"], strict=True):
                for dataset in datasets:
                    own = {**task, "models": [model], "datasets": [[dataset]]}
                    self.scoring[model_name(model), dataset_name(dataset)] = Config(own)


_current: ContextVar[LocalSession | None] = ContextVar("local session", default=None)


@contextmanager
def local_session() -> Iterator[LocalSession]:
    """Share workers inside; inside another session it is that one."""
    if (outer := _current.get()) is not None:
        yield outer
        return
    session = LocalSession()
    token = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(token)
        session.workers.close()


@contextmanager
def working_beside(work: Callable[..., None], *arguments: Any, log: Path) -> Iterator[None]:
    """Call a module's function in an idle worker of the run while the block runs.

    Where no worker without a GPU waits, it is called here, before the block. What it writes is
    ``log``; what it raises there, or a worker that dies, is a RuntimeError after the block.
    """
    with local_session() as session:
        if not session.workers.has_idle(""):
            work(*arguments)
            yield
            return
        log.parent.mkdir(parents=True, exist_ok=True)
        job = Job(
            work=work,
            arguments=arguments,
            log=str(log),
            environment={**os.environ, DEVICES_VARIABLE: ""},
            folder=os.getcwd(),
        )
        with ThreadPoolExecutor(1) as thread:
            status = thread.submit(session.workers.run, job)
            yield
        try:
            fault = "it failed" if status.result() else ""
        except WorkerDied as death:
            fault = str(death)
        if fault:
            raise RuntimeError(
                f"the figures of summary/, drawn beside the report, are not complete: {fault}, see "
                f"{log}. The report is whole; the same command with -m viz -r draws them again."
            )


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A task's turn."""

    place: int
    """Of the task in the list."""
    devices: tuple[int, ...]


class DeviceQueue:
    """Tasks that wait for GPUs, in order; threads take their turns and give the GPUs back.

    Of two tasks that could come next, the one goes first whose checkpoint a free GPU's worker has.
    """

    def __init__(self, tasks: Sequence[Any], devices: Sequence[int], tasks_a_device: int) -> None:
        """Take tasks of OpenCompass and the numbers of the GPUs that may be used."""
        for task in tasks:
            if task.num_gpus > len(devices):
                raise ValueError(
                    f"{task.name} asks for {task.num_gpus} GPUs, and this run sees {len(devices)}. "
                    "Set num_gpus in the model's run_cfg, or LLADA_GPUS, to what there is."
                )
        if tasks_a_device < 1:
            raise ValueError(
                f"max_workers_per_gpu={tasks_a_device} must be at least 1, or no task on a GPU "
                "would ever begin; use 1"
            )
        self._tasks = tasks
        self._waiting = list(range(len(tasks)))
        self._room = dict.fromkeys(devices, tasks_a_device)
        self._loaded: dict[int, str] = {}
        self._changed = threading.Condition()

    def take(self) -> Turn | None:
        """Wait for a task's turn and return it; None where no task waits any more."""
        with self._changed:
            while self._waiting:
                if (turn := self._choose()) is not None:
                    self._waiting.remove(turn.place)
                    for device in turn.devices:
                        self._room[device] -= 1
                        self._loaded[device] = self._checkpoint(turn.place)
                    return turn
                self._changed.wait()
        return None

    def give_back(self, turn: Turn) -> None:
        """Free the GPUs of a turn."""
        with self._changed:
            for device in turn.devices:
                self._room[device] += 1
            self._changed.notify_all()

    def _choose(self) -> Turn | None:
        free = [device for device, room in self._room.items() if room > 0]
        fitting = [place for place in self._waiting if self._tasks[place].num_gpus <= len(free)]
        if not fitting:
            return None
        for place in fitting:
            for device in free:
                is_here = self._loaded.get(device) == self._checkpoint(place)
                if is_here and self._tasks[place].num_gpus == 1:
                    return Turn(place=place, devices=(device,))
        free.sort(key=lambda device: device in self._loaded)
        return Turn(place=fitting[0], devices=tuple(free[: self._tasks[fitting[0]].num_gpus]))

    def _checkpoint(self, place: int) -> str:
        return str(self._tasks[place].model_cfgs[0].get("path"))
