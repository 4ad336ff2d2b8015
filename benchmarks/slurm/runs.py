"""Starts runs here and on the Slurm of two nodes, and looks at what they leave; for the scripts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from opencompass_llada.runs import recorded_files as recorded  # noqa: E402
from opencompass_llada.runs.run_folder import find_runs  # noqa: E402

PARTITION = "cpu"
#: Seconds that anything here may take: a run of tiny models, or a state of Slurm.
LONGEST = 600.0


def command_of(config: str, folder: Path, *options: str) -> list[str]:
    """Return the command that runs a config in a folder."""
    return [sys.executable, str(ROOT / "run.py"), str(ROOT / config), "-w", str(folder), *options]


def start(command: list[str], log: Path, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command with LLADA_ settings; its output is added to a log."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=file, stderr=file, cwd=log.parent
        )


def run(command: list[str], log: Path, settings: Mapping[str, str]) -> tuple[int, float]:
    """Run a command to its end; return its status and seconds."""
    began = time.monotonic()
    status = start(command, log, settings).wait(LONGEST)
    return status, round(time.monotonic() - began, 1)


def wait_for(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + LONGEST
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {LONGEST:.0f} s for {what}")
        time.sleep(0.2)


def digest_answers(folder: Path) -> dict[str, str]:
    """Return a digest of the answers to each whole cell of the run in a work directory.

    A cell may be in shards, which other numbers of workers cut otherwise.
    """
    found: dict[str, str] = {}
    for run in find_runs([folder]) if list(folder.glob("*/predictions")) else ():
        for model, dataset in run.pairs:
            name, cell = recorded.model_name(model), recorded.dataset_name(dataset)
            files = recorded.find_finished(run.path / "predictions" / name, cell)
            if files and recorded.find_gap(files) is None:
                contents = [recorded.read_answers(file.path)[0] for file in files]
                answers = [answer for content in contents for answer in content.values()]
                text = json.dumps(answers, ensure_ascii=False)
                found[f"{name}/{cell}"] = hashlib.sha256(text.encode()).hexdigest()
    return found


def count_begun(folder: Path) -> int:
    """Count the files of answers, finished or not."""
    return sum(1 for _ in folder.glob("*/predictions/*/*.json*"))


def slurm(*command: str) -> str:
    """Return what a command of Slurm writes."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def list_jobs() -> list[tuple[str, str]]:
    """Return number and node of the jobs that run."""
    lines = slurm("squeue", "--noheader", "--states=R", "--format=%i %N").splitlines()
    return [(job, node) for job, _, node in (line.strip().partition(" ") for line in lines)]


def slurm_version() -> str:
    """Return the version of Slurm."""
    return slurm("sinfo", "--version").strip()
