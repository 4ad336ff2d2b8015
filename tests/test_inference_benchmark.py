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
from opencompass_llada.inference import FastNetwork, PassServer
from opencompass_llada.inference.triton import split_attention
from opencompass_llada.inference.triton.elementwise import FusedElementwise
from opencompass_llada.inference.triton.split_attention import attend_cached

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
attended = []
split_attention.attend_cached = lambda *given: attended.append(1) or attend_cached(*given)
server.graphs.by_kernel = True  # launched one by one, since there are no graphs
for num_tokens, num_wanted in ((5, None), (8, 5)):
    part = session.partial_pass(ids, (13, 9, 8), num_tokens, positions, num_wanted)
    torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-3)
assert len(attended) == 6, "the split kernel serves all layers of both passes"
"""

SPLIT = """
import torch
from opencompass_llada.inference.kv_cache import FLOAT8, KeyValueCache
from opencompass_llada.inference.triton.split_attention import attend_cached
from opencompass_llada.inference.tilings import Tiling

LENGTHS = (1, 130, 64, 256)  # less than a tile, a rest, one tile, whole tiles
OFFSETS = (3, 4, 134, 198)


def check(num_queries, dtype, tiling):
    torch.manual_seed(0)
    cache = KeyValueCache(num_layers=1, num_slots=460, num_heads=1, head_dim=16, dtype=dtype,
                          device=torch.device("cpu"))
    (layer,) = cache.layers
    keys = torch.randn(2, 460, 1, 16) * 5 * torch.rand(2, 460, 1, 1)
    layer.write(torch.arange(460), *keys)
    for kept in (layer.keys_SGD, layer.values_SGD):
        kept[:3] = kept[454:] = float("nan")  # nothing beside the rows is read
    q = torch.randn(len(LENGTHS), num_queries, 2, 16)
    offsets, lengths = (torch.tensor(t, dtype=torch.int32) for t in (OFFSETS, LENGTHS))
    found = attend_cached(q.flatten(0, 1), layer.keys_SGD, layer.values_SGD, offsets, lengths,
                        k_scales_SG=layer.key_scales_SG, v_scales_SG=layer.value_scales_SG,
                        tiling=tiling).view_as(q)
    k, v = layer.read(0, 460, torch.float32)
    for row, (first, length) in enumerate(zip(OFFSETS, LENGTHS)):
        span = slice(first, first + length)
        weights = torch.softmax(torch.einsum("phd,sd->hps", q[row], k[span, 0]) / 4, -1)
        expected = torch.einsum("hps,sd->phd", weights, v[span, 0])
        error = ((found[row] - expected).norm() / expected.norm()).item()
        assert error < (2e-3 if dtype == FLOAT8 else 1e-5), (num_queries, length, tiling, error)


for dtype in (torch.float32, FLOAT8):
    check(3, dtype, Tiling(keys=64, stages=2))  # more splits than tiles
    check(3, dtype, Tiling(keys=64, stages=2, programs=64, peeled=True))
    check(3, dtype, Tiling(keys=64, stages=2, programs=1, peeled=True))
    check(70, dtype, None)
    check(150, dtype, Tiling(queries=128, keys=64, stages=2, programs=64))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("script", [KERNELS, SPLIT], ids=["network", "attention"])
def test_the_kernels_give_plain_pytorchs_results_in_tritons_interpreter(repository_root, script):
    paths = os.pathsep.join(
        [str(repository_root), str(repository_root / "tests"), os.environ.get("PYTHONPATH", "")]
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_the_comparison_with_libraries_records_every_way_or_why_not(tmp_path, repository_root):
    path = tmp_path / "record.json"
    command = [sys.executable, str(repository_root / "benchmarks" / "library_kernels.py")]
    run = subprocess.run(
        [*command, str(path), "--quick", "--layers", "2", "--lengths", "64", "--modes"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository_root), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:] + run.stdout[-2000:]
    record = json.loads(path.read_text())
    assert {"commit", "command", "machine", "device", "versions"} <= record.keys()
    ways = record["lengths"]["64"]
    assert {"plain", "ours", "small pass, ours", "small pass, without graphs"} <= ways.keys()
    for name, found in ways.items():
        if "absent" in found:
            assert "Error" in found["absent"], name
        else:
            assert found["relative_error"] < 1e-5, name
            assert found["argmax_agreement"] == 1.0, name
            assert found["times_ours"] > 0, name


def test_the_block_causal_benchmark_records_its_parts_without_opencompass(
    tmp_path, repository_root
):
    path = tmp_path / "record.json"
    script = f"""
import runpy, sys
sys.modules["opencompass"] = None
sys.path.insert(0, {str(repository_root / "benchmarks")!r})
sys.argv = ["block_causal.py", "--tiny", "--out", {str(path)!r}]
runpy.run_path({str(repository_root / "benchmarks" / "block_causal.py")!r}, run_name="__main__")
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository_root), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:] + run.stdout[-2000:]
    record = json.loads(path.read_text())
    assert record["failed"] == {}
    assert len(record["iLLaDA-8B 64"]["seconds_of_steps"]) == 2
    # The prompt's pass and a pass a token.
    assert record["block 16"]["passes"] == 1 + 32
    assert record["prefill 128"]["against_causal"] > 0
    chunks = record["prefill agreement"]["float32, in chunks, to float32"]
    assert chunks["argmax"] == 1.0
    assert max(chunks["relative_error"], *chunks["keys"]) < 1e-6
