"""Lets six things go wrong in runs on Slurm: what is said, the exit status, and what -r makes.

    eval "$(benchmarks/slurm/two_nodes.sh slurm_test)"
    python benchmarks/slurm/failures.py --record benchmarks/records/slurm_failures.json

A job is cancelled, a node goes down, the time is over, the partition is wrong, a batch job that
drives a run is requeued, a driver is killed. Each is compared with a local run, byte for byte,
after the same command with -r. Only inference is run; answers.py scores on Slurm, too. Exit
status 0 if all is as it should be.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import runs
from recording import describe_run, write_record

CONFIG = "benchmarks/slurm/two_tasks.py"


@dataclass
class Case:
    """One run that goes wrong, in a folder of its own."""

    folder: Path
    expected: dict[str, str]  # the answers of a local run
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """The driver's output."""
        return self.folder / "driver.log"

    def start(self, *options: str, partition: str = runs.PARTITION) -> subprocess.Popen[bytes]:
        """Start the run on Slurm; no job is repeated, so that the failure is seen."""
        self.folder.mkdir(parents=True, exist_ok=True)
        given = ["-m", "infer", "--slurm", "-p", partition, "--retry", "0", *options]
        command = runs.command_of(CONFIG, self.folder / "work", *given)
        return runs.start(command, self.log, self.variables)

    def wait_for_work(self, driver: subprocess.Popen[bytes]) -> tuple[str, str]:
        """Wait until answers are written and jobs run; return a job and its node."""

        def is_on() -> bool:
            if driver.poll() is not None:
                raise RuntimeError(f"the run ended before it was disturbed, see {self.log}")
            return runs.count_begun(self.folder / "work") > 0 and bool(runs.list_jobs())

        runs.wait_for(is_on, "answers")
        return runs.list_jobs()[0]

    def judge(self, status: int, said: str, *, needs: tuple[str, ...]) -> dict[str, Any]:
        """Go on with -r, and say what was and what came of it."""
        answered = len(runs.digest_answers(self.folder / "work"))
        self.variables.clear()
        healed = self.start("-r").wait(runs.LONGEST)
        answers = runs.digest_answers(self.folder / "work")
        equal = sum(answers.get(file) == own for file, own in self.expected.items())
        left = [path for path in (self.folder / "work").glob("*/.*.part")]
        text = " ".join(said.split())
        return {
            "status": status,
            "said": re.sub(r"/\S+/(?=work/)", "", text),
            "lacks": [word for word in needs if word not in said],
            "cells_before": answered,
            "status_of_-r": healed,
            "cells": len(self.expected),
            "equal": equal,
            "left_over": len(left),
            "in_working_folder": sorted(set(os.listdir(self.folder)) - {"work", "driver.log"}),
        }


def find_said(log: Path, pattern: str) -> str:
    """Return the lines of a log that have a pattern, the last of each kind."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    found = [line for line in lines if re.search(pattern, line)]
    return found[-1] if found else f"nothing; the log ends with {lines[-1:]}"


def cancel_a_job(case: Case) -> dict[str, Any]:
    """Cancel one of two jobs."""
    driver = case.start()
    job, _ = case.wait_for_work(driver)
    runs.slurm("scancel", job)
    status = driver.wait(runs.LONGEST)
    said = find_said(case.log, r"Slurm job \d+ .*was cancelled")
    return case.judge(status, said, needs=(f"Slurm job {job}", "Log: ", "-r"))


def down_a_node(case: Case) -> dict[str, Any]:
    """Take a node down while its job runs."""
    driver = case.start()
    job, node = case.wait_for_work(driver)
    runs.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    status = driver.wait(runs.LONGEST)
    # A node that has answered in the meantime is back already (ReturnToService), which is an error.
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], capture_output=True)
    runs.wait_for(lambda: "idle" in runs.slurm("sinfo", "-h", "-n", node, "-o", "%T"), node)
    said = find_said(case.log, rf"Slurm job {job} .*lost its node")
    return case.judge(status, said, needs=(f"Slurm job {job}", "Log: ", "-r"))


def find_tasks(job: str) -> list[int]:
    """Return the processes of this machine, of both nodes, that run a task in a job."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (path / "environ").read_bytes().split(b"\0")
            words = (path / "cmdline").read_bytes().split(b"\0")
            is_task = b"opencompass_llada.runs.tasks" in words
            if is_task and f"SLURM_JOB_ID={job}".encode() in variables:
                found.append(int(path.name))
    return found


def exceed_the_time(case: Case) -> dict[str, Any]:
    """Give jobs a minute, and let one of them hang."""
    case.variables["SLURM_TIMELIMIT"] = "1"
    driver = case.start()
    job, _ = case.wait_for_work(driver)
    for pid in find_tasks(job):
        os.kill(pid, signal.SIGSTOP)
    status = driver.wait(runs.LONGEST)
    said = find_said(case.log, r"Slurm job \d+ .*reached its time limit")
    return case.judge(status, said, needs=("Log: ", "-r", "SLURM_TIMELIMIT"))


