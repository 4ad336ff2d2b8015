"""Whether a network, a recipe and this machine fit together, before weights load."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from opencompass_llada.finetune.arithmetic import Shape
from opencompass_llada.finetune.devices import Ranks
from opencompass_llada.finetune.lora import check_targets
from opencompass_llada.finetune.memory_plan import check_memory
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.ulysses import check_heads
from opencompass_llada.logs import get_logger

logger = get_logger(__name__)


def check_network(model: PreTrainedModel, recipe: Recipe, shape: Shape, ranks: Ranks) -> None:
    """Check adapters, heads and memory, and log the memory plan.

    Args:
        model: The network, on any device.
        recipe: The recipe.
        shape: The network's sizes.
        ranks: The processes.

    Raises:
        ValueError: If an adapter has no layer, heads do not divide, or the plan does not fit.
    """
    if recipe.lora is not None:
        check_targets(model, recipe.lora)
    if recipe.sequence_parallel > 1:
        config = model.config
        check_heads(config.n_heads, config.n_kv_heads, recipe.sequence_parallel)
    on_cuda = ranks.device.type == "cuda"
    available = float("inf")
    if recipe.memory_limit is not None:
        available = recipe.memory_limit * 1e9
    elif on_cuda:
        available = torch.cuda.get_device_properties(ranks.device).total_memory
    plan = check_memory(recipe, shape, ranks.world_size, available, on_cuda=on_cuda)
    logger.info("Memory plan: %s", plan.describe())
