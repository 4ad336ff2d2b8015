"""Workers do one job after another, die alone, and end with the run."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from pathlib import Path

import numpy
import pytest
import torch

from opencompass_llada.files import process_exists
from opencompass_llada.runs import machine, warm_processes, workers
from opencompass_llada.runs.local_queue import local_session, working_beside
from opencompass_llada.runs.warm_processes import fork_here, imports_shared, is_ready
from opencompass_llada.runs.workers import DEVICES_VARIABLE, Job, WorkerDied, WorkerPool

HERE = str(Path(__file__).parent)
#: How often this module was executed by the process, or the one that it is a fork of.
IMPORTED_BY = os.getpid()


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_processes, "_IMPORTED", [__name__])
        patch.setattr(machine, "count_cores", lambda: 2)
        patch.setattr(warm_processes, "_has_threads", lambda: True)  # as beside xdist
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        # The server of Python 3.11 looks for modules there alone.
        patch.setenv("PYTHONPATH", os.pathsep.join([HERE, *sys.path]))
        with imports_shared():
            yield


@pytest.fixture
def pool(server):
    own = WorkerPool()
    yield own
    own.close()


def job(work, *arguments, log, devices="", goes_on=False, **variables):
    told = {DEVICES_VARIABLE: devices, "PYTHONPATH": os.pathsep.join([HERE, *sys.path])}
    return Job(
        work=work, arguments=arguments, log=str(log), folder=str(Path(log).parent),
        environment={**os.environ, **told, **variables}, goes_on=goes_on,
    )  # fmt: skip


def tell(name):
    sys.stdout.write(f"{os.environ.get(name)} {torch.get_num_threads()} {os.getcwd()}\n")
    sys.stderr.write("a warning\n")


def identify():
    sys.stdout.write(f"{os.getpid()} {IMPORTED_BY} {os.environ[DEVICES_VARIABLE]}\n")


def draw():
    drawn = numpy.random.rand()  # noqa: NPY002
    sys.stdout.write(f"{drawn} {torch.rand(1).item()} {random.random()}\n")


def fail():
    sys.stdout.write("so far\n")
    raise SystemExit(3)


def raise_fault():
    raise ValueError("what went wrong")


def die(number=signal.SIGKILL):
    sys.stdout.write("began\n")
    sys.stdout.flush()
    os.kill(os.getpid(), number)


def leave_a_circle():
    class Node:
        pass

    node = Node()
    node.itself = node
    weakref.finalize(node, lambda: sys.stdout.write("gone\n"))


def vanish():
    os._exit(0)


def test_a_job_has_the_environment_the_folder_and_the_threads_of_now(pool, tmp_path):
    one, two = tmp_path / "log", tmp_path / "other"
    assert pool.run(job(tell, "SET_LATER", log=one, SET_LATER="yes", OMP_NUM_THREADS="1")) == 0
    assert pool.run(job(tell, "SET_LATER", log=two, OMP_NUM_THREADS="2")) == 0
    assert sorted(one.read_text().splitlines()) == ["a warning", f"yes 1 {tmp_path}"]
    assert sorted(two.read_text().splitlines()) == [f"None 2 {tmp_path}", "a warning"]
    assert pool.run(job(tell, "SET_LATER", log=one, OMP_NUM_THREADS="1,2")) == 0, "nested levels"
    assert f"None 1 {tmp_path}" in one.read_text()


def test_jobs_one_after_another_share_a_process_that_imported_once(pool, tmp_path):
    logs = [tmp_path / str(number) for number in range(3)]
    assert [pool.run(job(identify, log=log)) for log in logs] == [0, 0, 0]
    told = {log.read_text() for log in logs}
    assert len(told) == 1
    pid, imported_by, _ = next(iter(told)).split(" ")
    assert imported_by not in (pid, str(os.getpid())), "the server imported, not the worker"


def test_workers_of_gpus_are_processes_of_their_own_that_import_once(pool, tmp_path):
    """The driver of this test has no GPU: the numbers are made up."""
    told = {}
    for number, devices in enumerate(["0", "1", "0", "1"]):
        log = tmp_path / str(number)
        assert pool.run(job(identify, log=log, devices=devices)) == 0
        told.setdefault(devices, []).append(log.read_text().split())
    for devices, answers in told.items():
        assert answers[0] == answers[1]
        pid, imported_by, seen = answers[0]
        assert pid == imported_by, "it is no fork"
        assert seen == devices
    assert told["0"][0] != told["1"][0]


def test_what_a_job_leaves_goes_with_the_job(pool, tmp_path):
    """A loaded model logs its totals when it goes."""
    assert pool.run(job(leave_a_circle, log=tmp_path / "log")) == 0
    assert (tmp_path / "log").read_text() == "gone\n"


def test_each_job_draws_what_a_new_process_would(pool, tmp_path):
    logs = [tmp_path / str(number) for number in range(3)]
    for log in logs:
        assert pool.run(job(draw, log=log)) == 0
    drawn = [log.read_text().split() for log in logs]
    assert {tuple(own[:2]) for own in drawn} == {tuple(drawn[0][:2])}
    assert len({own[2] for own in drawn}) == 3, "Python's own numbers are of the system"


def test_a_fault_costs_the_worker_and_no_other_job(pool, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    assert pool.run(job(identify, log=before)) == 0
    assert pool.run(job(fail, log=tmp_path / "one")) == 3
    assert (tmp_path / "one").read_text() == "so far\n"
    assert pool.run(job(raise_fault, log=tmp_path / "two")) == 1
    assert "ValueError: what went wrong" in (tmp_path / "two").read_text()
    assert pool.run(job(identify, log=after)) == 0
    assert before.read_text() != after.read_text()


def test_a_death_is_told_with_its_signal(pool, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(WorkerDied, match=r"its process died \(signal 9\)") as death:
        pool.run(job(die, log=log))
    assert death.value.status == -signal.SIGKILL
    assert log.read_text() == "began\n"
    with pytest.raises(WorkerDied, match=r"status 0\)|status 1\)") as death:
        pool.run(job(vanish, log=tmp_path / "vanished"))
    assert death.value.status == 1, "what ended without a word has not succeeded"
    assert pool.run(job(fail, log=log, goes_on=True)) == 3
    assert log.read_text() == "began\nso far\n", "the log of an earlier try is kept"


def leave_a_child_and_die(file):
    child = os.fork()
    if not child:
        time.sleep(20)
        os._exit(0)
    Path(file).write_text(str(child))
    die()


def test_what_a_dead_worker_has_left_running_is_not_waited_for(pool, tmp_path):
    file, began = tmp_path / "child", time.monotonic()
    with pytest.raises(WorkerDied, match="signal 9"):
        pool.run(job(leave_a_child_and_die, str(file), log=tmp_path / "log"))
    try:
        assert time.monotonic() - began < 15
        assert process_exists(int(file.read_text()))
    finally:
        os.kill(int(file.read_text()), signal.SIGKILL)


def test_idle_workers_give_up_the_gpus_that_another_process_takes():
    class Idle:
        is_ended = False

        def end(self):
            self.is_ended = True

    own, workers_of = WorkerPool(), {key: [Idle(), Idle()] for key in ("0", "1", "10", "")}
    own._idle = {key: list(idle) for key, idle in workers_of.items()}
    own.free(())
    own.free((1, 2))
    ended = {key for key, idle in workers_of.items() if all(one.is_ended for one in idle)}
    assert ended == {"1"}
    assert {key: len(idle) for key, idle in own._idle.items()} == {"0": 2, "1": 0, "10": 2, "": 2}


def test_a_variable_of_the_config_that_was_read_before_makes_workers_import(server, monkeypatch):
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
    own = WorkerPool()
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(own.run, job(fail, log=tmp_path / str(n))) for n in range(12)]
        assert {run.result() for run in runs} == {3}


def test_a_runner_of_plain_opencompass_forks_where_there_are_no_threads(monkeypatch):
    forked = []
    monkeypatch.setattr(warm_processes, "_server", {})
    monkeypatch.setattr(warm_processes, "_IMPORTED", [])
    monkeypatch.setattr(warm_processes, "_start_beside", lambda: forked.append("beside"))
    monkeypatch.setattr(machine, "count_gpus", lambda: 0)
    monkeypatch.setattr(os, "fork", lambda: forked.append("fork"))
    monkeypatch.setattr(warm_processes, "_has_threads", lambda: True)
    with imports_shared(may_import_beside=False):
        fork_here()
        assert not is_ready()
    assert not forked
    with imports_shared():
        assert forked == ["beside"]


@pytest.mark.parametrize("what", ["a GPU", "one core and threads"])
def test_where_no_worker_would_be_a_fork_nothing_is_imported(what, monkeypatch):
    started = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: started.append(1))
    monkeypatch.setattr(os, "fork", lambda: started.append(1))
    monkeypatch.setattr(machine, "count_cores", lambda: 2 if what == "a GPU" else 1)
    monkeypatch.setattr(machine, "count_gpus", lambda: what == "a GPU")
    monkeypatch.setattr(warm_processes, "_has_threads", lambda: what != "a GPU")
    monkeypatch.setattr(warm_processes, "_IMPORTED", [])
    monkeypatch.setattr(warm_processes, "_server", {})
    with imports_shared():
        fork_here()
        assert not is_ready()
    fork_here()
    assert not started


DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite runs behind
from opencompass_llada.runs import warm_processes
from opencompass_llada.runs.task_lifetime import tasks_end_with_this
from opencompass_llada.runs.workers import WorkerPool
from test_workers import job, sleep
warm_processes._IMPORTED = ["test_workers"]
with warm_processes.imports_shared():
    warm_processes.fork_here()
    with tasks_end_with_this(in_tasks=True, on_slurm=False, cleared=lambda: None):
        folder, devices = sys.argv[1:]
        WorkerPool().run(job(sleep, folder, log=folder + "/log", devices=devices))
"""


