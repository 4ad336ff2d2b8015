"""Divides the machine's cores among the tasks of OpenCompass's local runner.

Every task process would otherwise start one thread a core: two tasks on two cores take five times
as long as with one thread each (measured: 22 cells of tiny-llada, 25 to 41 s against 5 s). Starts
and watches tasks as the stock runner does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opencompass.runners import LocalRunner

from opencompass_llada.logs import get_logger

logger = get_logger(__name__)

THREADS_VARIABLE = "OMP_NUM_THREADS"


class CoreSharingLocalRunner(LocalRunner):
    """Takes the stock runner's keywords; leaves OMP_NUM_THREADS alone where it is set."""

    def launch(self, tasks: Sequence[Any]) -> Any:
        """Run all tasks and wait for them; returns pairs of task name and exit status."""
        if self.debug:  # The tasks run one by one in this process.
            return super().launch(tasks)
        num_processes = max(1, min(self.max_num_workers, len(tasks)))
        with _threads_for_children(max(1, (os.cpu_count() or 1) // num_processes)):
            return super().launch(tasks)


@contextmanager
def _threads_for_children(num_threads: int) -> Iterator[None]:
    """Set the number of threads that child processes start, unless the user has set it."""
    if THREADS_VARIABLE in os.environ:
        yield
        return
    os.environ[THREADS_VARIABLE] = str(num_threads)
    logger.info(
        "%s=%d for each task, a share of this machine's cores.", THREADS_VARIABLE, num_threads
    )
    try:
        yield
    finally:
        del os.environ[THREADS_VARIABLE]
