"""Stopping at the next step when asked to (SIGTERM, as Slurm sends before it kills; Ctrl-C)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def outlive_signals(worker: int = 0) -> None:
    """Let a process that makes rows live until its trainer, which gets the same signal, has saved.

    Slurm and terminals signal all processes of a job. The worker ends when its trainer does, even
    by SIGKILL and with rows that nobody takes from it (DataLoader's own worker then waits on).

    Args:
        worker: Its number, as DataLoader passes it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    trainer = multiprocessing.parent_process()
    assert trainer is not None, "a worker has a trainer"
    trainer.join()
    os._exit(1)


def end_workers() -> None:
    """Kill the daemon processes that are left when the interpreter exits, as after an error.

    Multiprocessing asks them with SIGTERM, which a worker ignores, and would wait for ever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's handler raises for a dead worker
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class StopRequest:
    """A context in which a signal sets a flag instead of ending the process.

    Attributes:
        signal: The signal's number; None while there was none. A second one ends the process.
    """

    def __init__(self) -> None:
        """Ask for nothing."""
        self.signal: int | None = None
        self._earlier: dict[int, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def __enter__(self) -> StopRequest:
        """Take over the signals."""
        self._earlier = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._earlier = {}
