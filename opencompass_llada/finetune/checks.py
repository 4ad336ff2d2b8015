"""Checks whether a recipe fits this machine, before anything loads: packages, folders, memory.

The memory plan is an estimate from sizes alone: parameters and optimiser exactly, activations by
counting the tensors that live at once (docs/finetune.md compares it with measurements).
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from opencompass_llada.files import folder_lock
from opencompass_llada.finetune.arithmetic import NetworkShape
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.recipe import Phase, Recipe
from opencompass_llada.finetune.text import matching_files

logger = logging.getLogger(__name__)

GB = 1e9
_WORKSPACE = 2.5 * GB  # CUDA context, cuBLAS and attention workspaces, fragmentation
_COMMUNICATION = 2.5 * GB  # NCCL, and the blocks that FSDP gathers ahead


def missing_package(key: str, package: str) -> ImportError:
    """Return the error for a recipe's key whose package is not installed."""
    return ImportError(f"{key} needs the package {package}: pip install {package}")


def check_machine(recipe: Recipe) -> None:
    """Check packages, text files and the output folder.

    Raises:
        ImportError: If a package that the recipe needs is missing.
        ValueError: If a path matches no file that can be read as text, or output_dir cannot be
            written to.
    """
    needed = {"lora": "peft"} if recipe.lora else {}
    if recipe.tensorboard:
        needed["tensorboard=true"] = "tensorboard"
    for key, package in needed.items():
        if find_spec(package) is None:
            raise missing_package(key, package)
    for source in (*recipe.text, *([recipe.evaluation.text] if recipe.evaluation.text else [])):
        matching_files(source)
    folder = Path(recipe.output_dir).absolute()
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:  # a name that is too long, or links in a circle
        raise _not_writable(recipe, error.strerror or str(error)) from error
    if not there.is_dir():
        raise _not_writable(recipe, f"{str(there)!r} is a file")
    if not os.access(there, os.W_OK):
        raise _not_writable(recipe, f"no right to write to {str(there)!r}")


@contextmanager
def claim_output(recipe: Recipe) -> Iterator[None]:
    """Keep the output folder for this process; one that was made for it and stays empty goes again.

    Raises:
        ValueError: If another process trains there, or it cannot be written to.
    """
    folder = Path(recipe.output_dir).absolute()
    with ExitStack() as stack:
        if not folder.exists():
            stack.callback(_remove_empty, folder)
        try:
            stack.enter_context(folder_lock(folder, "a training"))
        except OSError as error:
            raise _not_writable(recipe, error.strerror or str(error)) from error
        yield


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds a run
        folder.rmdir()


def _not_writable(recipe: Recipe, reason: str) -> ValueError:
    return ValueError(
        f"output_dir={recipe.output_dir!r} cannot be written: {reason}. Name another folder."
    )


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float  # with the moving average
    kept: float  # activations from forward to backward: one or two a block, or all of them
    block: float  # the largest block's own tensors in its backward pass
    logits: float  # one chunk, with its gradient
    workspace: float  # libraries, fragmentation, communication

    @property
    def total(self) -> float:
        """All of it."""
        return sum(dataclasses.astuple(self))

    def describe(self) -> str:
        """Return one line for the log."""
        parts = ", ".join(
            f"{name} {size / GB:.1f}" for name, size in dataclasses.asdict(self).items()
        )
        return f"{self.total / GB:.1f} GB a device ({parts})"


def plan_memory(
    recipe: Recipe, shape: NetworkShape, world_size: int, *, on_cuda: bool
) -> StepMemory:
    """Estimate a step's memory on each of the devices, in the phase that needs the most.

    On CUDA activations are 16 bit.
    """
    plans = (_plan(recipe, phase, shape, world_size, on_cuda) for phase in recipe.phases)
    return max(plans, key=lambda plan: plan.total)


