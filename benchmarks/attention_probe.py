"""Times one layer's attention at a training's own shape, and checks it against float32.

At hundreds of thousands of tokens a kernel's indices could overflow, which no test at short lengths
finds. The gradient that the output is given is zero but at a few queries, so that the exact
gradients of all queries, keys and values follow from these queries alone.

Shape suffixes: H query heads, G key/value heads, L positions, N checked queries, D head size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from opencompass_llada.finetune.forward import document_attend
from opencompass_llada.networks.attention_pattern import Documents

#: Queries that are checked, from the first of a document to its last.
NUM_CHECKED = 8
#: Seconds of a pass from which it is not taken twice; the first one finds the kernels' plans, too.
LONG_PASS = 4.0
#: Tokens of a pass before it, which loads the libraries.
FIRST = 8192


class Kernels(TorchDispatchMode):
    """Notes the names of the attention kernels that are called."""

    def __init__(self) -> None:
        """Start without any."""
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator as it is."""
        if "attention" in str(func) or "attn" in str(func):
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def mark(on_cuda: bool) -> Any:
    """Return this moment, on CUDA the device's."""
    if not on_cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(marks: Sequence[Any]) -> list[float]:
    """Return the seconds from each moment to the next, when the device has come to the last."""
    pairs = list(zip(marks, marks[1:], strict=False))
    if isinstance(marks[0], float):
        return [end - start for start, end in pairs]
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairs]


def probe_attention(
    heads: int, groups: int, head_dim: int, length: int, document: int, device: torch.device
) -> dict[str, Any]:
    """Run attention over a row of documents forward and backward, as training does.

    Returns:
        Kernels, seconds, operations a second, and each tensor's distance from float32 at the row's
        last document, in norms.
    """
    on_cuda = device.type == "cuda"
    options: dict[str, Any] = {"device": device, "generator": torch.Generator(device)}
    options["dtype"] = torch.bfloat16 if on_cuda else torch.float32
    q, k, v = (torch.randn(1, n, length, head_dim, **options) for n in (heads, groups, groups))
    q *= 2  # so that some keys matter more than others
    for x in (q, k, v):
        x.requires_grad_(True)
    attend = document_attend(Documents((document,) * (length // document)), device)
    places = torch.linspace(0, document - 1, NUM_CHECKED, dtype=torch.float64).round().long()
    chosen = (length - document + places).to(device)
    upstream = torch.zeros_like(q)
    upstream[:, :, chosen] = torch.randn(1, heads, NUM_CHECKED, head_dim, **options)
    first = min(document, FIRST)
    start = (x.detach()[:, :, :first].clone().requires_grad_(True) for x in (q, k, v))
    document_attend(Documents((first,)), device)(*start).float().sum().backward()
    for _ in range(2):
        q.grad = k.grad = v.grad = None
        marks = [mark(on_cuda)]
        with Kernels() as kernels:
            out = attend(q, k, v)
        marks.append(mark(on_cuda))
        out.backward(upstream)
        marks.append(mark(on_cuda))
        forward, backward = seconds_between(marks)
        if forward + backward > LONG_PASS:
            break
    flops = 4.0 * heads * head_dim * length * document
    return {
        "kernels": sorted(kernels.names),
        "forward_seconds": forward,
        "backward_seconds": backward,
        "forward_tflops": flops / forward / 1e12,
        "backward_tflops": 2 * flops / backward / 1e12,
        "errors": _distances((q, k, v, out), upstream, chosen, document),
    }


@torch.no_grad()
def _distances(
    tensors: tuple[Tensor, ...], upstream: Tensor, chosen_N: Tensor, document: int
) -> dict[str, float]:
    """Return the largest distance over heads; infinity where a gradient is not 0 but must be."""
    q, k, v, out = tensors
    repeats, first = q.shape[1] // k.shape[1], k.shape[2] - document
    worst = dict.fromkeys(("out", "q", "k", "v"), 0.0)
    for group in range(k.shape[1]):
        k_LD, v_LD = (x[0, group, first:].float() for x in (k, v))
        grad_k_LD, grad_v_LD = torch.zeros_like(k_LD), torch.zeros_like(v_LD)
        for head in range(group * repeats, (group + 1) * repeats):
            q_ND, upstream_ND = (x[0, head, chosen_N].float() for x in (q, upstream))
            weights_NL = (q_ND @ k_LD.T / math.sqrt(q_ND.shape[1])).softmax(-1)
            slope_NL = upstream_ND @ v_LD.T
            slope_NL = weights_NL * (slope_NL - (slope_NL * weights_NL).sum(-1, keepdim=True))
            slope_NL /= math.sqrt(q_ND.shape[1])
            grad_k_LD += slope_NL.T @ q_ND
            grad_v_LD += weights_NL.T @ upstream_ND
            worst["out"] = max(worst["out"], _distance(out[0, head, chosen_N], weights_NL @ v_LD))
            worst["q"] = max(worst["q"], _distance(q.grad[0, head, chosen_N], slope_NL @ k_LD))
        worst["k"] = max(worst["k"], _distance(k.grad[0, group, first:], grad_k_LD))
        worst["v"] = max(worst["v"], _distance(v.grad[0, group, first:], grad_v_LD))
    rest = torch.ones(q.shape[2], dtype=torch.bool, device=q.device)
    rest[chosen_N] = False
    if q.grad[:, :, rest].abs().amax() > 0:
        worst["q"] = math.inf
    for name, x in (("k", k), ("v", v)):
        if first and x.grad[:, :, :first].abs().amax() > 0:
            worst[name] = math.inf
    return worst


def _distance(ours: Tensor, exact: Tensor) -> float:
    return ((ours.float() - exact).norm() / exact.norm()).item()
