"""Imports once, in the driver, what the workers of a run need; those on CPUs are its forks.

OpenCompass, torch and transformers take 7 seconds of a core to import (2 cores, 2026-11-29). The
driver reads the config, which imports most of that, imports the rest and forks into a process that
does nothing but fork into workers: still processes of their own, so that a crash costs one alone.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, resource_tracker
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
def imports_shared(*, may_import_beside: bool = True) -> Iterator[None]:
    """Let workers on CPUs be forks, and end the process that they are forks of at last.

    That is a fork of this one, once it has called `fork_here`. A process with threads, which a fork
    would lose, starts a new Python at once, which imports beside it, if it may; with one core that
    would take its own time. With GPUs workers import by themselves, since a package that starts
    CUDA when it is imported would leave the forks without it. Inside another it is that one.
    """
    if _server or machine.count_gpus() or (_has_threads() and not may_import_beside):
        yield
        return
    _server["variables"] = _read_variables()
    if _has_threads():
        _start_beside()
    try:
        yield
    finally:
        is_started = "context" in _server
        _server.clear()
        if is_started:
            # There is no public way to end it. It may still import, so it is not asked to.
            server = cast(Any, forkserver)._forkserver
            os.kill(server._forkserver_pid, signal.SIGKILL)
            server._stop()


def fork_here() -> None:
    """Import what workers need, and fork the process that they will be forks of."""
    if "variables" not in _server or "context" in _server:
        return
    for name in _IMPORTED:
        with suppress(ImportError):  # who needs the module says what is wrong
            importlib.import_module(name)
    if _has_threads():
        _start_beside()
        return
    # What follows is `forkserver.ensure_running` with a fork in place of a new Python.
    resource_tracker.ensure_running()
    server = cast(Any, forkserver)._forkserver
    with socket.socket(socket.AF_UNIX) as listener:
        address = cast(Any, connection).arbitrary_address("AF_UNIX")
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        alive_there, alive_here = os.pipe()
        sys.stdout.flush()  # or each worker would write it once more
        sys.stderr.flush()
        if not (pid := os.fork()):
            try:
                os.close(alive_here)
                forkserver.main(listener.fileno(), alive_there, [])
            except Exception:
                traceback.print_exc()
            finally:  # it must not go on with the driver's work
                os._exit(0)
        os.close(alive_there)
    server._forkserver_address, server._forkserver_alive_fd = address, alive_here
    server._forkserver_pid = pid
    _server["context"] = multiprocessing.get_context("forkserver")


def _start_beside() -> None:
    if machine.count_cores() > 1:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        forkserver.ensure_running()
        _server["context"] = context


def _has_threads() -> bool:
    """Whether a fork of this process would lose threads, as those of macOS's own libraries."""
    return threading.active_count() > 1 or sys.platform == "darwin"


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
