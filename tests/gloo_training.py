"""Trains a small recipe by torchrun or alone and saves weights, for test_finetune_parallel."""

from __future__ import annotations

import json
import sys

import torch
from finetune_runs import small_recipe

from opencompass_llada.finetune.devices import stop_processes, sum_over_ranks, whole_tensor
from opencompass_llada.finetune.loop import Trainer


def main(output: str, changes: str, num_steps: int, save: bool) -> None:
    """Take steps and write the losses, gradients of the first step and final weights."""
    trainer = Trainer(small_recipe(**json.loads(changes), output_dir=output))
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
        losses.append(sum_over_ranks(loss, trainer.ranks).item())
        if trainer.step == num_steps:
            break
    if save:
        if trainer.ranks.is_main:
            trainer.index.write()
        trainer.save({})
    figures = trainer.measure(trainer.recipe.phases[0])
    weights = {
        name: whole_tensor(parameter.detach()).clone()
        for name, parameter in trainer.network.named_parameters()
    }
    if trainer.ranks.is_main:
        torch.save(
            {"losses": losses, "gradients": gradients, "weights": weights, "figures": figures},
            f"{output}.pt",
        )
    stop_processes()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "save")
