"""Whether a network, a recipe and this machine fit together, before weights load."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch
from transformers import PreTrainedModel

from opencompass_llada.finetune.arithmetic import Shape
from opencompass_llada.finetune.devices import Ranks
from opencompass_llada.finetune.lora import check_targets
from opencompass_llada.finetune.memory_plan import check_memory, measuring_bytes
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.ulysses import check_heads
from opencompass_llada.logs import get_logger

logger = get_logger(__name__)


def check_fits(recipe: Recipe, shape: Shape, ranks: Ranks) -> None:
    """Check that steps and evaluations fit the memory, and log the plan.

    Args:
        recipe: The recipe.
        shape: The network's sizes.
        ranks: The processes.

    Raises:
        ValueError: If the plan does not fit; names what does.
    """
    on_cuda = ranks.device.type == "cuda"
    if recipe.memory_limit is not None:
        available = recipe.memory_limit * 1e9
    elif on_cuda:
        available = torch.cuda.get_device_properties(ranks.device).total_memory
    else:
        available = host_memory() / ranks.world_size
    plan = check_memory(recipe, shape, ranks.world_size, available, on_cuda=on_cuda)
    logger.info("Memory plan: %s", plan.describe())
    chosen = recipe.evaluation
    for name in ("lengths", "retrieval_lengths"):
        longest = predicted = max(getattr(chosen, name), default=1)
        if name == "lengths" and recipe.objective == "masked_diffusion":  # logits of the target
            predicted = min(longest, chosen.target_tokens)
        needed = measuring_bytes(shape, longest, predicted, on_cuda=on_cuda)
        if needed > available:
            raise ValueError(
                f"evaluation: {name}={longest} needs {needed / 1e9:.1f} GB for one row's "
                f"logits and hidden states, more than the {available / 1e9:.1f} GB of a device. "
                "Give shorter lengths."
            )


def check_network(model: PreTrainedModel, recipe: Recipe) -> None:
    """Check adapters and heads.

    Args:
        model: The network, on any device.
        recipe: The recipe.

    Raises:
        ValueError: If an adapter has no layer, or heads do not divide.
    """
    if recipe.lora is not None:
        check_targets(model, recipe.lora)
    if recipe.sequence_parallel > 1:
        config = model.config
        check_heads(config.n_heads, config.n_kv_heads, recipe.sequence_parallel)


def host_memory() -> int:
    """Return the bytes of memory that this machine (or container) has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no container, or no limit
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii")))
    return total
