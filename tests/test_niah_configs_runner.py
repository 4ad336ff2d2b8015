"""The local runner gives each task its share of the cores, and leaves no trace."""

import os

import pytest
from opencompass.runners import LocalRunner

from opencompass_llada.running.local_runner import THREADS_VARIABLE, CoreSharingLocalRunner


@pytest.fixture
def launched(monkeypatch):
    """Record the variable that task processes would inherit."""
    seen = []
    monkeypatch.setattr(
        LocalRunner, "launch", lambda self, tasks: seen.append(os.environ.get(THREADS_VARIABLE))
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    return seen


@pytest.mark.parametrize(("workers", "tasks", "threads"), [(2, 6, "4"), (4, 1, "8"), (16, 16, "1")])
def test_cores_are_divided_among_the_tasks_that_run_at_once(launched, workers, tasks, threads):
    runner = CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=workers)
    runner.launch([None] * tasks)
    assert launched == [threads]
    assert THREADS_VARIABLE not in os.environ


def test_a_variable_that_is_set_stays(launched, monkeypatch):
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=2).launch([None, None])
    assert launched == ["3"]
    assert os.environ[THREADS_VARIABLE] == "3"


def test_debug_mode_changes_nothing(launched):
    CoreSharingLocalRunner(task={"type": "x"}, max_num_workers=2, debug=True).launch([None])
    assert launched == [None]
