"""The benchmark of the published models' shapes runs at toy size, through the real loading path."""

import json
import subprocess
import sys


def test_every_model_is_written_loaded_and_asked(repository_root, tmp_path):
    record = tmp_path / "record.json"
    command = [sys.executable, "benchmarks/model_shapes.py", "--tiny", "--record", str(record)]
    run = subprocess.run(
        command,
        cwd=repository_root,
        env={"PYTHONPATH": str(repository_root), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    models = json.loads(record.read_text())["models"]
    assert {model["family"] for model in models.values()} >= {"llada", "autoregressive"}
    for model in models.values():
        assert [run["nfe"] for run in model["runs"]] == [
            run["generated_tokens"] for run in model["runs"]
        ]
