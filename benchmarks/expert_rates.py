"""Times the experts of LLaDA2.0-mini's layer beside dense products of the same operations."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from block_causal_shapes import Sizes, llada2
from inference_ceilings import median_seconds
from inference_shapes import make_random
from torch import Tensor


@torch.inference_mode()
def expert_rates(
    sizes: Sizes, num_tokens: int, device: torch.device, copy: float
) -> dict[str, Any]:
    """Return seconds of a layer's parts, their rates, and both beside dense products.

    Args:
        sizes: True or tiny.
        num_tokens: Tokens of the layer.
        device: Where.
        copy: Bytes that the device reads and writes a second.
    """
    from opencompass_llada.inference.forward import choose_elementwise
    from opencompass_llada.networks.experts import SparseMLP, run_experts

    _, config = llada2(sizes)
    width, experts = config.shape.width, config.shape.experts
    layer = make_random(functools.partial(SparseMLP, width), experts, device)
    stacked, dtype = layer.stacked(), layer.gate.weight.dtype
    h_TM = torch.randn(num_tokens, width, device=device, dtype=dtype)
    bias_E = torch.zeros(experts.number, device=device)

    steps = choose_elementwise(device, config.shape).experts

    def choose() -> tuple[Tensor, Tensor]:
        return steps.choose(h_TM, layer.gate.weight, bias_E, experts)

    chosen = choose()
    counts_E = torch.bincount(chosen[0].flatten().int(), minlength=experts.number)
    ends_E = counts_E.cumsum(0, dtype=torch.int32)
    x_SM = h_TM.repeat_interleave(experts.per_token, dim=0)
    y_SF = x_SM[:, : experts.width].contiguous()
    products = list(zip((x_SM, y_SF), stacked, strict=True))

    def grouped() -> None:
        for x, weights in products:
            F.grouped_mm(x, weights.transpose(1, 2), offs=ends_E)

    def dense() -> None:
        for x, weights in products:
            torch.mm(x, weights[0].t())

    calls = {
        "dense": dense,
        "grouped": grouped,
        "router": choose,
        "experts": lambda: run_experts(h_TM, *chosen, stacked, steps),
        "layer": lambda: layer.mix(h_TM, stacked, steps),
    }
    times = {
        name: median_seconds(call, device, at_least=sizes.at_least) for name, call in calls.items()
    }
    operations = 6.0 * len(x_SM) * width * experts.width
    used = int((counts_E > 0).sum())
    weight_bytes = used * 3 * experts.width * width * dtype.itemsize
    return {
        "experts_used": used,
        "most_tokens_of_an_expert": int(counts_E.max()),
        "seconds": times,
        "operations_a_second": {name: operations / s for name, s in times.items()},
        "of_dense": {name: times["dense"] / s for name, s in times.items()},
        # Of few tokens reading the weights decides, and a dense product has one expert's.
        "of_reading": {name: s * copy / weight_bytes for name, s in times.items()},
    }
