"""Builds AdamW, its learning rate, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from opencompass_llada.finetune.recipe import Recipe

_NO_DECAY = ("norm", "ln_f", "wte", "embed_tokens")


def learning_rate(recipe: Recipe, step: int, seconds: float = 0.0) -> float:
    """Return the rate of a step: linear warm-up, then cosine decay to a tenth of the peak.

    Under a time limit the seconds since training began count, too; torch's schedulers know steps
    alone.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.num_steps - recipe.warmup_steps)
    if recipe.time_limit is not None:
        done = max(done, seconds / recipe.time_limit)
    return recipe.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done))))


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, with weight decay on matrices alone."""
    matrices: dict[str, Any] = {"params": [], "weight_decay": recipe.weight_decay}
    others: dict[str, Any] = {"params": [], "weight_decay": 0.0}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            group = others if any(part in name for part in _NO_DECAY) else matrices
            group["params"].append(parameter)
    return torch.optim.AdamW(
        [group for group in (matrices, others) if group["params"]],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        fused=torch.cuda.is_available(),
    )


class MovingAverage:
    """Exponential moving average of the trainable weights, in their own dtype and sharding."""

    def __init__(self, network: nn.Module, decay: float | None) -> None:
        """Start from the weights as they are; without a decay there is no average."""
        self._network, self._decay = network, decay
        self.weights: dict[str, torch.Tensor] = {
            name: parameter.detach().clone()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and decay is not None
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        for name, parameter in self._network.named_parameters():
            if self._decay is not None and name in self.weights:
                self.weights[name].lerp_(parameter.detach(), 1 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the averages for its weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._network.named_parameters():
            if name in self.weights:
                average = self.weights[name].clone()
                self.weights[name].copy_(parameter)
                parameter.copy_(average)
