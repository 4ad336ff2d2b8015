"""Reads who this process is among those that torchrun started, and connects them.

What they then divide among them is not decided here.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist


def read_variable(name: str, lowest: int) -> int:
    """Return a whole number that torchrun puts into the environment; without it the lowest."""
    text = os.environ.get(name, str(lowest))
    if not text.isdecimal() or int(text) < lowest:
        raise ValueError(
            f"The environment variable {name}={text!r} must be a whole number from {lowest}, as "
            "torchrun sets it; unset it for one process."
        )
    return int(text)


def own_device(device: torch.device) -> torch.device:
    """Return this process's device of a type: of GPUs the one with its number on the machine."""
    if device.type != "cuda":
        return device
    return torch.device("cuda", read_variable("LOCAL_RANK", lowest=0))


def connect(device: torch.device, **rendezvous: Any) -> dist.ProcessGroup:
    """Connect the processes, each of which works on its own device; return the group of all.

    Those of torchrun's variables, unless where to meet is given as `init_process_group` takes it.
    Nothing changes where they are connected already.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **rendezvous)
    group = dist.group.WORLD
    assert group is not None, "the processes are connected"
    return group


def wait_for_all() -> None:
    """Wait until all connected processes are here; at once where none are connected."""
    if dist.is_initialized():
        dist.barrier()


def stop_processes() -> None:
    """Disconnect, if connected."""
    if dist.is_initialized():
        dist.destroy_process_group()