def name_a_wrong_partition(case: Case) -> dict[str, Any]:
    """Name a partition that there is not."""
    status = case.start(partition="no-such").wait(runs.LONGEST)
    said = find_said(case.log, "no-such")
    return case.judge(status, said, needs=("-p no-such", f"Use one of {runs.PARTITION}"))


def requeue_the_driver(case: Case) -> dict[str, Any]:
    """Requeue a batch job whose driver runs its tasks on the node, as at preemption."""
    work, log = case.folder / "work", case.folder / "driver.log"
    case.folder.mkdir(parents=True)
    command = " ".join(runs.command_of(CONFIG, work, "-m", "infer", "-r"))
    script = f"#!/bin/sh\nexec {command}\n"
    words = ["sbatch", "--parsable", "--requeue", "--open-mode=append", "--cpus-per-task=2"]
    words += [f"--output={log}", f"--chdir={case.folder}", "--partition", runs.PARTITION]
    job = subprocess.run(
        words, input=script, env=os.environ, text=True, capture_output=True, check=True
    ).stdout.strip()
    runs.wait_for(lambda: runs.count_begun(work) > 0, "answers")
    runs.slurm("scontrol", "requeue", job)
    ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

    def state() -> str:
        found = re.search(r"JobState=(\w+)", runs.slurm("scontrol", "show", "job", job))
        return found[1] if found else ""

    runs.wait_for(lambda: state() in ends, "the end of the requeued job")
    shown = runs.slurm("scontrol", "show", "job", job)
    exit_code = re.search(r"ExitCode=(\d+)", shown)
    said = find_said(log, "SIGTERM|was killed")
    found = case.judge(int(exit_code[1]) if exit_code else -1, said, needs=("-r",))
    runs_known = next(iter(work.glob("*/provenance/*.jsonl"))).read_text()
    return found | {"state": state(), "restart_recorded": '"restarts": "1"' in runs_known}


def kill_the_driver(case: Case) -> dict[str, Any]:
    """Kill the driver by SIGKILL; its jobs end, and watch says what was."""
    driver = case.start()
    case.wait_for_work(driver)
    driver.kill()
    status = driver.wait()
    began = time.monotonic()
    runs.wait_for(lambda: not runs.list_jobs(), "the end of the jobs")
    seconds = round(time.monotonic() - began, 1)
    words = [sys.executable, "-m", "opencompass_llada.cli", "watch", str(case.folder / "work")]
    watch = subprocess.run([*words, "--once"], capture_output=True, text=True)
    said = next((line for line in watch.stdout.splitlines() if "was killed" in line), "nothing")
    found = case.judge(status, said, needs=(f"process {driver.pid}", "logs/", "-r"))
    return found | {"status_of_watch": watch.returncode, "seconds_to_end_of_jobs": seconds}


CASES: dict[str, Callable[[Case], dict[str, Any]]] = {
    "cancelled job": cancel_a_job,
    "node down": down_a_node,
    "time limit": exceed_the_time,
    "bad partition": name_a_wrong_partition,
    "requeue": requeue_the_driver,
    "driver killed": kill_the_driver,
}
#: Statuses as they should be, where it is not 1: the requeued job goes on by itself.
STATUSES = {"requeue": 0, "driver killed": -signal.SIGKILL}


def is_fine(name: str, row: dict[str, Any]) -> bool:
    """Tell whether a case is said, fails, and is made whole."""
    return (
        row["status"] == STATUSES.get(name, 1)
        and not row["lacks"]
        and row["status_of_-r"] == 0
        and row["equal"] == row["cells"] > 0
        and not row["left_over"]
        and not row["in_working_folder"]
    )


def main() -> int:
    """Run the cases and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=list(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--record", type=Path)
    parser.add_argument("--keep", type=Path, help="folder in which the runs are kept")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = options.keep or Path(tempfile.mkdtemp())
    local = folder / "local"
    local.mkdir(parents=True, exist_ok=True)
    command = runs.command_of(CONFIG, local / "work", "-m", "infer", "-r")
    if runs.run(command, local / "driver.log", {})[0]:
        raise SystemExit(f"the local run failed, see {local / 'driver.log'}")
    expected, rows = runs.digest_answers(local / "work"), {}
    for name in options.case:
        rows[name] = CASES[name](Case(folder / name.replace(" ", "_"), expected))
        rows[name]["fine"] = is_fine(name, rows[name])
        print(name, rows[name], flush=True)
        found = {"slurm": runs.slurm_version(), "nodes": 2, "cases": rows}
        if options.record:  # after each, for a run that is stopped
            write_record(options.record, describe_run() | found)
    if not options.keep:
        shutil.rmtree(folder)
    return 0 if all(row["fine"] for row in rows.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