def sleep(folder):
    Path(folder, "pid").write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize(
    ("number", "devices"), [(signal.SIGKILL, ""), (signal.SIGTERM, ""), (signal.SIGTERM, "0")]
)
def test_a_worker_ends_with_its_driver(number, devices, tmp_path):
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([HERE, *sys.path]),
    }
    command = [sys.executable, "-c", DRIVER, str(tmp_path), devices]
    driver = subprocess.Popen(command, env=environment)
    pid = tmp_path / "pid"

    def wait_for(condition):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not condition():
            time.sleep(0.05)
        return condition()

    assert wait_for(lambda: pid.is_file() and pid.read_text())
    driver.send_signal(number)
    driver.wait(timeout=60)
    assert wait_for(lambda: not process_exists(int(pid.read_text()))), "the worker must be gone"


FORKING_DRIVER = """
import os, sys
from opencompass_llada.runs import warm_processes
from opencompass_llada.runs.workers import WorkerPool
from test_workers import identify, job
assert warm_processes._has_threads() is False
warm_processes._IMPORTED = ["test_workers", "no_such_module"]
pool, logs = WorkerPool(), sys.argv[1:]
with warm_processes.imports_shared():
    assert not warm_processes.is_ready()
    print(os.getpid())
    warm_processes.fork_here()
    assert warm_processes.is_ready()
    (server,) = open(f"/proc/self/task/{os.getpid()}/children").read().split()[-1:]
    warm_processes.fork_here()
    assert open(f"/proc/self/task/{os.getpid()}/children").read().split()[-1:] == [server]
    with warm_processes.imports_shared(may_import_beside=False):
        warm_processes.fork_here()
        assert pool.run(job(identify, log=logs[0])) == 0
    assert pool.run(job(identify, log=logs[1])) == 0, "inside another it is that one"
    pool.close()
assert not warm_processes.is_ready()
assert not os.path.exists(f"/proc/{server}")
"""


