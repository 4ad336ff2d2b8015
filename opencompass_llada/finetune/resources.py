"""Checks whether a recipe fits this machine, before anything loads: packages, folders, memory.

The memory plan is an estimate from sizes alone: parameters and optimiser exactly, activations by
counting the tensors that live at once (docs/explanation/post_training_scale.md compares it with
measurements on CUDA). On a CPU, whose kernels and allocator keep others alive, it is what a step
needs at least: parameters, optimiser, and one activation a block. Arithmetic is counted as arXiv
2204.02311 does: what checkpointing computes again is not.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from opencompass_llada.files import folder_lock
from opencompass_llada.finetune.adamw import MOMENT_BYTES, Moments
from opencompass_llada.finetune.offload import host_bytes
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.recipe import LARGEST_BETA_IN_8_BIT, Lora, Phase, Recipe
from opencompass_llada.finetune.text import matching_files
from opencompass_llada.inference.float8 import check_float8
from opencompass_llada.networks.config import NetworkDimensions

logger = logging.getLogger(__name__)

#: Dense 16-bit tensor throughput in operations a second, by a part of the device's name (vendors'
#: data sheets).
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
GB = 1e9
_WORKSPACE = 2.5 * GB  # CUDA context, cuBLAS and attention workspaces, fragmentation
_NCCL = 1 * GB


def import_for(key: str, package: str, module: str = "") -> Any:
    """Import what a recipe's key needs, of a package that may not be installed."""
    try:
        return import_module(module or package)
    except ImportError as error:
        raise ImportError(f"{key} needs the package {package}: pip install {package}") from error


def check_machine(recipe: Recipe) -> None:
    """Check packages (an ImportError), text files and the output folder (a ValueError)."""
    if recipe.lora:
        import_for("lora", "peft")
    if recipe.tensorboard:
        import_for("tensorboard=true", "tensorboard")
    for source in filter(None, (*recipe.text, recipe.evaluation.text)):
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
    """Lock the output folder; one that was made for it and stays empty goes again."""
    folder = Path(recipe.output_dir).absolute()
    was_there = folder.exists()
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(folder_lock(folder, "a training"))
            except OSError as error:
                raise _not_writable(recipe, error.strerror or str(error)) from error
            yield
    finally:
        if not was_there:
            with suppress(OSError):  # it holds a run
                folder.rmdir()


def _not_writable(recipe: Recipe, reason: str) -> ValueError:
    return ValueError(
        f"output_dir={recipe.output_dir!r} cannot be written: {reason}. Name another folder."
    )


@dataclass(frozen=True)
class NetworkShape:
    """A network's sizes and the rank of its adapters (0 for none), and how many parameters."""

    sizes: NetworkDimensions
    adapter_rank: int = 0

    @property
    def linear_parameters(self) -> int:
        """Parameters of all blocks' linear layers."""
        sizes = self.sizes
        attention = 2 * sizes.query_width + 2 * sizes.kv_width
        return sizes.num_layers * sizes.width * (attention + 3 * sizes.mlp_width)

    @property
    def linear_channels(self) -> int:
        """Output channels of all blocks' linear layers."""
        sizes = self.sizes
        attention = sizes.query_width + 2 * sizes.kv_width + sizes.width
        return sizes.num_layers * (attention + 2 * sizes.mlp_width + sizes.width)

    @property
    def norm_parameters(self) -> int:
        """Parameters of all norms."""
        heads = 2 * self.sizes.head_dim if self.sizes.has_qk_norm else 0
        return self.sizes.num_layers * (2 * self.sizes.width + heads) + self.sizes.width

    @property
    def num_parameters(self) -> int:
        """Parameters of the network without adapters."""
        number = 1 if self.sizes.ties_embeddings else 2
        embeddings = number * self.sizes.width * self.sizes.vocabulary
        return self.linear_parameters + embeddings + self.norm_parameters

    def parameters_trained_whole(self, lora: Lora) -> int:
        """Parameters of what is trained beside adapters."""
        embedding = self.sizes.width * self.sizes.vocabulary
        sizes = {"norms": self.norm_parameters, "embeddings": embedding, "head": embedding}
        return sum(sizes[kind] for kind in set(lora.train))

    @property
    def adapter_parameters(self) -> int:
        """Parameters of adapters on the seven linear layers of every block."""
        sizes = self.sizes  # an input and an output of each layer
        ends = 7 * sizes.width + 2 * sizes.query_width + 2 * sizes.kv_width + 3 * sizes.mlp_width
        return sizes.num_layers * self.adapter_rank * ends


