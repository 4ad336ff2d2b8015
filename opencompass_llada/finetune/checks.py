"""Whether network, recipe and machine fit together: the memory plan, before weights load.

An estimate from sizes alone: parameters and optimiser exactly, activations by counting the tensors
that live at once (docs/finetune.md compares it with measurements). Allocates nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from opencompass_llada.finetune.arithmetic import Shape
from opencompass_llada.finetune.lora import check_targets
from opencompass_llada.finetune.parallel import Ranks, check_heads
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.logs import get_logger

GB = 1e9
_WORKSPACE = 2.5 * GB  # CUDA context, cuBLAS and attention workspaces, fragmentation
_COMMUNICATION = 2.5 * GB  # NCCL, and the blocks that FSDP gathers ahead


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes on one device.

    Attributes:
        weights: Parameters, this device's share.
        gradients: Of the trained ones.
        optimizer: AdamW's two moments, and the moving average.
        kept: Activations kept from forward to backward: one or two a block, or all of them.
        block: The largest block's own tensors in its backward pass.
        logits: One chunk of logits with its gradient.
        workspace: Libraries, fragmentation, communication.
    """

    weights: float
    gradients: float
    optimizer: float
    kept: float
    block: float
    logits: float
    workspace: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(dataclasses.astuple(self))

    def describe(self) -> str:
        """Return one line for the log."""
        parts = ", ".join(
            f"{item.name} {getattr(self, item.name) / GB:.1f}" for item in dataclasses.fields(self)
        )
        return f"{self.total / GB:.1f} GB a device ({parts})"


def plan_memory(recipe: Recipe, shape: Shape, world_size: int, *, on_cuda: bool) -> MemoryPlan:
    """Estimate a step's memory on each device.

    Args:
        recipe: Rows, precision and what is saved.
        shape: The network's sizes.
        world_size: Devices.
        on_cuda: Whether activations are 16 bit.

    Returns:
        The plan of the phase that needs the most.
    """
    plans = []
    for phase in recipe.phases:
        parts = max(1, world_size // recipe.sequence_parallel)
        rows = recipe.micro_rows or max(1, phase.rows_per_step // parts)
        tokens = rows * phase.sequence_length // recipe.sequence_parallel
        stretch = phase.sequence_length // recipe.sequence_parallel
        plans.append(_plan(recipe, shape, world_size, tokens, stretch, on_cuda))
    return max(plans, key=lambda plan: plan.total)


def _plan(
    recipe: Recipe, shape: Shape, world_size: int, tokens: int, stretch: int, on_cuda: bool
) -> MemoryPlan:
    trained_bytes = 4 if recipe.parameter_dtype == "float32" else 2
    frozen_bytes = trained_bytes if world_size > 1 or not on_cuda else 2
    unit = 2 if on_cuda else 4
    norms = (2 * shape.num_layers + 1) * shape.width
    if recipe.lora is None:
        trained, frozen = shape.num_parameters, 0
    else:
        trained, frozen = shape.adapter_parameters + norms, shape.num_parameters - norms
    copies = 2 + (recipe.ema_decay is not None)
    width, inner = shape.width, shape.mlp_width
    # Positions of the MLP's inner tensors that exist at once.
    tiled = tokens if recipe.mlp_tile is None else tokens * min(1, recipe.mlp_tile / stretch)
    # Per token: residuals, norms, queries, keys, values, output and their gradients, rotations in
    # float32; per tiled token: gate, up, their product and gradients.
    attention = tokens * unit * (8 * width + 4 * shape.kv_width) + tokens * 4 * 2 * width
    mlp = tiled * unit * 6 * inner
    block = attention + mlp
    cast = 0 if not on_cuda or world_size > 1 or trained_bytes == 2 else 2 * trained
    if recipe.activation_checkpointing:
        number = 0 if recipe.offload_checkpoints else 1 + recipe.keep_attention
        kept = number * shape.num_layers * tokens * unit * width
    else:
        per_token = unit * (6 * width + 2 * shape.kv_width + 4 * inner) + 4 * 2 * width
        kept = shape.num_layers * tokens * per_token
        block = 0
    kept += cast
    predicted = min(recipe.loss_chunk, tokens)
    logits = predicted * shape.vocab_size * (4 + 4 + unit) + tokens * unit * 2 * width
    return MemoryPlan(
        weights=(trained * trained_bytes + frozen * frozen_bytes) / world_size,
        gradients=trained * trained_bytes / world_size,
        optimizer=copies * trained * trained_bytes / world_size,
        kept=kept,
        block=block,
        logits=logits,
        workspace=(_WORKSPACE if on_cuda else 0) + (_COMMUNICATION if world_size > 1 else 0),
    )


def measuring_bytes(shape: Shape, length: int, num_predicted: int, *, on_cuda: bool) -> float:
    """Estimate the memory of an evaluation's forward pass over a row, without the weights.

    Args:
        shape: The network's sizes.
        length: Tokens of the row.
        num_predicted: Those of them that logits are computed of.
        on_cuda: Whether activations are 16 bit.
    """
    hidden = (2 if on_cuda else 4) * (4 * shape.width + 2 * shape.mlp_width)
    return length * hidden + num_predicted * 4 * shape.vocab_size


class DoesNotFit(ValueError):
    """A step needs more memory than a device has; says which settings would fit."""


def check_memory(
    recipe: Recipe, shape: Shape, world_size: int, available: float, *, on_cuda: bool
) -> MemoryPlan:
    """Refuse a recipe whose plan exceeds a device's memory.

    Args:
        recipe: The recipe.
        shape: The network's sizes.
        world_size: Devices.
        available: Bytes of one device.
        on_cuda: Whether activations are 16 bit.

    Returns:
        The plan.

    Raises:
        DoesNotFit: Naming the settings nearest to the recipe's that fit.
    """
    plan = plan_memory(recipe, shape, world_size, on_cuda=on_cuda)
    if plan.total <= available:
        return plan
    for changes in _changes(recipe):
        changed = dataclasses.replace(recipe, **changes)
        nearest = plan_memory(changed, shape, world_size, on_cuda=on_cuda)
        if nearest.total <= available:
            settings = " ".join(f"{name}={_as_yaml(value)}" for name, value in changes.items())
            remedy = f"Nearest settings that fit: {settings} ({nearest.total / GB:.1f} GB)."
            break
    else:
        remedy = (
            "No setting of micro_rows, activation_checkpointing, keep_attention, mlp_tile, "
            "loss_chunk and offload_checkpoints makes it fit: use lora, "
            f"parameter_dtype=bfloat16, more devices (now {world_size}; sequence_parallel shares "
            "rows) or shorter rows."
        )
    raise DoesNotFit(
        f"The step needs {plan.describe()}, more than the {available / GB:.1f} GB of a device. "
        f"{remedy}"
    )


def _as_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _changes(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield changes of the recipe, those that cost the least time first."""
    chunk: dict[str, Any] = {} if recipe.loss_chunk <= 4096 else {"loss_chunk": 4096}
    rows = {} if recipe.micro_rows == 1 else {"micro_rows": 1}
    kept = {} if recipe.activation_checkpointing else {"activation_checkpointing": True}
    tile = {} if recipe.mlp_tile is not None else {"mlp_tile": 4096}
    again = {"keep_attention": False} if recipe.keep_attention else {}
    away = {} if recipe.offload_checkpoints else {"offload_checkpoints": True}
    ladder = [chunk, rows, kept, tile, again, away]
    for count in range(1, len(ladder) + 1):
        changes: dict[str, Any] = {}
        for part in itertools.islice(ladder, count):
            changes |= part
        if changes:
            yield changes


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
