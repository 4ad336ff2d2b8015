"""Bounds the time, the memory and the numbers of a chat template, which is a stranger's program.

transformers renders templates in jinja's sandbox, which keeps them from files and processes and not
from loops without end, ``'x' * 10**10`` or ``10 ** (10 ** 9)``. Knows no conversation.
"""

from __future__ import annotations

import ctypes
import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from jinja2.sandbox import SandboxedEnvironment

try:
    import resource
except ImportError:  # not on Windows, where memory stays unbounded
    resource = None  # type: ignore[assignment]

_MOST_EXPONENT = 1000


@contextmanager
def bounded(seconds: float, num_bytes: int) -> Iterator[None]:
    """Run what is inside for a limited time and with limited memory; not for threads inside.

    Args:
        seconds: After these Python code inside is stopped between two of its steps.
        num_bytes: Memory that may be taken besides what the process has; on Linux alone.

    Raises:
        TimeoutError: If it takes longer.
        MemoryError: If it takes more.
        ValueError: If it raises a number to a power above 1,000, which nothing could stop.
    """
    table = {**SandboxedEnvironment.default_binop_table, "**": _power}
    with (
        mock.patch.object(SandboxedEnvironment, "intercepted_binops", frozenset({"**"})),
        mock.patch.object(SandboxedEnvironment, "default_binop_table", table),
        _limited_memory(num_bytes),
        _limited_time(seconds),
    ):
        yield


def _power(base: Any, exponent: Any) -> Any:
    if not abs(exponent) <= _MOST_EXPONENT:
        raise ValueError(f"the template asks for a power of {exponent}")
    return operator.pow(base, exponent)


@contextmanager
def _limited_time(seconds: float) -> Iterator[None]:
    lock, thread, is_over = threading.Lock(), ctypes.c_ulong(threading.get_ident()), False

    def stop() -> None:
        with lock:
            if not is_over:
                _raise_in(thread, ctypes.py_object(TimeoutError))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            is_over = True
        _raise_in(thread, None)  # takes back what was not raised yet
        timer.cancel()


def _raise_in(thread: ctypes.c_ulong, error: Any) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)


@contextmanager
def _limited_memory(num_bytes: int) -> Iterator[None]:
    facts = Path("/proc/self/statm")
    if resource is None or not facts.is_file():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(facts.read_text().split()[0]) * resource.getpagesize()
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([taken + num_bytes, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