def test_workers_of_a_driver_without_threads_have_what_it_imported(tmp_path):
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([HERE, *sys.path]),
    }
    environment.pop("PYTHONUNBUFFERED", None)
    logs = [str(tmp_path / name) for name in ("one", "two")]
    command = [sys.executable, "-c", FORKING_DRIVER, *logs]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    told = [Path(log).read_text().split() for log in logs]
    assert told[0] == told[1]
    worker, imported_by = told[0]
    assert done.stdout == f"{imported_by}\n", "the driver imported, and what it wrote is there once"
    assert worker != imported_by


def test_the_module_that_serves_reads_jobs_of_its_own_name():
    assert Job.__module__ == workers.__name__, "a job is unpickled where __main__ is another"


def write_process(path):
    Path(path).write_text(str(os.getpid()))


def test_an_idle_worker_works_beside_the_report(server, tmp_path):
    file, log = tmp_path / "who", tmp_path / "logs" / "summary.out"
    with local_session() as session:
        with working_beside(write_process, file, log=log):
            assert file.read_text() == str(os.getpid()), "nobody waits"
        assert session.workers.run(job(write_process, file, log=tmp_path / "first")) == 0
        worker = file.read_text()
        file.unlink()
        with working_beside(write_process, file, log=log):
            pass
        assert file.read_text() == worker
        assert worker != str(os.getpid())
        told = pytest.raises(RuntimeError, match=r"failed, see .*summary\.out.* -m viz -r")
        with told, working_beside(fail, log=log):
            pass
        assert log.read_text() == "so far\n"
        assert session.workers.run(job(write_process, file, log=tmp_path / "first")) == 0
        told = pytest.raises(RuntimeError, match=r"died \(signal 9\), see .*summary\.out")
        with told, working_beside(die, log=log):
            pass
