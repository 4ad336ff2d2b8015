"""Keeps processes that have imported what tasks need, and gives them one job after another.

A worker is a fork of `warm_processes`' server, or where there is none, or for a GPU, a process that
imports by itself, once for all of its jobs. It loads a checkpoint once (`shared_weights`). A job is
a call of a module's function; what it writes is its log. A worker whose job failed is not used
again, and one that dies takes its own job with it alone.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from opencompass_llada.runs import warm_processes
from opencompass_llada.runs.quick_imports import imports_uncollected
from opencompass_llada.runs.shared_data_sets import sharing_data_sets
from opencompass_llada.runs.task_lifetime import end_with_the_run
from opencompass_llada.shared_weights import release_device_memory, sharing_weights

DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
THREADS_VARIABLE = "OMP_NUM_THREADS"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is asked to do."""

    work: Callable[..., None]
    """A function that can be imported; a SystemExit is its status."""
    arguments: tuple[Any, ...] = ()
    log: str
    """File that its output goes to."""
    environment: Mapping[str, str]
    """All variables, as a command would inherit them."""
    folder: str
    """The current one."""
    goes_on: bool = False
    """Whether the log is that of an earlier try, and is kept."""


class WorkerDied(Exception):
    """A worker ended without the status of its job; a signal's number is below 0."""

    def __init__(self, status: int) -> None:
        """Take the process's own status."""
        super().__init__(status)
        self.status = status or 1

    def __str__(self) -> str:
        """Return what happened."""
        ended = f"signal {-self.status}" if self.status < 0 else f"status {self.status}"
        return f"its process died ({ended})"


class Worker:
    """One process."""

    def __init__(self, first: Job) -> None:
        """Start it for a first job, which tells the devices that it sees for good."""
        self._here, there = multiprocessing.Pipe()
        self._process: Any
        if warm_processes.is_ready() and not first.environment.get(DEVICES_VARIABLE):
            self._process = warm_processes.start(_serve_in_fork, there)
        else:
            self._process = _start_fresh(there, first)
        there.close()

    def run(self, job: Job) -> int:
        """Do a job and return its status; `WorkerDied` where there is none."""
        try:
            self._here.send(job)
            return int(self._here.recv())
        except (EOFError, OSError):
            raise WorkerDied(self.end()) from None

    def end(self) -> int:
        """Let it end, which it does when nobody can ask it any more; return its status."""
        self._here.close()
        if isinstance(self._process, subprocess.Popen):
            return self._process.wait()
        return warm_processes.wait_for(self._process)


class WorkerPool:
    """The workers of a run, by the devices that they see; threads may share it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._idle: dict[str, list[Worker]] = {}
        self._lock = threading.Lock()

    def run(self, job: Job) -> int:
        """Give a job to an idle worker with its devices, or to a new one; return its status."""
        idle = self._idle.setdefault(job.environment.get(DEVICES_VARIABLE, "none named"), [])
        with self._lock:
            worker = idle.pop() if idle else None
        worker = worker or Worker(job)
        status = worker.run(job)
        if status:  # what made it fail may have left the process unfit for another
            worker.end()
        else:
            with self._lock:
                idle.append(worker)
        return status

    def has_idle(self, devices: str) -> bool:
        """Whether a worker that sees these devices, '' for none, waits for a job."""
        return bool(self._idle.get(devices))

    def free(self, devices: Iterable[int]) -> None:
        """End idle workers that hold weights on these GPUs, which another process will take."""
        names = {str(device) for device in devices}
        with self._lock:
            held = [key for key in self._idle if names.intersection(key.split(","))]
            ending = [self._idle[key].pop() for key in held for _ in list(self._idle[key])]
        for worker in ending:
            worker.end()

    def close(self) -> None:
        """End all workers."""
        for worker in [worker for idle in self._idle.values() for worker in idle]:
            worker.end()
        self._idle.clear()


def _start_fresh(there: connection.Connection, job: Job) -> subprocess.Popen[bytes]:
    """Start a process that imports by itself; until its first job it writes to that one's log."""
    command = [sys.executable, "-m", __name__, str(there.fileno()), *sys.argv]
    with open(job.log, "ab" if job.goes_on else "wb") as log:
        return subprocess.Popen(
            command, pass_fds=[there.fileno()], env=dict(job.environment), cwd=job.folder,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def _serve_in_fork(there: connection.Connection) -> None:
    multiprocessing.set_start_method(None, force=True)  # a command's own processes are its forks
    serve(there)


def serve(there: connection.Connection) -> None:
    """Do jobs until nobody can ask for more, or one failed; then end the process."""
    # A process that a job starts and leaves must not make a dead worker look alive.
    os.set_inheritable(there.fileno(), False)
    os.register_at_fork(after_in_child=there.close)
    random: dict[str, Any] = {}
    with sharing_weights(), sharing_data_sets(), suppress(EOFError, BrokenPipeError):
        with imports_uncollected():
            job = there.recv()  # which imports what its function needs
        gc.freeze()  # what was imported is there for good, and need not be looked through again
        if not job.environment.get(DEVICES_VARIABLE):
            _keep_memory()
        while (status := _do(job, random)) == 0:
            there.send(status)
            job = there.recv()
        there.send(status)
    os._exit(0)  # what a job leaves is on the disk; taking Python down would take its time


def _do(job: Job, random: dict[str, Any]) -> int:
    """Do a job as a process of its own would, as far as what it writes and draws goes."""
    os.environ.clear()
    os.environ.update(job.environment)
    os.chdir(job.folder)
    kept = os.O_APPEND if job.goes_on else os.O_TRUNC
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | kept, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    os.close(log)
    if not random:
        end_with_the_run()
    _restore_random_numbers(random)
    try:
        job.work(*job.arguments)
        return 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        gc.collect()  # models say their totals in the job's log when they go
        release_device_memory()
        sys.stdout.flush()
        sys.stderr.flush()


def _keep_memory() -> None:
    """Let what is freed stay with the process, where the C library can (glibc's mallopt(3)).

    Each pass on a CPU would ask for the same pages again: 0.26 s of 3.15 s for four passes of
    tiny-llada over two rows of 2,048 tokens (one core, 2026-11-30). Arithmetic stays as it is.
    """
    trim_threshold, mmap_threshold = -1, -3
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 2**25)  # the most that all versions take
        mallopt(trim_threshold, 2**31 - 1)


def _restore_random_numbers(first: dict[str, Any]) -> None:
    """Let each job draw what it would draw in a new process; set its threads on the way."""
    import numpy
    import torch

    # torch read another when it was imported; "4,2" is of nested levels, of which it has one.
    threads = os.environ.get(THREADS_VARIABLE, "").partition(",")[0].strip()
    if threads.isdecimal() and int(threads):
        torch.set_num_threads(int(threads))
    if not first:
        first.update(
            numpy=numpy.random.get_state(),  # noqa: NPY002 (what data sets of others draw from)
            torch=torch.get_rng_state(),
        )
        return
    numpy.random.set_state(first["numpy"])  # noqa: NPY002
    torch.set_rng_state(first["torch"])
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(torch.initial_seed())


def main(arguments: Sequence[str]) -> None:
    """Serve the connection that is named, with the command line of the driver after it."""
    there = connection.Connection(int(arguments[0]))
    sys.argv[:] = arguments[1:]
    serve(there)


if __name__ == "__main__":
    from opencompass_llada.runs import workers  # the module of that name holds `Job`

    workers.main(sys.argv[1:])
