"""The paper's own recipe, rows of half the length that the scaling is for, and the 8B recipes."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from finetune_runs import LONGER, small_trainer
from test_finetune_checkpoint import second_loader
from tiny import write_tiny_checkpoint

from opencompass_llada.finetune.parallel import read_ranks
from opencompass_llada.finetune.recipe_file import load_recipe
from opencompass_llada.finetune.resources import NetworkShape, check_memory
from opencompass_llada.networks import LLaDAConfig, load_checkpoint
from opencompass_llada.networks.sequence_parallel import check_heads
from opencompass_llada.rope.methods import parse_rope_scaling, resolve_rope

#: Recipes of LLaDA-8B -> GPUs that their heads name, and the length that their scaling is for.
LLADA_8B = {
    "ultrallada_8b": (8, 131072),
    "ultrallada_8b_64k": (8, 65536),
    "ultrallada_8b_128k": (8, 131072),
    "lora_8b_64k": (1, 65536),
}


def rope_of(config, scaling):
    return resolve_rope(
        parse_rope_scaling(scaling),
        rope_theta=config.rope_theta,
        head_dim=config.head_dim,
        trained_length=config.trained_length,
    )


@pytest.mark.parametrize("name", LLADA_8B)
def test_the_8b_recipes_pass_all_checks(name, repository_root, monkeypatch):
    """On as many GPUs of 80 GB as they name: processes, rows, heads, memory, scaling."""
    processes, length = LLADA_8B[name]
    recipe = load_recipe(repository_root / "configs" / "finetune" / f"{name}.yaml")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert read_ranks(recipe).num_data_ranks == processes // recipe.sequence_parallel
    config = LLaDAConfig()
    check_heads(config, recipe.sequence_parallel)
    shape = NetworkShape(config.shape, recipe.lora.rank if recipe.lora else 0)
    check_memory(recipe, shape, processes, 80e9, on_cuda=True)
    rope = rope_of(config, recipe.rope_scaling)
    assert rope.longest_context == length >= recipe.trained_length
    assert max(recipe.evaluation.lengths) == length


def test_the_papers_recipe_is_the_papers(repository_root):
    """What its notes say: PG19, rows of 64K, 4M tokens a step, 600 steps, the base for 128K."""
    recipe = load_recipe(repository_root / "configs" / "finetune" / "ultrallada_8b.yaml")
    (phase,), (source,) = recipe.phases, recipe.text
    assert (phase.sequence_length, phase.num_steps) == (65536, 600)
    assert phase.sequence_length * phase.rows_per_step == 4 * 2**20
    assert (source.dataset, source.split) == ("emozilla/pg19", "train")
    assert (recipe.init_from, recipe.strategy) == ("GSAI-ML/LLaDA-8B-Base", "adaptive")
    rope = rope_of(LLaDAConfig(), recipe.rope_scaling)
    assert rope.theta_multiplier == pytest.approx(561.9, rel=1e-3)
    assert rope.rope_theta == pytest.approx(2.81e8, rel=1e-2)


def test_a_scaling_for_more_than_the_rows_is_used_unscaled_at_its_length(tmp_path):
    """Rows of 256, a scaling for 512, measured at 512; then loaded without scaling."""
    path = write_tiny_checkpoint(tmp_path / "model", max_sequence_length=128)
    changes = {
        "phases": [{"sequence_length": 256, "num_steps": 2, "rows_per_step": 2}],
        "rope_scaling": {"type": "diffusion_ntk", "target_length": 512},
        "evaluation": {
            "text": {"generated_seed": 9, "num_documents": 4},
            "lengths": [128, 512],
            "target_tokens": 16,
            "num_texts": 2,
            "draws": 4,
        },
    }
    trainer = small_trainer(tmp_path / "out", LONGER, init_from=str(path), **changes)
    folder = trainer.train()
    assert {"perplexity@512", "final_perplexity@512"} <= trainer.history[-1].keys()
    config = json.loads((folder / "config.json").read_text())
    assert config["max_sequence_length"] == 512
    assert config["rope_training"]["longest_row"] == 256
    assert config["rope_training"]["original_max_sequence_length"] == 128
    wanted = rope_of(trainer.model.config, {"type": "diffusion_ntk", "target_length": 512})
    assert config["rope_theta"] == pytest.approx(wanted.rope_theta)
    loaded = load_checkpoint(folder)
    assert (loaded.resolved_rope.method, loaded.resolved_rope.longest_context) == ("none", 512)
    ids = torch.randint(0, 200, (400,))  # beyond the rows, inside the length
    ours = load_checkpoint(folder, dtype=torch.float32)(ids[None]).logits[0]
    torch.testing.assert_close(ours, second_loader(folder, ids).float(), rtol=1e-3, atol=1e-3)


def test_gpu_hours_are_those_of_the_formula(repository_root):
    """Against the operations of LLaDA-8B's layers counted here, at half of the tokens masked."""
    pytest.importorskip("peft")
    sys.path[:0] = [str(repository_root / "benchmarks")]
    from training_hours import RECIPES, estimate, gpu_hours

    width, layers, mlp, vocabulary, length = 4096, 32, 12288, 126464, 65536
    block = 4 * width * width + 3 * width * mlp
    row = 2 * layers * block * length + 4 * layers * width * length**2
    row += 2 * width * vocabulary * length * 0.505
    found = estimate("ultrallada_8b")
    assert found["flops"] == pytest.approx(3 * row * 64 * 600, rel=1e-4)
    assert found["gpu_hours"] == pytest.approx(273, abs=1)
    assert gpu_hours(3600 * 989e12, 1.0, "NVIDIA H100 80GB HBM3") == pytest.approx(1.0)
    assert all(estimate(name)["gpu_hours"] > 0 for name in RECIPES)
    record = json.loads((repository_root / "benchmarks/records/training_hours.json").read_text())
    for name, row in record["recipes"].items():
        assert row == pytest.approx(estimate(name)), name
