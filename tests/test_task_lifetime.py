"""A run that is killed or stopped leaves no task and no Slurm job behind."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opencompass_llada.files import describe_owner, folder_lock, process_exists
from opencompass_llada.runs.task_lifetime import (
    VARIABLE,
    _is_there,
    cancel_jobs,
    mark_job,
    tasks_end_with_this,
)

# A driver with one task under a shell, as OpenCompass's local runner starts it.
DRIVER = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite runs behind
import subprocess, sys, time
from opencompass_llada.runs.task_lifetime import tasks_end_with_this
task = (
    "import sys, time; from opencompass_llada.runs.task_lifetime import end_with_the_run;"
    "end_with_the_run(sys.argv[1]); open(sys.argv[1] + '/pid', 'w').write(str(__import__('os')"
    ".getpid())); time.sleep(60)"
)
cleared = lambda: open(sys.argv[1] + '/cleared', 'w').close()
with tasks_end_with_this(in_tasks=True, on_slurm=sys.argv[2] == 'slurm', cleared=cleared):
    subprocess.run(f"VAR= {sys.executable} -c \\"{task}\\" {sys.argv[1]}; true", shell=True)
"""


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    return None


def start(folder, kind="local", **options):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), kind], **options)
    pid_file = folder / "pid"
    task = wait_for(lambda: pid_file.is_file() and pid_file.read_text())
    assert task, "the task must have started"
    return driver, int(task)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_task_ends_with_its_driver(tmp_path, number):
    driver, task = start(tmp_path)
    driver.send_signal(number)
    status = driver.wait(timeout=30)
    assert wait_for(lambda: not process_exists(task)), "the task must be gone"
    if number == signal.SIGKILL:
        assert status == -9
    else:
        assert status == 128 + number
        assert (tmp_path / "cleared").exists()


def test_a_signal_that_the_starter_ignores_stays_ignored(tmp_path):
    """`nohup ... &` must outlive its terminal."""
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with tasks_end_with_this(in_tasks=True, on_slurm=False, cleared=lambda: None):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_a_file_system_that_does_not_answer_ends_no_task(tmp_path, monkeypatch):
    mark = {**describe_owner(), "host": "elsewhere"}
    assert not _is_there(mark, tmp_path), "the lock is given back"

    def stat_lock(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "stat", stat_lock)
    assert _is_there(mark, tmp_path)


def write_command(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put stand-ins for squeue and scancel on the path: jobs are lines of a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    jobs, cancelled = tmp_path / "jobs", tmp_path / "cancelled"
    write_command(folder, "squeue", f"cat {jobs}")
    write_command(folder, "scancel", f'echo "$@" >> {cancelled}; : > {jobs}')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return jobs, cancelled


def test_only_the_runs_own_jobs_are_cancelled(slurm):
    jobs, cancelled = slurm
    jobs.write_text("11 llada-abc OpenICLInfer[m: 2 data sets]\n12 other\n13_4 llada-abc x\n")
    assert cancel_jobs("llada-abc") == ["11", "13_4"]
    assert cancelled.read_text().split() == ["11", "13_4"]


def test_jobs_carry_the_mark():
    template = "srun -p x -N1 -u -J 'OpenICLInfer[m: 2 data sets]' {task_cmd}"
    assert mark_job(template) == template
    with tasks_end_with_this(in_tasks=False, on_slurm=False, cleared=lambda: None):
        token = json.loads(os.environ[VARIABLE])["token"]
        assert f" -J '{token} OpenICLInfer[m" in mark_job(template)
    assert VARIABLE not in os.environ


def test_a_killed_drivers_jobs_are_cancelled(slurm, tmp_path):
    jobs, cancelled = slurm
    driver, task = start(tmp_path, "slurm")
    environment = Path(f"/proc/{task}/environ").read_text()
    token = json.loads(environment.split(VARIABLE + "=")[1].split("\0")[0])["token"]
    jobs.write_text(f"21 {token} OpenICLInfer[m: 1 data sets]\n22 another run's\n")
    driver.kill()
    driver.wait()
    assert wait_for(cancelled.is_file), "the job must be cancelled"
    assert cancelled.read_text().split() == ["21"]
    assert wait_for(lambda: not process_exists(task))


def test_a_task_of_another_host_goes_by_the_lock(tmp_path):
    script = (
        "import sys, time; from opencompass_llada.runs.task_lifetime import end_with_the_run\n"
        "end_with_the_run(sys.argv[1]); print('on', flush=True); time.sleep(60)"
    )
    mark = {**describe_owner(), "host": "elsewhere", "token": "llada-x"}
    environment = {**os.environ, VARIABLE: json.dumps(mark)}
    with folder_lock(tmp_path, "an evaluation"):
        task = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], env=environment, stdout=subprocess.PIPE
        )
        assert task.stdout.readline() == b"on\n"
        time.sleep(1.5)
        assert task.poll() is None
    assert task.wait(timeout=30) == 75
