"""Trains small recipes and saves losses, gradients and weights, for test_finetune_parallel.

In the test's own process, or in several (`forked_ranks`).
"""

from __future__ import annotations

from typing import Any

import torch
from finetune_runs import small_recipe

from opencompass_llada.finetune.parallel import whole_tensor
from opencompass_llada.finetune.trainer import Trainer
from opencompass_llada.processes import stop_processes

NUM_STEPS = 3


def train(output: str, changes: dict[str, Any]) -> None:
    """Take three of the recipe's steps and write what they did to ``output``.pt."""
    trainer = Trainer(small_recipe(**changes, output_dir=output))
    losses, gradients = [], {}
    take_step = trainer.optimizer.step

    def keep_gradients(*args, **kwargs):
        if not gradients:
            for name, parameter in trainer.network.named_parameters():
                if parameter.grad is not None:
                    gradients[name] = whole_tensor(parameter.grad).clone()
        return take_step(*args, **kwargs)

    trainer.optimizer.step = keep_gradients
    for phase, batches in trainer._steps():
        loss, _ = trainer.take_step(phase, batches)
        losses.append(trainer.ranks.sum(loss).item())
        if trainer.step == NUM_STEPS:
            break
    if trainer.ranks.is_main:
        trainer.index.write()
    trainer.save({})
    figures = trainer.measure(trainer.recipe.phases[0]).figures
    weights = {
        name: whole_tensor(parameter.detach()).clone()
        for name, parameter in trainer.network.named_parameters()
    }
    if trainer.ranks.is_main:
        torch.save(
            {"losses": losses, "gradients": gradients, "weights": weights, "figures": figures},
            f"{output}.pt",
        )


def train_all(recipes: dict[str, dict[str, Any]]) -> None:
    """Train recipes, by their output, one after another, and disconnect."""
    for name, changes in recipes.items():
        train(name, changes)
    stop_processes()
