"""Connects the processes of a run, shards networks and rows over them, and lets them end well.

torchrun's environment variables say how many there are; without them there is one.

Source: DeepSpeed-Ulysses, arXiv 2309.14509: before attention ranks exchange stretches for heads,
after it heads for stretches. Exact: the same arithmetic as on one device.

Shape suffixes: B rows, H heads, L positions of a row, S of this rank's stretch, D head size, R
ranks, K heads of this rank.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_to_all_single

from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.networks.transformer import Attend


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Who this process is; processes that share each row (sequence_parallel) are neighbours."""

    rank: int
    world_size: int
    sequence_parallel: int
    device: torch.device

    @property
    def data_rank(self) -> int:
        """This process's place among those that rows are split over."""
        return self.rank // self.sequence_parallel

    @property
    def num_data_ranks(self) -> int:
        """Parts that rows are split in."""
        return self.world_size // self.sequence_parallel

    @property
    def is_main(self) -> bool:
        """Whether this process logs and writes files."""
        return self.rank == 0


def read_ranks(recipe: Recipe) -> Ranks:
    """Read who this process is.

    Raises:
        ValueError: If processes, rows of a step and micro rows do not divide evenly.
    """
    world_size = read_variable("WORLD_SIZE", 1, lowest=1)
    rank, local = (read_variable(name, 0) for name in ("RANK", "LOCAL_RANK"))
    if rank >= world_size:
        raise ValueError(
            f"RANK={rank} must be below WORLD_SIZE={world_size}; start several processes with "
            "torchrun, which sets both, or unset them."
        )
    shared = recipe.sequence_parallel
    if world_size % shared:
        raise ValueError(
            f"sequence_parallel={shared} must divide the {world_size} processes (torchrun "
            f"--nproc_per_node); start {shared} or a multiple of it."
        )
    parts = world_size // shared
    for phase in recipe.phases:
        micro = recipe.micro_rows or 1
        if phase.rows_per_step % parts or (phase.rows_per_step // parts) % micro:
            raise ValueError(
                f"rows_per_step={phase.rows_per_step} must be a multiple of {parts} data-parallel "
                f"parts x micro_rows={micro}."
            )
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if on_cuda else torch.device("cpu")
    return Ranks(rank=rank, world_size=world_size, sequence_parallel=shared, device=device)


def read_variable(name: str, default: int, *, lowest: int = 0) -> int:
    """Return a whole number that torchrun puts into the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < lowest:
        raise ValueError(
            f"The environment variable {name}={text!r} must be a whole number from {lowest}, as "
            "torchrun sets it; unset it for one process."
        )
    return int(text)


def start_processes(ranks: Ranks) -> dist.ProcessGroup | None:
    """Connect the processes; return the group that shares rows with this one, if any does."""
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    if ranks.world_size == 1:
        return None
    if not dist.is_initialized():
        dist.init_process_group("nccl" if ranks.device.type == "cuda" else "gloo")
    if ranks.sequence_parallel == 1:
        return None
    own = None
    for first in range(0, ranks.world_size, ranks.sequence_parallel):
        members = list(range(first, first + ranks.sequence_parallel))
        group = dist.new_group(members)
        if ranks.rank in members:
            own = group
    return own


def stop_processes() -> None:
    """Disconnect, if connected."""
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(network: nn.Module, blocks: list[nn.Module], ranks: Ranks) -> None:
    """Shard parameters, gradients and optimiser state over all processes (FSDP2), in place.

    Computes in bfloat16 on CUDA and reduces gradients in float32. With one process nothing is
    done.
    """
    if ranks.world_size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    policy = MixedPrecisionPolicy()
    if ranks.device.type == "cuda":
        # Inputs are not cast: cosines, sines and loss weights must stay float32.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)


def reshard(network: nn.Module) -> None:
    """Give back what a forward pass without a backward pass has gathered."""
    give_back: Callable[[], None] | None = getattr(network, "reshard", None)
    if give_back is not None:
        give_back()


def sum_over_ranks(value: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Return the sum of every rank's value."""
    if ranks.world_size == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def any_rank(flag: bool, ranks: Ranks) -> bool:
    """Tell whether the flag is set on any rank; all must ask."""
    if ranks.world_size == 1:
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag), device=ranks.device), ranks).item())


def wait_for_all(ranks: Ranks) -> None:
    """Wait until every rank has come here."""
    if ranks.world_size > 1:
        dist.barrier()


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a sharded tensor's whole on every rank; others as they are. All ranks must ask."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def _exchange(x_RBKSD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Exchange over the first dimension; the gradient is the exchange back."""
    return all_to_all_single(torch.empty_like(x_RBKSD), x_RBKSD, group=group)


def _to_heads(x_BHSD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Give away heads, get the whole rows: [B, H, S, D] to [B, K, L, D]."""
    ranks = dist.get_world_size(group)
    x_RBKSD = x_BHSD.unflatten(1, (ranks, -1)).movedim(1, 0).contiguous()
    return _exchange(x_RBKSD, group).movedim(0, 2).flatten(2, 3)


def _to_stretches(x_BKLD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Give away positions, get all heads: [B, K, L, D] to [B, H, S, D]."""
    ranks = dist.get_world_size(group)
    x_RBKSD = x_BKLD.unflatten(2, (ranks, -1)).movedim(2, 0).contiguous()
    return _exchange(x_RBKSD, group).movedim(0, 1).flatten(1, 2)


def ulysses_attend(attend: Attend, group: dist.ProcessGroup) -> Attend:
    """Return attention over whole rows for ranks that hold stretches of them."""

    def exchanging(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
        return _to_stretches(
            attend(*(_to_heads(x, group) for x in (q_BHSD, k_BHSD, v_BHSD))), group
        )

    return exchanging


def check_heads(num_heads: int, num_kv_heads: int, ranks: int) -> None:
    """Refuse more ranks than heads can be given to."""
    for name, heads in (("n_heads", num_heads), ("n_kv_heads", num_kv_heads)):
        if heads % ranks:
            allowed = [n for n in range(1, heads + 1) if heads % n == 0]
            raise ValueError(
                f"sequence_parallel={ranks} must divide {name}={heads}: attention gives each "
                f"device whole heads. Use one of {', '.join(map(str, allowed))}."
            )


#: What asks a run to stop: SIGTERM, as Slurm sends before it kills, and Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def outlive_signals(worker: int = 0) -> None:
    """Let a process that makes rows live until its trainer, which gets the same signal, has saved.

    Slurm and terminals signal all processes of a job. The worker ends when its trainer does, even
    by SIGKILL and with rows that nobody takes from it (DataLoader's own worker then waits on).
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    trainer = multiprocessing.parent_process()
    assert trainer is not None, "a worker has a trainer"
    trainer.join()
    os._exit(1)


def end_workers() -> None:
    """Kill the daemon processes that are left when the interpreter exits, as after an error.

    Multiprocessing asks them with SIGTERM, which a worker ignores, and would wait for ever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's handler raises for a dead worker
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class StopRequest:
    """The signal that asks to stop, by its number; None while there was none."""

    signal: int | None = None


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Note a signal instead of ending the process; a second one ends it."""
    request = StopRequest()

    def give_back() -> None:
        while earlier:
            signal.signal(*earlier.popitem())

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        give_back()

    earlier = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        give_back()
