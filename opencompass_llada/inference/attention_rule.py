"""Chooses the maskless attention kernel for a shape, by rates measured on the machine.

cuDNN is faster than flash on Hopper but builds a plan for every new shape, so that it pays only
where a shape's calls save more than the plan costs. Lengths that are no multiple of 8 are timed
apart, since cuDNN may serve them by other kernels.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opencompass_llada.networks.attention import attend_with, find_kernel

logger = logging.getLogger(__name__)

_MEASURED_LENGTH = 8192
_ALIGNED = (8192, 8216, 8232, 8248)  # multiples of 8; the first one also pays for what comes once
_ODD = (8191, 8199, 8213, 8237)


@dataclass(frozen=True, kw_only=True)
class AttentionRates:
    """What was measured for one kind of head on one device."""

    flash: float
    """Operations a second."""
    cudnn: float | None
    """Operations a second; None where it does not run."""
    cudnn_odd: float | None
    """At lengths that are no multiple of 8."""
    plan_seconds: float
    """What cuDNN's first call with a new shape takes beyond a later one."""
    plan_seconds_odd: float

    def choose(self, num_operations: float, num_calls: int, *, odd: bool) -> str:
        """Return ``cudnn`` or ``flash``, the faster for calls of a shape, the plan counted in."""
        cudnn, plan = self.cudnn, self.plan_seconds
        if odd:  # a length that is no multiple of 8
            cudnn, plan = self.cudnn_odd, self.plan_seconds_odd
        if cudnn is None:
            return "flash"
        saved = num_calls * (num_operations / self.flash - num_operations / cudnn)
        return "cudnn" if saved > plan else "flash"

    def describe(self) -> str:
        """Return one line for the log."""
        if self.cudnn is None or self.cudnn_odd is None:
            return f"flash {self.flash / 1e12:.0f} TFLOP/s, cuDNN does not run"
        return (
            f"flash {self.flash / 1e12:.0f} TFLOP/s, cuDNN {self.cudnn / 1e12:.0f} "
            f"({self.cudnn_odd / 1e12:.0f} at odd lengths), a cuDNN plan "
            f"{self.plan_seconds * 1e3:.0f} ms ({self.plan_seconds_odd * 1e3:.0f})"
        )


def attention_operations(num_queries: int, num_keys: int, num_heads: int, head_dim: int) -> float:
    """Return the floating-point operations of one attention call: two products, two each."""
    return 4.0 * num_queries * num_keys * num_heads * head_dim


@functools.cache
def measure_rates(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_groups: int, head_dim: int
) -> AttentionRates:
    """Time warm calls of both kernels on a CUDA device, and what plans cost."""

    def inputs(length: int) -> list[Tensor]:
        heads = (num_heads, num_groups, num_groups)
        shapes = [(length, number, head_dim) for number in heads]
        rows = (torch.randn(s, device=device, dtype=dtype) for s in shapes)
        return [row.transpose(0, 1)[None] for row in rows]

    *_, flash = _times("flash", inputs(_MEASURED_LENGTH), 4)
    operations = attention_operations(_MEASURED_LENGTH, _MEASURED_LENGTH, num_heads, head_dim)
    cudnn = cudnn_odd = None
    plan = plan_odd = 0.0
    try:
        (aligned, plan), (odd, plan_odd) = (_seconds_and_plan(n, inputs) for n in (_ALIGNED, _ODD))
        cudnn, cudnn_odd = operations / aligned, operations / odd
    except RuntimeError as error:
        logger.info("Attention kernel cudnn does not run here: %s", error)
    rates = AttentionRates(
        flash=operations / flash,
        cudnn=cudnn,
        cudnn_odd=cudnn_odd,
        plan_seconds=plan,
        plan_seconds_odd=plan_odd,
    )
    logger.info("Attention measured on %s: %s", device, rates.describe())
    return rates


def _seconds_and_plan(
    lengths: Sequence[int], inputs: Callable[[int], list[Tensor]]
) -> tuple[float, float]:
    """Return cuDNN's seconds a call and its median plan, the first length's left out."""
    plans, later = [], 0.0
    for length in lengths:
        first, _, later = _times("cudnn", inputs(length), 3)
        plans.append(max(first - later, 0.0))
    return later, sorted(plans[1:])[len(plans[1:]) // 2]


def make_rule(
    asked: str,
    device: torch.device,
    dtype: torch.dtype,
    num_heads: int,
    num_groups: int,
    head_dim: int,
) -> Callable[[int, int, int], str | None]:
    """Return a function of the numbers of queries, keys and calls that names a network's kernel.

    None is PyTorch's own choice (not CUDA, or not 16 bit, which neither kernel takes). The log says
    when a kernel is first chosen for whole rows, and for some queries of a row; not for each shape,
    since every step and prompt has others.
    """
    if asked != "auto":
        forced = find_kernel(asked, device)
        return lambda num_queries, num_keys, num_calls: forced
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return lambda num_queries, num_keys, num_calls: None

    logged: set[tuple[str, str]] = set()

    @functools.lru_cache(maxsize=4096)
    def rule(num_queries: int, num_keys: int, num_calls: int) -> str:
        rates = measure_rates(device, dtype, num_heads, num_groups, head_dim)
        operations = attention_operations(num_queries, num_keys, num_heads, head_dim)
        odd = bool(num_queries % 8 or num_keys % 8)
        chosen = rates.choose(operations, num_calls, odd=odd)
        asking = "whole rows" if num_queries == num_keys else "some queries of a row"
        if (chosen, asking) not in logged:
            logged.add((chosen, asking))
            what = "Attention kernel %s for %s; first: %d queries, %d keys, %d calls of that shape"
            logger.info(what, chosen, asking, num_queries, num_keys, num_calls)
        return chosen

    return rule


def _times(backend: str, inputs: list[Tensor], repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        attend_with(backend, *inputs)
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return found
