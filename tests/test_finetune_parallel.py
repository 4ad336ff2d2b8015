"""Two processes (FSDP2 alone, and with Ulysses) compute what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gloo_training
import pytest
import torch
from finetune_runs import small_trainer
from test_finetune_samples import write_samples
from tiny import write_tiny_checkpoint

from opencompass_llada.networks import LLaDAConfig
from opencompass_llada.networks.sequence_parallel import check_heads

TESTS = Path(__file__).resolve().parent
ALONE = {
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
BLOCKS_ALONE = {
    **ALONE,
    "objective": "block_diffusion",
    "block_length": 4,
    "evaluation": {"retrieval_rows": 2},
}
#: Rows split over two ranks, or (Ulysses) each row, with everything that saves memory.
PARALLEL = {
    "data": ALONE,
    "sequence": {
        **ALONE,
        "sequence_parallel": 2,
        "activation_checkpointing": True,
        "keep_attention": True,
        "mlp_tile": 16,
        "loss_chunk": 40,
    },
    "blocks": {**BLOCKS_ALONE, "sequence_parallel": 2, "activation_checkpointing": True},
}
#: iLLaDA's kind of network: grouped heads, tied embeddings. Each row is shared by four ranks.
GROUPED_ALONE = {
    **ALONE,
    "model": {
        **{"d_model": 64, "n_heads": 8, "n_kv_heads": 4, "n_layers": 2, "mlp_hidden_size": 48},
        "weight_tying": True,
    },
    "evaluation": {"retrieval_rows": 2},
}
GROUPED = {
    **PARALLEL["sequence"],
    **GROUPED_ALONE,
    "sequence_parallel": 4,
    "offload_checkpoints": True,
    "mlp_tile": 8,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of what one process and two processes did."""
    folder = tmp_path_factory.mktemp("runs")
    gloo_training.train(str(folder / "alone"), ALONE)
    gloo_training.train(str(folder / "blocks_alone"), BLOCKS_ALONE)
    run_processes(2, {str(folder / name): changes for name, changes in PARALLEL.items()})
    return folder


def run_processes(number, recipes):
    """Train recipes, by their output, in so many processes."""
    command = [sys.executable, str(TESTS / "forked_ranks.py"), str(number), json.dumps(recipes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = f"{TESTS.parent}{os.pathsep}{TESTS}"
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", PARALLEL)
def test_two_processes_compute_what_one_does(runs, name):
    reference = "blocks_alone" if name == "blocks" else "alone"
    alone, ours = (torch.load(runs / f"{kind}.pt", weights_only=True) for kind in (reference, name))
    assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert ours["gradients"].keys() == alone["gradients"].keys()
    for key, gradient in alone["gradients"].items():
        torch.testing.assert_close(ours["gradients"][key], gradient, rtol=1e-5, atol=1e-5)
    for key, weight in alone["weights"].items():
        torch.testing.assert_close(ours["weights"][key], weight, rtol=1e-3, atol=1e-4)
    assert ours["figures"] == pytest.approx(alone["figures"], rel=1e-3)
    # What two processes wrote, one goes on from.
    trainer = small_trainer(runs / name, **{**PARALLEL[name], "sequence_parallel": 1})
    assert trainer.step == gloo_training.NUM_STEPS
    for key, parameter in trainer.network.named_parameters():
        assert torch.equal(parameter, ours["weights"][key]), key


@pytest.mark.slow
def test_two_processes_hold_frozen_float8_weights_whole(tmp_path):
    pytest.importorskip("peft")
    base = write_tiny_checkpoint(tmp_path / "base", max_sequence_length=128)
    changes = {
        **{**ALONE, "init_from": str(base), "model": {}, "vocab_size": None},
        **{"lora": {"rank": 4, "frozen_precision": "float8"}, "retrieval_share": 0.0},
        "evaluation": {"retrieval_rows": 0},
    }
    kept = {"activation_checkpointing": True, "keep_attention": True, "keep_projections": True}
    runs = {"data": changes, "sequence": {**changes, **kept, "sequence_parallel": 2, "keep_mlp": 1}}
    gloo_training.train(str(tmp_path / "alone"), changes)
    run_processes(2, {str(tmp_path / name): recipe for name, recipe in runs.items()})
    alone, *others = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("alone", *runs)
    )
    assert any(weight.dtype == torch.float8_e4m3fn for weight in alone["weights"].values())
    for ours in others:
        assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        assert ours["gradients"].keys() == alone["gradients"].keys()
        for key, gradient in alone["gradients"].items():
            # Where a number lies between two of float8's, the last bit decides.
            torch.testing.assert_close(ours["gradients"][key], gradient, rtol=0.02, atol=1e-3)


@pytest.mark.slow
def test_four_processes_share_rows_of_grouped_heads(tmp_path):
    gloo_training.train(str(tmp_path / "alone"), GROUPED_ALONE)
    run_processes(4, {str(tmp_path / "shared"): GROUPED})
    alone, ours = (
        torch.load(tmp_path / f"{kind}.pt", weights_only=True) for kind in ("alone", "shared")
    )
    assert not any("ff_out" in name and "blocks" not in name for name in alone["weights"])
    assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for key, gradient in alone["gradients"].items():
        torch.testing.assert_close(ours["gradients"][key], gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_samples_count_alike_over_processes_and_accumulation(tmp_path):
    """Rows of other numbers of samples: two processes, sharing rows or not, and a row at a time."""
    changes = {
        "text": write_samples(tmp_path),
        "strategy": "adaptive",
        "retrieval_share": 0.0,
        "answer_padding": {"multiple_of": 8},
        "phases": [{"sequence_length": 96, "num_steps": 4, "rows_per_step": 4}],
        "evaluation": {},
    }
    sharing = {"sequence_parallel": 2, "activation_checkpointing": True}
    runs = {
        str(tmp_path / "data"): changes,
        str(tmp_path / "sequence"): {**changes, **sharing},
        str(tmp_path / "single"): {**changes, "micro_rows": 1},
    }
    gloo_training.train(str(tmp_path / "alone"), changes)
    run_processes(2, runs)
    alone = torch.load(tmp_path / "alone.pt", weights_only=True)
    for output in runs:
        ours = torch.load(f"{output}.pt", weights_only=True)
        assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        for key, gradient in alone["gradients"].items():
            torch.testing.assert_close(ours["gradients"][key], gradient, rtol=1e-5, atol=1e-5)


def test_more_ranks_than_heads_are_refused():
    config = LLaDAConfig(n_heads=32, n_kv_heads=8)
    check_heads(config, 8)
    with pytest.raises(ValueError, match="n_kv_heads=8.*1, 2, 4, 8"):
        check_heads(config, 16)
