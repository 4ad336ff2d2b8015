"""The benchmarks of fine-tuning run at toy size, so that a device call does not find a slip."""

import json
import subprocess
import sys

import pytest

ENVIRONMENT = {"PATH": "", "OMP_NUM_THREADS": "1", "OPENCOMPASS_LLADA_CACHE": "none"}


def run(repository_root, script, *arguments):
    return subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--tiny", *arguments],
        cwd=repository_root,
        env={**ENVIRONMENT, "PYTHONPATH": str(repository_root)},
        capture_output=True,
        text=True,
    )


def test_speed_states_plan_and_measurement(repository_root, tmp_path):
    pytest.importorskip("peft")
    record = tmp_path / "record.json"
    cases = ("adaptive_64k", "direct_64k", "full_bf16_32k")
    done = run(repository_root, "finetune_speed.py", "--cases", *cases, "--record", str(record))
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(record.read_text())["rows"]
    assert [row["case"] for row in rows] == list(cases)
    assert all(row["tokens_per_second"] > 0 and row["planned_gb"] > 0 for row in rows)
    assert [row["document"] for row in rows] == [64, 64, 128]
    assert all(case in done.stdout for case in cases)


@pytest.mark.parametrize("scaling", [None, "diffusion_ntk"])
def test_ruler_of_a_checkpoint(repository_root, tmp_path, scaling):
    record = tmp_path / "ruler.json"
    options = ["--lengths", "512", "--samples", "1", "--workers", "1", "--record", str(record)]
    if scaling:
        options += ["--scaling", scaling, "2048"]
    done = subprocess.run(
        [sys.executable, "benchmarks/ruler_grid.py", "asset:tiny-llada", *options]
        + ["--prompts", str(tmp_path)],
        cwd=repository_root,
        env={**ENVIRONMENT, "PYTHONPATH": str(repository_root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads(record.read_text())
    assert written["scaling"] == (scaling and {"type": scaling, "target_length": 2048})
    scores = written["ruler"]["512"]
    assert scores["niah_single_1"] == 100.0
    assert len(scores) == 11  # without question answering
