"""Two processes (FSDP2, Ulysses, both) compute what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from finetune_runs import small_trainer

from opencompass_llada.finetune.ulysses import check_heads

TESTS = Path(__file__).resolve().parent
CHANGES = {
    "strategy": "adaptive",
    "phases": [{"sequence_length": 128, "num_steps": 4, "rows_per_step": 4}],
    "evaluation": {
        "retrieval_rows": 2,
        "lengths": [64],
        "target_tokens": 32,
        "num_texts": 2,
        "draws": 4,
        "text": {"generated_seed": 9, "num_documents": 2},
    },
    "ema_decay": 0.9,
}


def train(folder, processes, changes, num_steps=3, save="-"):
    """Run gloo_training.py and return what it saved."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [str(TESTS / "gloo_training.py"), str(folder), json.dumps(changes)]
    command += [str(num_steps), save]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = f"{TESTS.parent}{os.pathsep}{TESTS}"
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(f"{folder}.pt")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone") / "out", 1, CHANGES)


@pytest.mark.slow
@pytest.mark.parametrize("sequence_parallel", [1, 2], ids=["data", "sequence"])
def test_two_processes_compute_what_one_does(tmp_path, alone, sequence_parallel):
    """FSDP2 over two ranks that split the rows, or (Ulysses) each row."""
    changes = {**CHANGES, "sequence_parallel": sequence_parallel}
    if sequence_parallel == 2:
        changes |= {"activation_checkpointing": True, "mlp_tile": 16, "loss_chunk": 40}
    ours = train(tmp_path / "out", 2, changes, save="save")
    assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert ours["gradients"].keys() == alone["gradients"].keys()
    for name, gradient in alone["gradients"].items():
        torch.testing.assert_close(ours["gradients"][name], gradient, rtol=1e-5, atol=1e-5)
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(ours["weights"][name], weight, rtol=1e-3, atol=1e-4)
    assert ours["figures"] == pytest.approx(alone["figures"], rel=1e-3)
    # What two processes wrote, one goes on from.
    trainer = small_trainer(tmp_path / "out", **{**changes, "sequence_parallel": 1})
    assert trainer.step == 3
    for name, parameter in trainer.network.named_parameters():
        assert torch.equal(parameter, ours["weights"][name]), name


def test_more_ranks_than_heads_are_refused():
    check_heads(32, 8, 8)
    with pytest.raises(ValueError, match="n_kv_heads=8.*1, 2, 4, 8"):
        check_heads(32, 8, 16)
