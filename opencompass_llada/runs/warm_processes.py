"""Starts a run's CPU tasks as forks of one process that has imported what they need.

A task that is a command imports OpenCompass, torch and transformers anew: 7 seconds of a core
(2 cores, 2026-11-29), at inference and again at scoring. Here one process imports them once, while
the driver reads the config, and each task is a fork of it: still a process of its own, so that a
crash costs that task alone. Tasks on GPUs and jobs of a cluster are commands, as OpenCompass has
them, but where `GPU_VARIABLE` is 1: then tasks on GPUs are forks, too. CUDA starts in the fork; the
process that imports must not have started it, which torch does not where it counts GPUs by NVML.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from typing import Any, cast
from unittest import mock

from opencompass_llada.runs import machine

#: What tasks import, most of it by the first module.
_IMPORTED = ["opencompass_llada.runs.tasks", "opencompass_llada.wrapper"]
#: Variables that those modules read when they are imported, such as HF_HUB_OFFLINE.
_READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")
#: 1 lets tasks on GPUs be forks. Off by default: a package that starts CUDA when it is imported
#: would leave the forks without it.
GPU_VARIABLE = "OPENCOMPASS_LLADA_FORK_GPU_TASKS"
_COUNT_BY_NVML = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
_server: dict[str, Any] = {}
#: A start asks all processes for their status, which can be read once: two threads that did so at
#: the same time would make one of them a failure.
_status_lock = threading.Lock()


@contextmanager
def imports_shared() -> Iterator[None]:
    """Import in a process beside this one, where tasks may run on CPUs here, and end it at last."""
    cores = machine.count_cores()
    if cores == 1 or (machine.count_gpus() and not forks_gpu_tasks()):
        yield
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with mock.patch.dict(os.environ, _COUNT_BY_NVML):
        forkserver.ensure_running()
    _server.update(context=context, variables=_read_variables())
    try:
        yield
    finally:
        _server.clear()
        # There is no public way to end it. It may still import, so it is not asked to.
        server = cast(Any, forkserver)._forkserver
        os.kill(server._forkserver_pid, signal.SIGKILL)
        server._stop()


def forks_gpu_tasks() -> bool:
    """Whether tasks on GPUs are forks here."""
    return os.environ.get(GPU_VARIABLE, "").strip() == "1"


def is_ready() -> bool:
    """Whether tasks can be forks: not where a config has set what was read before."""
    return "context" in _server and _server["variables"] == _read_variables()


def _read_variables() -> dict[str, str]:
    return {name: own for name, own in os.environ.items() if name.startswith(_READ_AT_IMPORT)}


def run_forked(
    work: Callable[..., None],
    *arguments: Any,
    log: str,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Call a function of a module, in a fork, with this process's environment; return its status.

    ``variables`` are put into that environment. Its output goes to the file ``log``. The status of
    a fork that a signal ended is below 0.
    """
    process = _server["context"].Process(
        target=_work,
        args=(work, arguments, log, {**os.environ, **(variables or {})}),
        name=os.path.basename(log),
    )
    with _status_lock:
        process.start()
    connection.wait([process.sentinel])
    with _status_lock:
        process.join()
        return int(process.exitcode)


def _work(
    work: Callable[..., None], arguments: tuple[Any, ...], log: str, environment: Mapping[str, str]
) -> None:
    """Take over output and environment, which a command would have inherited, then do the work."""
    multiprocessing.set_start_method(None, force=True)  # a command's own processes are its forks
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
    if threads := environment.get("OMP_NUM_THREADS"):  # torch read another when it was imported
        import torch

        torch.set_num_threads(int(threads))
    work(*arguments)
