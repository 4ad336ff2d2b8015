"""Trains small recipes and saves losses, gradients and weights, for test_finetune_parallel.

Run by torchrun, or in the test's own process.
"""

from __future__ import annotations

import json
import sys
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


if __name__ == "__main__":
    for name, changes in json.loads(sys.argv[1]).items():
        train(name, changes)
    stop_processes()
