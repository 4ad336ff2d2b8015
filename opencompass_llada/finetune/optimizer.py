"""Builds AdamW and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from opencompass_llada.finetune.adamw import SplitAdamW
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


def build_optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """Return AdamW over the trainable parameters, with weight decay on matrices alone.

    All in float32 it is torch's; with bfloat16 weights or smaller moments it is `SplitAdamW`.
    """
    matrices: dict[str, Any] = {"params": [], "weight_decay": recipe.weight_decay}
    others: dict[str, Any] = {"params": [], "weight_decay": 0.0}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            group = others if any(part in name for part in _NO_DECAY) else matrices
            group["params"].append(parameter)
    groups = [group for group in (matrices, others) if group["params"]]
    on_cuda = torch.cuda.is_available()
    if recipe.parameter_dtype == recipe.moments == "float32":
        return AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=on_cuda)
    return SplitAdamW(
        groups,
        lr=recipe.learning_rate,
        betas=recipe.betas,
        moments=recipe.moments,
        seed=recipe.seed,
        compiled=recipe.compile and on_cuda,
    )
