"""CPU tasks are forks of a process that has imported what they need, and end with the run."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from pathlib import Path

import pytest

from opencompass_llada.files import process_exists
from opencompass_llada.runs import machine, warm_processes
from opencompass_llada.runs.warm_processes import imports_shared, is_ready, run_forked


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(warm_processes, "_IMPORTED", [__name__])
    monkeypatch.setattr(machine, "count_cores", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with imports_shared():
        yield


def tell(name):
    import torch

    sys.stdout.write(f"{os.environ.get(name)} {torch.get_num_threads()} {os.getcwd()}\n")
    sys.stderr.write("a warning\n")


def fail():
    sys.stdout.write("so far\n")
    raise SystemExit(3)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_fork_has_the_environment_the_folder_and_the_threads_of_now(
    server, monkeypatch, tmp_path
):
    monkeypatch.setenv("SET_LATER", "yes")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    assert run_forked(tell, "SET_LATER", log=str(log)) == 0
    assert sorted(log.read_text().splitlines()) == ["a warning", f"yes 1 {tmp_path}"]


def test_a_fork_sees_the_gpus_that_it_was_given(server, tmp_path):
    log, name = tmp_path / "log", "CUDA_VISIBLE_DEVICES"
    assert run_forked(tell, name, log=str(log), variables={name: "1,3"}) == 0
    assert "1,3 " in log.read_text()
    assert os.environ[name] == ""


def test_where_there_are_gpus_forks_are_asked_for(monkeypatch):
    monkeypatch.setattr(warm_processes, "_IMPORTED", [])
    monkeypatch.setattr(warm_processes.machine, "count_gpus", lambda: 2)
    monkeypatch.setattr(machine, "count_cores", lambda: 2)
    with imports_shared():
        assert not is_ready()
    monkeypatch.setenv(warm_processes.GPU_VARIABLE, "1")
    with imports_shared():
        assert is_ready()
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ


def test_a_fault_costs_one_fork(server, tmp_path):
    assert run_forked(fail, log=str(tmp_path / "one")) == 3
    assert (tmp_path / "one").read_text() == "so far\n"
    assert run_forked(die, log=str(tmp_path / "two")) == -signal.SIGKILL
    assert run_forked(fail, log=str(tmp_path / "three")) == 3


def test_a_variable_of_the_config_that_was_read_before_makes_tasks_commands(server, monkeypatch):
    assert is_ready()
    monkeypatch.setenv("SET_LATER", "yes")
    assert is_ready()
    monkeypatch.setenv("HF_HUB_SET_LATER", "1")
    assert not is_ready()


def test_a_status_is_read_by_one_thread_at_a_time(server, monkeypatch, tmp_path):
    """A start looks at the status of others, which end at that moment."""
    read, busy = forkserver.read_signed, threading.Lock()

    def read_alone(sentinel):
        assert busy.acquire(blocking=False), "another thread reads a status"
        time.sleep(0.02)
        try:
            return read(sentinel)
        finally:
            busy.release()

    monkeypatch.setattr(forkserver, "read_signed", read_alone)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run_forked, fail, log=str(tmp_path / str(n))) for n in range(12)]
        assert {run.result() for run in runs} == {3}


@pytest.mark.parametrize("what", ["a GPU", "one core"])
def test_where_no_task_would_be_a_fork_nothing_is_imported(what, monkeypatch):
    monkeypatch.setattr(machine, "count_cores", lambda: 1 if what == "one core" else 2)
    monkeypatch.setattr("opencompass_llada.runs.machine.count_gpus", lambda: what == "a GPU")
    with imports_shared():
        assert not is_ready()


DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite runs behind
from opencompass_llada.runs import machine, warm_processes
from opencompass_llada.runs.task_lifetime import tasks_end_with_this
from test_warm_processes import sleep
warm_processes._IMPORTED = ["test_warm_processes"]
with warm_processes.imports_shared():
    with tasks_end_with_this(in_tasks=True, on_slurm=False, cleared=lambda: None):
        warm_processes.run_forked(sleep, sys.argv[1], log=sys.argv[1] + "/log")
"""


def sleep(folder):
    from opencompass_llada.runs.task_lifetime import end_with_the_run

    end_with_the_run(folder)
    Path(folder, "pid").write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_fork_ends_with_its_driver(number, tmp_path):
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], env=environment)
    pid = tmp_path / "pid"

    def wait_for(condition):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not condition():
            time.sleep(0.05)
        return condition()

    assert wait_for(lambda: pid.is_file() and pid.read_text())
    driver.send_signal(number)
    driver.wait(timeout=30)
    assert wait_for(lambda: not process_exists(int(pid.read_text()))), "the fork must be gone"
