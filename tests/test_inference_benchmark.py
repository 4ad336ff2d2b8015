"""The inference benchmark in its quick form, and the Triton kernels where Triton can be had."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest


def test_the_quick_benchmark_measures_everything_and_writes_a_record(tmp_path, repository_root):
    path = tmp_path / "record.json"
    command = [sys.executable, str(repository_root / "benchmarks" / "inference.py")]
    run = subprocess.run(
        [*command, "--quick", "--record", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository_root), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:] + run.stdout[-2000:]
    assert "failed: nothing" in run.stdout
    record = json.loads(path.read_text())
    modes = record["run 64+8"]["modes"]
    assert set(modes) == {"exact", "prompt", "prompt-fp8"}
    assert {m["nfe"] for m in modes.values()} == {8}
    assert (modes["exact"]["full_passes"], modes["prompt"]["full_passes"]) == (8, 1)
    assert set(record["tiny"]["exact"].values()) == {1.0}
    assert record["logits"]["full_argmax_agreement"] == 1.0
    assert record["ceilings"]["matrix"] > 0


KERNELS = """
import torch
from tiny import tiny_model
from opencompass_llada.modeling.inference import FastNetwork, PassServer
from opencompass_llada.modeling.inference.elementwise import FusedElementwise

model = tiny_model(n_kv_heads=1, n_layers=3, d_model=64, n_heads=2)
ids, lengths = torch.randint(0, 250, (3, 40)), (40, 23, 31)
positions = torch.tensor([[15, 14], [13, 9], [10, 12]])
expected = model.logits_at(ids, positions, torch.tensor(lengths))
network = FastNetwork(model)
network.ops = FusedElementwise()
server = PassServer(network)
session = server.open(lengths, block_length=2, cache_dtype="bfloat16", passes=1)
full = session.full_pass(ids, positions, keep=True)
torch.testing.assert_close(full, expected, rtol=1e-3, atol=1e-3)
server.graphs.enabled = True
server.graphs.run = server.graphs.span_states
part = session.partial_pass(ids, (13, 9, 8), 5, positions)
torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-3)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_give_the_plain_networks_logits_in_tritons_interpreter(repository_root):
    paths = os.pathsep.join(
        [str(repository_root), str(repository_root / "tests"), os.environ.get("PYTHONPATH", "")]
    )
    run = subprocess.run(
        [sys.executable, "-c", KERNELS],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
    )
    assert run.returncode == 0, run.stderr[-3000:]
