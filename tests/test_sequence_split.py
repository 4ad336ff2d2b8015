"""Passes that two processes split give one process's logits and answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from split_passes import CASES, run_case

TESTS = Path(__file__).resolve().parent


def run_processes(number, script, *arguments):
    """Run a script of the tests in so many processes; return what ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={number}", str(script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = f"{TESTS.parent}{os.pathsep}{TESTS}"
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """What each of two processes found, by case."""
    folder = tmp_path_factory.mktemp("split")
    run = run_processes(2, TESTS / "split_passes.py", folder)
    assert run.returncode == 0, run.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_what_one_gives(split, name):
    alone, ranks = run_case(name, None), [found[name] for found in split]
    for ours in ranks:
        assert ours["answers"] == alone["answers"]
        for found, expected in zip(ours["full"], alone["full"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for first, second in zip(*(ours["full"] for ours in ranks), strict=True):
        assert torch.equal(first, second), "another rounding could reveal another token"
    if "kept" in alone:  # each process holds its own heads' keys alone
        kept = torch.cat([ours["kept"] for ours in ranks], dim=1)
        torch.testing.assert_close(kept, alone["kept"], rtol=1e-5, atol=1e-5)
