"""Runs tasks as jobs of Slurm, each by an srun of its own, and says what became of a job.

OpenCompass's SlurmRunner writes its tasks' configs into the current folder, repeats what cannot go
well, and reports a failed job by its log alone. What a job's task runs is `tasks`'.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass.registry import TASKS
from opencompass.runners import SlurmRunner

from opencompass_llada.files import temporary_folder
from opencompass_llada.runs import narration
from opencompass_llada.runs.exit_status import TASK_NAME
from opencompass_llada.runs.recorded_files import dataset_name, model_name, type_name

logger = logging.getLogger(__name__)

#: Seconds between two submissions, so that a controller is not asked for all jobs at once.
SPACING = 0.2
#: Runs on the node, before the task's Python: torch reads the threads when it is imported. Braces
#: are doubled for `str.format`.
ON_NODE = (
    "sh -c 'export OMP_NUM_THREADS="
    '"${{OMP_NUM_THREADS:-${{SLURM_CPUS_PER_TASK:-${{SLURM_CPUS_ON_NODE:-1}}}}}}"; '
    'echo "Slurm job $SLURM_JOB_ID on node $SLURMD_NODENAME, '
    'OMP_NUM_THREADS=$OMP_NUM_THREADS"; exec "$0" "$@"\' '
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job that failed."""

    state: str  # of Slurm, such as ``TIMEOUT``; ``REFUSED`` where there was no job, ``FAILED`` else
    happened: str  # the sentence's second half
    remedy: str
    repeats: bool  # whether the same once more may end otherwise


OUTCOMES = [
    Outcome(
        state="CANCELLED",
        happened="was cancelled, by scancel or an administrator",
        remedy="Go on with -r.",
        repeats=False,
    ),
    Outcome(
        state="TIMEOUT",
        happened="reached its time limit",
        remedy="What is answered is kept: go on with -r, with more time (SLURM_TIMELIMIT=HH:MM:SS "
        "before the command, or another partition) or shorter tasks (LLADA_TASK_SECONDS).",
        repeats=True,
    ),
    Outcome(
        state="NODE_FAIL",
        happened="lost its node, which went down",
        remedy="Go on with -r when a node is there (sinfo).",
        repeats=True,
    ),
    Outcome(
        state="PREEMPTED",
        happened="was preempted by another job",
        remedy="Go on with -r.",
        repeats=True,
    ),
    Outcome(
        state="OUT_OF_MEMORY",
        happened="took more memory than Slurm gave it",
        remedy="Go on with -r, with more (SLURM_MEM_PER_NODE=64G before the command).",
        repeats=False,
    ),
    Outcome(
        state="REFUSED",
        happened="was not taken by Slurm",
        remedy="Correct what srun names (sinfo lists partitions, sacctmgr accounts), then go on "
        "with -r.",
        repeats=False,
    ),
]
#: The task itself failed, and says why.
FAILED = Outcome(
    state="FAILED",
    happened="ended with status {status}, without all of its files",
    remedy="Its last lines say why; go on with -r.",
    repeats=True,
)
#: What Slurm's daemons write into a job's log, where its controller has forgotten the job or the
#: job is a step of an allocation.
_PHRASES = {
    "DUE TO TIME LIMIT": "TIMEOUT",
    "DUE TO NODE FAILURE": "NODE_FAIL",
    "Node failure on": "NODE_FAIL",
    "DUE TO PREEMPTION": "PREEMPTED",
    "oom_kill event": "OUT_OF_MEMORY",
    "oom-kill event": "OUT_OF_MEMORY",
    "Unable to allocate resources": "REFUSED",
    "Unable to create step": "REFUSED",
    " CANCELLED AT ": "CANCELLED",
    "Force Terminated job": "CANCELLED",
    "has been revoked": "CANCELLED",
}
_JOB = re.compile(r"^Slurm job (\d+) on|srun: job (\d+) queued|Force Terminated job (\d+)", re.M)