def step_flops(
    shape: NetworkShape,
    spans: Sequence[int],
    num_predicted: int,
    block_length: int | None = None,
) -> float:
    """Return a batch's floating-point operations, forward once and backward twice.

    ``spans`` are the tokens that attend to each other, run by run; with blocks each has a noisy
    copy, and a token and its copy see span + block_length keys together, on average. Weights under
    adapters are frozen and have no gradients of their own: two passes' worth.
    """
    sizes, tokens = shape.sizes, sum(spans) * (2 if block_length else 1)
    num_pairs = sum(span * (span + (block_length or 0)) for span in spans)
    linear = 2.0 * shape.linear_parameters * tokens
    head = 2.0 * sizes.width * sizes.vocabulary * num_predicted
    attention = 4.0 * sizes.num_layers * sizes.query_width * num_pairs
    adapters = 2.0 * shape.adapter_parameters * tokens
    return (2 if shape.adapter_rank else 3) * (linear + head) + 3 * (attention + adapters)


def peak_flops(device_name: str) -> float | None:
    """Return a device's operations a second in 16 bit; None if it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


class StepMemory(NamedTuple):
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float  # with the moving average
    kept: float  # activations from forward to backward: one or two a block, or all of them
    block: float  # the largest block's own tensors in its backward pass
    logits: float  # what one chunk's logits and gradients need beyond a block's tensors
    workspace: float  # libraries, fragmentation, RoPE's table, what FSDP gathers

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)

    def describe(self) -> str:
        """Return one line for the log, of the parts that are planned."""
        sizes = {name: size for name, size in self._asdict().items() if size}
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in sizes.items())
        return f"{self.total / GB:.1f} GB a device ({parts})"


def plan_memory(
    recipe: Recipe, shape: NetworkShape, world_size: int, *, on_cuda: bool
) -> StepMemory:
    """Estimate a step's memory on each of the devices, in the phase that needs the most."""
    plans = (_plan(recipe, phase, shape, world_size, on_cuda) for phase in recipe.phases)
    return max(plans, key=lambda plan: plan.total)


