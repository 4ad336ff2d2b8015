"""What the machine can do: rates of matrix products and attention, copy bandwidth; and a clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from opencompass_llada.inference.attention_rule import attention_operations
from opencompass_llada.networks.attention import attend_with


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Return the wall time of one call, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def median_seconds(
    call: Callable[[], Any], device: torch.device, *, at_least: float, warm_ups: int = 1
) -> float:
    """Return the median time of a call that is repeated until a time has passed.

    Args:
        call: What to time.
        device: Where it runs.
        at_least: Seconds to spend, at least three calls.
        warm_ups: Calls before.
    """
    for _ in range(warm_ups):
        call()
    found: list[float] = []
    while len(found) < 3 or sum(found) < at_least:
        found.append(seconds_of(call, device))
    return statistics.median(found)


def matrix_rate(size: int, device: torch.device, dtype: torch.dtype, at_least: float) -> float:
    """Return operations a second of a square product on random data, sustained."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def ten() -> None:
        for _ in range(10):
            torch.mm(a, b)

    return 10 * 2 * size**3 / median_seconds(ten, device, at_least=at_least)


def attention_rate(
    backend: str | None,
    length: int,
    num_heads: int,
    head_dim: int,
    device: torch.device,
    dtype: torch.dtype,
    at_least: float,
) -> float:
    """Return operations a second of non-causal attention over one row."""

    def heads() -> Tensor:
        x_LHD = torch.randn(length, num_heads, head_dim, device=device, dtype=dtype)
        return x_LHD.transpose(0, 1)[None]

    q, k, v = heads(), heads(), heads()
    seconds = median_seconds(
        lambda: attend_with(backend, q, k, v), device, at_least=at_least, warm_ups=1
    )
    return attention_operations(length, length, num_heads, head_dim) / seconds


def copy_rate(num_bytes: int, device: torch.device, at_least: float) -> float:
    """Return bytes a second of a copy on the device, read and written ones counted."""
    source = torch.randint(0, 255, (num_bytes,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device, at_least=at_least)
    return 2 * num_bytes / seconds
