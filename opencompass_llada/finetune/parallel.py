"""Connects the processes of a run, shards networks over them, and lets them end well.

How ranks that share rows divide attention is `networks.sequence_parallel`'s.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.processes import connect, read_variable


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Who this process is; processes that share each row (sequence_parallel) are neighbours.

    What returns a value of all ranks, and `wait`, must be called by all.
    """

    rank: int
    world_size: int
    sequence_parallel: int
    device: torch.device
    local_world_size: int = 1
    """Processes on this machine."""

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

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of every rank's value."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on any rank."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item())

    def wait(self) -> None:
        """Wait until every rank has come here."""
        if self.world_size > 1:
            dist.barrier()


def read_ranks(recipe: Recipe) -> Ranks:
    """Read who this process is; processes, rows of a step and micro rows must divide evenly."""
    world_size = read_variable("WORLD_SIZE", lowest=1)
    rank, local = (read_variable(name, lowest=0) for name in ("RANK", "LOCAL_RANK"))
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
    on_machine = read_variable("LOCAL_WORLD_SIZE", lowest=1)
    return Ranks(
        rank=rank,
        world_size=world_size,
        sequence_parallel=shared,
        device=device,
        local_world_size=on_machine,
    )


def start_processes(ranks: Ranks, store: dist.Store | None = None) -> dist.ProcessGroup | None:
    """Connect the processes; return the group that shares rows with this one, if any does.

    ``store`` is one that they have met in before; None for that of torchrun's variables.
    """
    if ranks.world_size == 1:
        if ranks.device.type == "cuda":
            torch.cuda.set_device(ranks.device)
        return None
    rendezvous: dict[str, Any] = {}
    if store is not None:
        rendezvous = {"store": dist.PrefixStore("group", store), "rank": ranks.rank}
        rendezvous["world_size"] = ranks.world_size
    connect(ranks.device, **rendezvous)
    if ranks.sequence_parallel == 1:
        return None
    return dist.new_subgroups(ranks.sequence_parallel)[0]


def shard(
    network: nn.Module, blocks: list[nn.Module], ranks: Ranks, whole: set[nn.Parameter]
) -> None:
    """Shard parameters, gradients and optimiser state over several processes (FSDP2), in place.

    Computes in bfloat16 on CUDA and reduces gradients in float32. Parameters that stay ``whole``
    on every process are left as they are.
    """
    if ranks.world_size == 1:
        return
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    if ranks.device.type == "cuda":
        # Inputs are not cast: cosines, sines and loss weights must stay float32.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=whole)
    fully_shard(network, mesh=mesh, mp_policy=policy, ignored_params=whole)


def reshard(network: nn.Module) -> None:
    """Give back what a forward pass without a backward pass has gathered."""
    if isinstance(network, FSDPModule):
        network.reshard()


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor's whole on every rank, all of which ask; others as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


#: What asks a run to stop: SIGTERM, as Slurm sends before it kills, and Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def outlive_signals(worker: int = 0) -> None:
    """Let a process that makes rows live until its trainer, which gets the same signal, has saved.

    The worker ends when its trainer does, even by SIGKILL and with rows that nobody takes from it
    (DataLoader's own worker then waits on).
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

    Multiprocessing would wait for ever: it sends SIGTERM, which a worker ignores.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's handler raises for a dead worker
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect the number of a signal instead of ending the process; a second one ends it."""
    received: list[int] = []

    def give_back() -> None:
        while earlier:
            signal.signal(*earlier.popitem())

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        give_back()

    earlier = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield received
    finally:
        give_back()
