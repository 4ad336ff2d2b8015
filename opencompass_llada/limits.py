"""Bounds the time and the memory of a stranger's program that runs in this process."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows, where memory stays unbounded
    resource = None  # type: ignore[assignment]


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError where the block takes longer; not for threads inside it."""
    lock, thread, is_over = threading.Lock(), ctypes.c_ulong(threading.get_ident()), False
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def stop() -> None:
        with lock:
            if not is_over:
                raise_in(thread, ctypes.py_object(TimeoutError))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            is_over = True
        raise_in(thread, None)  # takes back what was not raised yet
        timer.cancel()


@contextmanager
def limited_memory(num_bytes: int) -> Iterator[None]:
    """Raise MemoryError where the block takes more than this beside what there is; Linux alone."""
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