class JobNamingSlurmRunner(SlurmRunner):
    """OpenCompass's SlurmRunner that names failed jobs, and keeps its files in the run's folder.

    Takes the same keywords. A task has the threads of the cores that Slurm gave it, unless
    OMP_NUM_THREADS is set.
    """

    def launch(self, tasks: Sequence[Any]) -> list[tuple[str, int]]:
        """Run all tasks and wait for them; returns pairs of task name and exit status."""
        if not tasks:
            return []
        self._submission = threading.Lock()
        workers = 1 if self.debug else min(self.max_num_workers, len(tasks))
        run = Path(tasks[0]["work_dir"]).absolute()
        is_told = type_name(self.task_cfg) == "ShortNamedInferTask" and not self.debug
        with (
            temporary_folder(run, "tasks") as folder,
            narration.told(run) if is_told else nullcontext(),
            ThreadPoolExecutor(workers) as pool,
        ):
            places = [folder / f"{number}_params.py" for number in range(len(tasks))]
            return list(pool.map(self._run_job, tasks, places))

    def _run_job(self, cfg: Any, place: Path) -> tuple[str, int]:
        """Run a task, more than once if need be; its config is written to ``place``."""
        task = TASKS.build({"cfg": cfg, "type": self.task_cfg["type"]})
        cfg.dump(str(place))
        log = None if self.debug else Path(task.get_log_path(file_extension="out"))
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(_list_cells(cfg), encoding="utf-8")
        for left in reversed(range(self.retry + 1)):
            start = log.stat().st_size if log is not None else 0
            status = self._call(task, place, log)
            if status == 0 and all(Path(file).exists() for file in task.get_output_paths()):
                break
            text = "" if log is None else log.read_bytes()[start:].decode(errors="replace")
            outcome, job = judge(text)
            said = describe_outcome(outcome, job, task.name, status, log)
            if log is not None:
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"{TASK_NAME}: {said}\n" if outcome is not FAILED else "")
            if not left or not outcome.repeats:
                logger.error("%s", said)
                break
            logger.warning("%s It is started once more (%d left).", said, left - 1)
        return task.name, status

    def _call(self, task: Any, place: Path, log: Path | None) -> int:
        """Call srun and wait; return its status."""
        # Anew each time: torchrun's port is drawn.
        command = task.get_command(cfg_path=str(place), template=self._template(task))
        with self._submission:
            time.sleep(0 if self.debug else SPACING)
        with log.open("ab") if log is not None else nullcontext() as file:
            return subprocess.run(command, shell=True, stdout=file, stderr=file).returncode

    def _template(self, task: Any) -> str:
        options = {"-p ": self.partition, "--quotatype=": self.quotatype, "--qos=": self.qos}
        given = [f"{option}{value}" for option, value in options.items() if value]
        if task.num_gpus:
            given.append(f"--gres=gpu:{task.num_gpus}")
        name = task.name[:200].replace("'", "")
        # Inside an allocation of several tasks srun would start each of ours as often: -n1.
        words = ["srun", *given, *self.extra_command, f"-N1 -n1 -u -J '{name}'"]
        return " ".join(map(str, words)).replace("{", "{{").replace("}", "}}") + (
            f" {ON_NODE}{{task_cmd}}"
        )


def _list_cells(cfg: Mapping[str, Any]) -> str:
    """Return the line by which `exit_status.find_log` finds the log of a cell."""
    names = [
        f"{model_name(model)}/{dataset_name(dataset)}"
        for model, datasets in zip(cfg["models"], cfg["datasets"], strict=True)
        for dataset in datasets
    ]
    return f"The cells of this task: [{','.join(names)}]\n"


def judge(text: str) -> tuple[Outcome, str | None]:
    """Say what became of a job by its log and Slurm's own record; return its number, too."""
    jobs = [next(filter(None, match)) for match in _JOB.findall(text)]
    job = jobs[-1] if jobs else None
    told = read_state(job) if job else ""
    if not any(outcome.state == told for outcome in OUTCOMES):
        told = next((state for phrase, state in _PHRASES.items() if phrase in text), "")
    return next((outcome for outcome in OUTCOMES if outcome.state == told), FAILED), job


def read_state(job: str) -> str:
    """Return the state that Slurm's controller knows of a job, '' if it knows none."""
    if shutil.which("scontrol") is None:
        return ""
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", job], capture_output=True, text=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"JobState=(\w+)", shown)
    return found[1] if found else ""


def describe_outcome(
    outcome: Outcome, job: str | None, task: str, status: int, log: Path | None
) -> str:
    """Write the sentences on a failed job: which, what became of it, its log, the remedy."""
    name = f"Slurm job {job}" if job else "The Slurm job"
    happened = outcome.happened.format(status=status)
    place = f" Log: {log}." if log is not None else ""
    return f"{name} ({task}) {happened}.{place} {outcome.remedy}"
