"""Ends a run's tasks with the run: a killed driver leaves no process and no Slurm job behind.

The driver names itself in an environment variable. A task watches the process that is named there
(on another host: the renewal of the run's lock); a driver that is stopped by a signal ends its
tasks before itself. Jobs of Slurm carry the run's mark in their name.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from opencompass_llada import files

VARIABLE = "OPENCOMPASS_LLADA_RUN"
#: Seconds between two looks at the driver.
_PERIOD = 1.0
#: Seconds in which the driver's death is followed by a search for jobs that still start.
_SEARCH_SECONDS = 20.0
_ORPHANED = 75
_stopping = threading.Event()


@contextmanager
def tasks_end_with_this(
    *, in_tasks: bool, on_slurm: bool, cleared: Callable[[], None]
) -> Iterator[None]:
    """Mark this process as a run's driver, so that the tasks that it starts end with it.

    Args:
        in_tasks: Whether tasks are processes of their own; else a signal ends in an exception here.
        on_slurm: Whether tasks are jobs of Slurm, which nothing on this machine ends by itself.
        cleared: Called before a signal ends this process: gives back what it holds.
    """
    mark = {**files.describe_owner(), "token": f"llada-{uuid.uuid4().hex[:12]}"}
    _watch_in_forks()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != mark["pid"]:  # a fork that inherited this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if not in_tasks:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        _stopping.set()
        end_tasks(str(mark["token"]))
        cleared()
        name = signal.Signals(number).name
        sys.stderr.write(
            f"{name}: the run and its tasks are stopped; what is finished is kept. Go on with -r.\n"
        )
        sys.stderr.flush()
        os._exit(128 + number)

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup, or behind `&` in a script, who started this has it ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                handlers[number] = signal.signal(number, stop)
    if on_slurm:
        others = {name: value for name, value in os.environ.items() if name != VARIABLE}
        subprocess.Popen(  # it outlives the run
            [sys.executable, "-m", __name__, json.dumps(mark)], start_new_session=True, env=others,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    earlier = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = json.dumps(mark)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.pop(VARIABLE, None)
        if earlier is not None:
            os.environ[VARIABLE] = earlier


def is_stopping() -> bool:
    """Say whether a signal is ending this driver and its tasks."""
    return _stopping.is_set()


def end_with_the_run(
    folder: str | Path | None = None,
    said: str = "task: the run that started this task has ended; so does the task.\n",
) -> None:
    """End a task's process, from a thread, when the driver that started it is gone.

    The lock of the run's folder, once it is known, tells a task on another host.
    """
    if (mark := _read_mark()) is None:
        return

    def look() -> None:
        while _is_there(mark, None if folder is None else Path(folder)):
            time.sleep(_PERIOD)
        sys.stderr.write(said)
        sys.stderr.flush()
        os._exit(_ORPHANED)

    threading.Thread(target=look, daemon=True, name="end with the run").start()


@functools.cache
def _watch_in_forks() -> None:
    """Let forks of a driver (the workers of OpenCompass's Slurm runner) end with it, too."""
    os.register_at_fork(after_in_child=lambda: end_with_the_run(said=""))


def mark_job(template: str, task: str = "") -> str:
    """Return a runner's command with the run's mark in front of the name of its Slurm job.

    A job of DLC is named by the task, too, but without quotes, which its spaces and brackets need.
    """
    mark = _read_mark()
    if task:
        plain = re.sub(r"[^\w.-]+", "-", task[:200]).strip("-")
        template = template.replace(f" --name {task[:512]} ", f" --name {plain} ", 1)
    return template.replace(" -J '", f" -J '{mark['token']} ", 1) if mark else template


def end_tasks(token: str) -> None:
    """End the processes of this machine and the jobs of Slurm that carry a run's mark."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        forks = multiprocessing.active_children()
        marked = _find_processes(token) + [fork.pid for fork in forks if fork.pid is not None]
        for pid in marked:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        deadline = time.monotonic() + 5
        while marked and time.monotonic() < deadline:
            marked = [pid for pid in marked if files.process_exists(pid)]
            time.sleep(0.05)
        if number == signal.SIGTERM:
            cancel_jobs(token)


def cancel_jobs(token: str) -> list[str]:
    """Cancel the jobs of Slurm whose name begins with a run's mark, and return their numbers."""
    if shutil.which("squeue") is None or shutil.which("scancel") is None:
        return []
    try:
        listing = subprocess.run(
            ["squeue", "--noheader", "--format=%i %j"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        pairs = [line.strip().partition(" ") for line in listing.stdout.splitlines()]
        jobs = [job for job, _, name in pairs if name.strip().startswith(token)]
        if jobs:
            subprocess.run(["scancel", *jobs], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"The Slurm jobs named {token} could not be cancelled: {error}\n")
        return []
    return jobs


def _read_mark() -> dict[str, Any] | None:
    mark = files.read_owner(os.environ.get(VARIABLE, ""))
    return mark if mark and "token" in mark else None


def _is_there(mark: Mapping[str, Any], folder: Path | None) -> bool:
    """Say whether the driver lives; of another host's, whether it renews its run's lock."""
    if mark["host"] == files.host_name():
        return files.process_exists(mark["pid"], mark["since"])
    if folder is None:
        return True
    try:
        return time.time() - (folder / files.LOCK_NAME).stat().st_mtime < files.STALE_SECONDS
    except FileNotFoundError:
        return False
    except OSError:  # a shared file system that does not answer says nothing of the driver
        return True


def _find_processes(token: str) -> list[int]:
    """Return the processes with a mark in the environment that they were started with."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        pid = int(path.parent.name)
        try:
            if pid != os.getpid() and token.encode() in path.read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def main() -> None:
    """Wait for the end of the driver that is named, then end what is left of its run."""
    mark = json.loads(sys.argv[1])
    while _is_there(mark, None):
        time.sleep(_PERIOD)
    deadline = time.monotonic() + _SEARCH_SECONDS
    while time.monotonic() < deadline:
        end_tasks(mark["token"])
        time.sleep(2 * _PERIOD)


if __name__ == "__main__":
    main()