def _plan(
    recipe: Recipe, phase: Phase, shape: NetworkShape, world_size: int, on_cuda: bool
) -> StepMemory:
    parts = max(1, world_size // recipe.sequence_parallel)
    rows = recipe.micro_rows or max(1, phase.rows_per_step // parts)
    tokens = rows * phase.sequence_length // recipe.sequence_parallel
    stretch = phase.sequence_length // recipe.sequence_parallel
    trained_bytes = 4 if recipe.parameter_dtype == "float32" else 2
    frozen_bytes = trained_bytes if world_size > 1 or not on_cuda else 2
    unit = 2 if on_cuda else 4
    trained, frozen = shape.num_parameters, 0
    if recipe.lora is not None:
        trained = shape.adapter_parameters + shape.norm_parameters
        frozen = shape.num_parameters - shape.norm_parameters
    copies = 2 + (recipe.ema_decay is not None)
    width, inner = shape.width, shape.mlp_width
    # Positions of the MLP's inner tensors that exist at once.
    tiled = tokens if recipe.mlp_tile is None else tokens * min(1, recipe.mlp_tile / stretch)
    # Per token: residuals, norms, queries, keys, values, output and their gradients, rotations in
    # float32; per tiled token: gate, up, their product and gradients.
    attention = tokens * unit * (8 * width + 4 * shape.kv_width) + tokens * 4 * 2 * width
    block = attention + tiled * unit * 6 * inner
    cast = 0 if not on_cuda or world_size > 1 or trained_bytes == 2 else 2 * trained
    if recipe.activation_checkpointing:
        number = 0 if recipe.offload_checkpoints else 1 + recipe.keep_attention
        kept = number * shape.num_layers * tokens * unit * width
    else:
        per_token = unit * (6 * width + 2 * shape.kv_width + 4 * inner) + 4 * 2 * width
        kept = shape.num_layers * tokens * per_token
        block = 0
    predicted = min(recipe.loss_chunk, tokens)
    return StepMemory(
        weights=(trained * trained_bytes + frozen * frozen_bytes) / world_size,
        gradients=trained * trained_bytes / world_size,
        optimizer=copies * trained * trained_bytes / world_size,
        kept=kept + cast,
        block=block,
        logits=predicted * shape.vocab_size * (4 + 4 + unit) + tokens * unit * 2 * width,
        workspace=(_WORKSPACE if on_cuda else 0) + (_COMMUNICATION if world_size > 1 else 0),
    )


class DoesNotFit(ValueError):
    """A step needs more memory than a device has; says which settings would fit."""


def check_memory(
    recipe: Recipe, shape: NetworkShape, world_size: int, available: float, *, on_cuda: bool
) -> StepMemory:
    """Return the plan of a recipe whose step fits the bytes of a device.

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
            settings = " ".join(f"{name}={value}".lower() for name, value in changes.items())
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


def _changes(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield changes of the recipe, those that cost the least time first."""
    ladder: list[tuple[bool, dict[str, Any]]] = [
        (recipe.loss_chunk > 4096, {"loss_chunk": 4096}),
        (recipe.micro_rows != 1, {"micro_rows": 1}),
        (not recipe.activation_checkpointing, {"activation_checkpointing": True}),
        (recipe.mlp_tile is None, {"mlp_tile": 4096}),
        (recipe.keep_attention, {"keep_attention": False}),
        (not recipe.offload_checkpoints, {"offload_checkpoints": True}),
    ]
    changes: dict[str, Any] = {}
    for helps, change in ladder:
        if helps:
            changes |= change
            yield changes


def check_fits(recipe: Recipe, shape: NetworkShape, ranks: Ranks) -> None:
    """Check that steps and evaluations fit the memory, and log the plan.

    Raises:
        ValueError: If the plan does not fit; names what does.
    """
    on_cuda = ranks.device.type == "cuda"
    if recipe.memory_limit is not None:
        available = recipe.memory_limit * GB
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
        hidden = (2 if on_cuda else 4) * (4 * shape.width + 2 * shape.mlp_width)
        needed = longest * hidden + predicted * 4 * shape.vocab_size
        if needed > available:
            raise ValueError(
                f"evaluation: {name}={longest} needs {needed / GB:.1f} GB for one row's "
                f"logits and hidden states, more than the {available / GB:.1f} GB of a device. "
                "Give shorter lengths."
            )


def host_memory() -> int:
    """Return the bytes of memory that this machine (or container) has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no container, or no limit
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii")))
    return total
