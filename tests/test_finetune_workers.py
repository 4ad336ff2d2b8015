"""Processes that make rows end with their trainer, however it ends."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

RUN = """
import sys, time
import torch
from opencompass_llada.finetune.recipe import Phase
from opencompass_llada.finetune.rows import row_loader

PHASE = Phase(sequence_length=64, num_steps=1000, rows_per_step=2)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 2000

    def __getitem__(self, index):
        if sys.argv[1] == "error" and index == 9:
            raise ValueError("no such row")
        names = ("input_ids", "targets", "scale", "positions")
        return {name: torch.zeros(64) for name in names} | {"spans": tuple(range(1000))}


def steps():
    batches = iter(row_loader(Rows(), PHASE, num_workers=3))
    for batch in batches:
        yield next(batches)


for _ in steps():
    if sys.argv[1] == "idle":
        time.sleep(2)  # batches that nobody takes fill the pipe
        print("idle", flush=True)
        time.sleep(60)
"""


def start(how, repository_root):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, how],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(repository_root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def run(request, repository_root):
    process = start(request.param, repository_root)
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("run", ["error"], indirect=True)
def test_an_error_in_a_worker_ends_the_trainer(run):
    _, error = run.communicate(timeout=30)
    assert run.returncode == 1
    assert "no such row" in error


@pytest.mark.parametrize("run", ["idle"], indirect=True)
def test_workers_end_with_a_killed_trainer(run):
    assert run.stdout.readline() == "idle\n"
    run.kill()
    run.communicate(timeout=15)  # until the last worker has closed the pipes