def _plan(
    recipe: Recipe, phase: Phase, shape: NetworkShape, world_size: int, on_cuda: bool
) -> StepMemory:
    parts = max(1, world_size // recipe.sequence_parallel)
    rows = recipe.micro_rows or max(1, phase.rows_per_step // parts)
    # Block diffusion has a clean and a noisy row; the noisy one alone is predicted.
    copies_of_rows = 1 if recipe.block_length_of(phase) is None else 2
    stretch = copies_of_rows * phase.sequence_length // recipe.sequence_parallel
    tokens = rows * stretch
    trained_bytes = 4 if recipe.parameter_dtype == "float32" else 2
    frozen_bytes = trained_bytes if world_size > 1 or not on_cuda else 2
    trained, frozen = _parameters(recipe, shape)
    quantised = shape.linear_parameters if _has_float8(recipe) else 0
    weights = (trained * trained_bytes + (frozen - quantised) * frozen_bytes) / world_size
    if quantised:  # whole on every device, with a float32 scale a channel
        weights += quantised + 4 * shape.linear_channels
    gradients = trained * trained_bytes / world_size
    has_vectors = recipe.lora is None or "norms" in recipe.lora.train
    vectors = shape.norm_parameters if has_vectors else 0
    optimizer = _optimizer_bytes(recipe, trained, vectors, on_cuda) / world_size
    if not on_cuda:  # the least: a plan of the rest was off by up to 59 %
        kept = shape.sizes.num_layers * tokens * trained_bytes * shape.sizes.width
        return StepMemory(weights, gradients, optimizer, kept, 0, 0, 0)
    unit = 2
    width, kv_width, inner = shape.sizes.width, shape.sizes.kv_width, shape.sizes.mlp_width
    wide = max(width, shape.sizes.query_width)
    num_layers = shape.sizes.num_layers
    # Positions of the MLP's inner tensors that exist at once.
    tiled = tokens if recipe.mlp_tile is None else tokens * min(1, recipe.mlp_tile / stretch)
    # Per token: residuals, norms, queries, keys, values, output and their gradients, rotations in
    # float32; per tiled token: gate, up, their product and gradients.
    attention = tokens * unit * (8 * wide + 4 * kv_width) + tokens * 4 * 2 * wide
    block = attention + tiled * unit * 6 * inner
    if quantised:  # the gradients of gate and up, in float8
        block += tiled * 2 * inner
    cast = 0 if world_size > 1 or trained_bytes == 2 else 2 * trained
    if recipe.activation_checkpointing:
        inputs = num_layers
        if recipe.offload_checkpoints:  # one in use, one on its way
            inputs = min(2, num_layers)
        kept = (inputs + recipe.keep_attention * num_layers) * tokens * unit * width
        if recipe.keep_projections:  # queries, keys, values, and the state behind attention
            own = shape.sizes.query_width + 2 * kv_width + width
            kept += num_layers * tokens * unit * own
        kept += recipe.keep_mlp * tokens * unit * 2 * inner
    else:
        per_token = unit * (6 * wide + 2 * kv_width + 4 * inner) + 4 * 2 * wide
        kept, block = num_layers * tokens * per_token, 0
    predicted = min(recipe.loss_chunk, tokens)
    logits = predicted * shape.sizes.vocabulary * (4 + 4 + unit) + tokens * unit * 2 * width
    tables = 2 * 4 * shape.sizes.rotated_dim * (phase.sequence_length + tokens)
    return StepMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        kept=kept + cast,
        block=block,
        logits=max(0, logits - block),  # they are gone before the first block's backward pass
        workspace=_WORKSPACE + tables + (_gathered(recipe, shape) if world_size > 1 else 0),
    )


def _parameters(recipe: Recipe, shape: NetworkShape) -> tuple[int, int]:
    """Return how many parameters are trained, and how many are frozen."""
    if recipe.lora is None:
        return shape.num_parameters, 0
    whole = shape.parameters_trained_whole(recipe.lora)
    return shape.adapter_parameters + whole, shape.num_parameters - whole


def _has_float8(recipe: Recipe) -> bool:
    return recipe.lora is not None and recipe.lora.frozen_precision == "float8"


def _optimizer_bytes(recipe: Recipe, trained: int, vectors: int, on_cuda: bool) -> float:
    """Return the bytes of low halves, moments (of vectors float32) and the moving average.

    On a CPU the average is in the device's memory wherever it is kept.
    """
    low = 2 if recipe.parameter_dtype == "bfloat16" else 0
    is_offloaded = recipe.offload_average and on_cuda
    average = 4 if recipe.ema_decay is not None and not is_offloaded else 0
    moments = (trained - vectors) * MOMENT_BYTES[recipe.moments]
    return moments + vectors * MOMENT_BYTES["float32"] + trained * (low + average)


def _gathered(recipe: Recipe, shape: NetworkShape) -> float:
    """Return the bytes of what FSDP gathers, and of gradients before they are shared out, on CUDA.

    Embeddings and head stay from forward to backward, of the blocks there are two. Gradients are
    reduced in float32.
    """
    block = shape.linear_parameters / shape.sizes.num_layers
    embeddings = shape.num_parameters - shape.linear_parameters - shape.norm_parameters
    weights = 2 * (embeddings + (0 if _has_float8(recipe) else 2 * block))
    gradients = 0 if recipe.lora else 2 * (embeddings + block) + 4 * block
    return _NCCL + weights + gradients


def plan_host_memory(recipe: Recipe, shape: NetworkShape, world_size: int, *, on_cuda: bool) -> int:
    """Return the bytes of the host's memory that one process takes for what is offloaded."""
    needed = average = 0
    if recipe.offload_average:
        average = 4 * _parameters(recipe, shape)[0] // world_size
    if not recipe.offload_checkpoints:
        return average
    parts = max(1, world_size // recipe.sequence_parallel)
    unit = 2 if on_cuda else 4
    for phase in recipe.phases:
        copies = 1 if recipe.block_length_of(phase) is None else 2
        rows = recipe.micro_rows or max(1, phase.rows_per_step // parts)
        tokens = rows * copies * phase.sequence_length // recipe.sequence_parallel
        size = tokens * unit * shape.sizes.width
        needed = max(needed, host_bytes(shape.sizes.num_layers, size, pinned=on_cuda))
    return needed + average


def check_memory(
    recipe: Recipe,
    shape: NetworkShape,
    world_size: int,
    available: float,
    *,
    on_cuda: bool,
    takes_float8: bool = True,
) -> StepMemory:
    """Return the plan of a step that fits a device's bytes; an error names settings that do.

    ``takes_float8`` says whether device and sizes have float8 products, which are then named, too.
    """
    plan = plan_memory(recipe, shape, world_size, on_cuda=on_cuda)
    if plan.total <= available:
        return plan

    def total(**changes: Any) -> float:
        changed = dataclasses.replace(recipe, **changes)
        return plan_memory(changed, shape, world_size, on_cuda=on_cuda).total

    changes, fits = _settings_that_fit(recipe, total, available, on_cuda)
    lora = recipe.lora
    if takes_float8 and lora is not None and recipe.init_from is not None:
        lora = dataclasses.replace(lora, frozen_precision="float8")
    if total(lora=lora) >= plan.total:  # it is the same, or whole on each of many devices
        lora = recipe.lora
    if fits:
        remedy = _describe_settings(total, changes) + _describe_float8(total, lora, available)
    else:
        remedy = _describe_last_resorts(recipe, total, changes, lora, world_size, on_cuda)
    raise ValueError(
        f"The step needs {plan.describe()}, more than the {available / GB:.1f} GB of a device. "
        f"{remedy}"
    )


#: Returns the bytes of a step with some keys of the recipe changed.
_Total = Callable[..., float]


def _settings_that_fit(
    recipe: Recipe, total: _Total, available: float, on_cuda: bool
) -> tuple[dict[str, Any], bool]:
    """Return changes of the recipe that change no result, and whether they make a step fit."""
    changes: dict[str, Any] = {}
    is_ours = recipe.objective != "autoregressive"  # the twin's network is transformers'
    for name, value, helps in (  # those that cost the least time first
        ("loss_chunk", 4096, recipe.loss_chunk > 4096),
        ("micro_rows", 1, recipe.micro_rows != 1),
        ("activation_checkpointing", True, not recipe.activation_checkpointing and is_ours),
        ("keep_mlp", 0, recipe.keep_mlp),
        ("keep_projections", False, recipe.keep_projections),
        ("mlp_tile", 4096, recipe.mlp_tile is None and is_ours),
        ("keep_attention", False, recipe.keep_attention),
        ("offload_average", True, recipe.ema_decay and not recipe.offload_average and on_cuda),
        ("offload_checkpoints", True, not recipe.offload_checkpoints and is_ours and on_cuda),
    ):
        if not helps:
            continue
        changes[name] = value
        if total(**changes) > available:
            continue
        if name == "keep_mlp":  # in as many blocks as there is room for
            while total(**changes | {name: changes[name] + 1}) <= available:
                changes[name] += 1
        return _with_effect(total, changes), True
    return _with_effect(total, changes), False


def _with_effect(total: _Total, changes: dict[str, Any]) -> dict[str, Any]:
    """Return changes without those that save nothing."""
    for name in [*changes]:
        fewer = {other: value for other, value in changes.items() if other != name}
        with suppress(ValueError):  # one that another needs
            if total(**fewer) == total(**changes):
                changes = fewer
    return changes


def _describe_settings(total: _Total, changes: Mapping[str, Any]) -> str:
    savings: list[str] = []
    before, done = total(), dict[str, Any]()
    for name, value in changes.items():
        done[name] = value
        savings.append(
            f"{name} {'' if savings else 'saves '}{(before - total(**done)) / GB:.1f} GB"
        )
        before = total(**done)
    settings = " ".join(f"{name}={value}".lower() for name, value in changes.items())
    return f"Nearest settings that fit: {settings} ({before / GB:.1f} GB; {', '.join(savings)})."


def _describe_float8(total: _Total, lora: Lora | None, available: float) -> str:
    """Name float8 weights under adapters, if ``lora`` has them, beside settings that fit."""
    needed, saved = total(lora=lora), total() - total(lora=lora)
    if not saved:
        return ""
    what = f"would save {saved / GB:.1f} GB: it"
    if needed <= available:
        what = f"alone fits, too ({needed / GB:.1f} GB): it"
    return (
        f" lora.frozen_precision=float8 {what} rounds the frozen weights, and takes a new "
        "output_dir where the run has begun."
    )


def _describe_last_resorts(
    recipe: Recipe,
    total: _Total,
    changes: Mapping[str, Any],
    lora: Lora | None,
    world_size: int,
    on_cuda: bool,
) -> str:
    """Name what changes results or takes more machines, where no change of other settings fits."""
    resorts = []
    if recipe.lora is None and recipe.objective != "autoregressive":
        resorts.append("lora")
    if lora != recipe.lora:
        needed = total(**changes, lora=lora) / GB
        rounds = "it rounds the frozen weights"
        resorts.append(
            f"lora.frozen_precision=float8 ({needed:.1f} GB with all of these; {rounds})"
        )
    moments: Moments = "8bit" if recipe.betas[1] <= LARGEST_BETA_IN_8_BIT else "bfloat16"
    smallest: dict[str, Any] = {"parameter_dtype": "bfloat16", "moments": moments}
    if any(getattr(recipe, name) != value for name, value in smallest.items()):
        needed = total(**changes, lora=lora, **smallest) / GB
        settings = f"parameter_dtype=bfloat16 moments={moments}"
        resorts.append(f"{settings} ({needed:.1f} GB with all of these)")
    resorts.append(f"more devices (now {world_size}; sequence_parallel shares rows)")
    tried = f" of {', '.join(changes)}" if changes else ""
    return f"No setting{tried} makes it fit: use {', '.join(resorts)} or shorter rows."


def check_fits(recipe: Recipe, shape: NetworkShape, ranks: Ranks) -> None:
    """Check that steps and evaluations fit the memory (else a ValueError), and log the plan."""
    on_cuda = ranks.device.type == "cuda"
    if recipe.memory_limit is not None:
        available = recipe.memory_limit * GB
    elif on_cuda:
        available = torch.cuda.get_device_properties(ranks.device).total_memory
    else:
        available = _host_memory() / ranks.world_size
    plan = check_memory(
        recipe,
        shape,
        ranks.world_size,
        available,
        on_cuda=on_cuda,
        takes_float8=_takes_float8(shape, ranks.device),
    )
    more = "" if on_cuda else " at least: on a CPU most activations are not planned"
    logger.info("Memory plan: %s%s", plan.describe(), more)
    _check_host(recipe, shape, ranks, on_cuda=on_cuda)
    chosen = recipe.evaluation
    for name in ("lengths", "retrieval_lengths"):
        longest = predicted = max(getattr(chosen, name), default=1)
        if name == "lengths" and recipe.objective != "autoregressive":  # logits of the target
            predicted = min(longest, chosen.target_tokens)
        hidden = (2 if on_cuda else 4) * (4 * shape.sizes.width + 2 * shape.sizes.mlp_width)
        if recipe.objective == "block_diffusion":  # clean and noisy rows
            hidden *= 2
        needed = longest * hidden + predicted * 4 * shape.sizes.vocabulary
        if needed > available:
            raise ValueError(
                f"evaluation: {name}={longest} needs {needed / GB:.1f} GB for one row's "
                f"logits and hidden states, more than the {available / GB:.1f} GB of a device. "
                "Give shorter lengths."
            )


def _takes_float8(shape: NetworkShape, device: torch.device) -> bool:
    try:
        check_float8("", shape.sizes, device)
    except ValueError:
        return False
    return True


def _check_host(recipe: Recipe, shape: NetworkShape, ranks: Ranks, *, on_cuda: bool) -> None:
    """Check that the machine has the memory that its processes offload to, and log how much."""
    own = plan_host_memory(recipe, shape, ranks.world_size, on_cuda=on_cuda)
    if not own:
        return
    needed = own * ranks.local_world_size
    available = recipe.host_memory_limit * GB if recipe.host_memory_limit else _host_memory()
    logger.info(
        "Host memory plan: %.1f GB for each of %d processes", own / GB, ranks.local_world_size
    )
    if needed > available:
        names = [n for n in ("offload_checkpoints", "offload_average") if getattr(recipe, n)]
        raise ValueError(
            f"{' and '.join(f'{n}=true' for n in names)}: {needed / GB:.1f} GB of host memory are "
            f"needed for {ranks.local_world_size} processes, more than the machine's "
            f"{available / GB:.1f} GB. "
            "Use shorter rows or more machines that share a row (sequence_parallel), or set "
            "host_memory_limit to the GB that it may use, where the machine can grow."
        )


def _host_memory() -> int:
    """Return the bytes of memory that this machine (or container) has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no container, or no limit
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii")))
    return total
