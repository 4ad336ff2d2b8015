"""Small recipes and their data, for the tests of fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.recipe_file import parse_recipe
from opencompass_llada.finetune.rows import Batch
from opencompass_llada.finetune.trainer import Trainer

RECIPE: dict[str, Any] = {
    "output_dir": "unused",
    "model": {"d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 48},
    "vocab_size": 400,
    "text": [{"generated_seed": 7, "num_documents": 8}],
    "phases": [
        {"sequence_length": 128, "num_steps": 12, "rows_per_step": 8},
        {"sequence_length": 256, "num_steps": 4, "rows_per_step": 4},
    ],
    "retrieval_share": 0.5,
    "warmup_steps": 2,
    "log_every": 4,
    "probe_every": 8,
    "evaluation": {"retrieval_rows": 4},
    "cache_dir": "none",
    "dtype": "float32",
}
#: One short phase, for tests that count steps.
SHORT = [{"sequence_length": 128, "num_steps": 4, "rows_per_step": 4}]
#: Post-training of a checkpoint: packed documents, nothing generated but them.
LONGER: dict[str, Any] = {
    **{k: v for k, v in RECIPE.items() if k not in ("model", "vocab_size")},
    "retrieval_share": 0.0,
    "strategy": "adaptive",
    "phases": [{"sequence_length": 512, "num_steps": 2, "rows_per_step": 2}],
}


def small_recipe(base: dict[str, Any] = RECIPE, **changes: Any) -> Recipe:
    """Return a small recipe with some keys changed."""
    return parse_recipe({**base, **changes})


def small_trainer(folder: Path, base: dict[str, Any] = RECIPE, **changes: Any) -> Trainer:
    """Return a trainer that writes to a folder."""
    return Trainer(small_recipe(base, output_dir=str(folder), **changes))


def first_batches(trainer: Trainer) -> list[Batch]:
    """Return the batches of the step to come."""
    return next(trainer._steps())[1]


def ranks_of(rank: int, world_size: int, sequence_parallel: int = 1) -> Ranks:
    """Return a rank of a run on CPUs."""
    import torch

    return Ranks(
        rank=rank,
        world_size=world_size,
        sequence_parallel=sequence_parallel,
        device=torch.device("cpu"),
    )
