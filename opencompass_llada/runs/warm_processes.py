"""Imports once, beside the driver, what the workers of a run need; those on CPUs are its forks.

OpenCompass, torch and transformers take 7 seconds of a core to import (2 cores, 2026-11-29). One
process does so while the driver reads the config, and forks of it are the workers: still processes
of their own, so that a crash costs one of them alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from typing import Any, cast

from opencompass_llada.runs import machine

_IMPORTED = ["opencompass_llada.runs.worker_imports"]
#: Variables that those modules read when they are imported, such as HF_HUB_OFFLINE.
_READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")
_server: dict[str, Any] = {}
#: A start asks all processes for their status, which can be read once: two threads that did so at
#: the same time would make one of them a failure.
_status_lock = threading.Lock()


@contextmanager
def imports_shared() -> Iterator[None]:
    """Import in a process beside this one, where workers run on CPUs here, and end it at last.

    With one core it would take the driver's time. With GPUs workers import by themselves, since a
    package that starts CUDA when it is imported would leave the forks without it.
    """
    if machine.count_cores() == 1 or machine.count_gpus():
        yield
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
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


def is_ready() -> bool:
    """Whether workers can be forks: not where a config has set what was read before."""
    return "context" in _server and _server["variables"] == _read_variables()


def _read_variables() -> dict[str, str]:
    return {name: own for name, own in os.environ.items() if name.startswith(_READ_AT_IMPORT)}


def start(work: Callable[..., None], *arguments: Any) -> Any:
    """Call a function of a module in a fork, and return its process."""
    process = _server["context"].Process(target=work, args=arguments)
    with _status_lock:
        process.start()
    return process


def wait_for(process: Any) -> int:
    """Wait for the end of a fork and return its status, below 0 where a signal ended it."""
    connection.wait([process.sentinel])
    with _status_lock:
        process.join()
        return int(process.exitcode)
