"""Processes of a run wait for the one that tokenises, as long as it lives, without a group."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


@pytest.fixture
def folder(tmp_path):
    rows = [{"text": f"document {number} " * 12} for number in range(48)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def start(folder, how):
    """Start two processes that find each other without torchrun, whose agent would end both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "tmp").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "TMPDIR": str(folder / "tmp"),
    }
    return [
        subprocess.Popen(
            [sys.executable, str(TESTS / "gathering_run.py"), how, str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_one_process_tokenises_and_the_other_reads(folder):
    runs = start(folder, "all")
    said = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "".join(said)
    main, other = (json.loads((folder / f"seen{rank}.json").read_text()) for rank in range(2))
    assert main["seconds"] > 5.0  # SILENT_SECONDS of the run: a slow process is no ended one
    for how in ("shared", "none"):
        assert (main[how]["made"], other[how]["made"]) == (48, 0)
        assert main[how]["tokens"] == other[how]["tokens"]
        assert main[how]["files"] == other[how]["files"] == ["a.jsonl"]
    assert (main["again"]["made"], other["again"]["made"]) == (0, 0)
    assert other["left"] == []
    # A cache of another machine: each tokenises, and the log names the remedy.
    assert (main["local"]["made"], other["local"]["made"]) == (48, 48)
    assert "not seen on elsewhere" in said[0]
    assert "Give a folder that all machines see" in said[0]
    assert "no file matches" in main["absent"]
    assert other["absent"].startswith("PeerEnded: Ended with rank 0 on ")
    assert "no file matches" in other["absent"]
    assert "differ between rank 0 and rank 1" in other["differ"]
    assert main["group"] == other["group"] == ["gloo", True]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other(folder, killed):
    runs = start(folder, "killed")
    try:
        assert runs[0].stdout.readline() == "encoding\n"
        assert runs[0].stdout.readline() == "encoding\n"
        runs[killed].kill()
        _, said = runs[1 - killed].communicate(timeout=60)
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    assert runs[1 - killed].returncode == 1
    assert "PeerEnded: " in said
    assert ("connection to the main rank is lost" if killed == 0 else "Rank 1 has given") in said
