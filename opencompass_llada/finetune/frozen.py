"""Holds the frozen weights under adapters in float8, and computes with them forward and backward.

The formats are inference's (`inference.float8`): e4m3, a scale a channel of the weights and a row
of the inputs, and of the gradients. Nothing is trained here, and no weight has a gradient.
Shape suffixes: T tokens, K input channels, N output channels.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from opencompass_llada.inference.float8 import (
    QUANTISED_PARTS,
    multiply,
    quantise_rows,
)
from opencompass_llada.inference.kv_cache import quantise
from opencompass_llada.networks import BidirectionalNetwork
from opencompass_llada.networks.transformer import BlockParts

logger = logging.getLogger(__name__)


class FrozenLinear(nn.Module):
    """A linear layer with frozen float8 weights, through which gradients go to the inputs."""

    def __init__(self, linear: nn.Linear) -> None:
        """Quantise the weights of a layer; its bias, which is as frozen, stays."""
        super().__init__()
        weight_NK, scales_N = quantise(linear.weight.detach())
        self.weight = nn.Parameter(weight_NK, requires_grad=False)
        self.scales = nn.Parameter(scales_N, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the product of inputs [..., K] with the weights, [..., N].

        In the dtype of autocast where that is on, as other linear layers, else in the inputs'.
        """
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        rows_TK = x.reshape(-1, x.shape[-1])
        out_TN = _product(rows_TK, self.weight, self.scales, self.bias, dtype)
        return out_TN.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def load(self, weight_NK: Tensor) -> None:
        """Quantise weights of any dtype and device into this layer's."""
        values_NK, scales_N = quantise(weight_NK.to(self.weight.device))
        self.weight.copy_(values_NK)
        self.scales.copy_(scales_N)


# For the compiler a product and its gradient are one step each. As an autograd function that it
# looked into, the gradients were zeros on a GPU with torch 2.11, without a word.


@torch.library.custom_op("opencompass_llada::frozen_product", mutates_args=())
def _product(
    x_TK: Tensor, weight_NK: Tensor, scales_N: Tensor, bias_N: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return inputs, rounded by row, times frozen weights plus the bias, [T, N], in a dtype."""
    return multiply(quantise_rows(x_TK.contiguous()), weight_NK, scales_N, bias_N, dtype)


@_product.register_fake
def _(
    x_TK: Tensor, weight_NK: Tensor, scales_N: Tensor, bias_N: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return x_TK.new_empty((len(x_TK), len(weight_NK)), dtype=dtype)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the backward pass needs, which is the weights alone.

    The context holds them itself: what is saved for the backward pass is saved behind the product,
    which a block that is computed again would then have to compute.
    """
    x_TK, *ctx.weights = inputs[:3]
    ctx.dtype = x_TK.dtype


def _backward(ctx: Any, gradient_TN: Tensor) -> tuple[Tensor | None, ...]:
    return (input_gradient(gradient_TN, *ctx.weights, ctx.dtype), *[None] * 4)


_product.register_autograd(_backward, setup_context=_remember)


@torch.library.custom_op("opencompass_llada::frozen_input_gradient", mutates_args=())
def input_gradient(
    gradient_TN: Tensor, weight_NK: Tensor, scales_N: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the gradient of the inputs, [T, K], of `FrozenLinear`'s product, in a dtype.

    The channels N are summed over, so their scales go to the gradient before its rows are
    quantised. Tensor cores want the weights with N dense: they are transposed anew each time,
    0.44 GB read and written for a block of LLaDA-8B against 7 GB for a second copy of all blocks.
    """
    weight_KN = weight_NK.t().contiguous()
    ones_K = torch.ones(len(weight_KN), dtype=torch.float32, device=weight_KN.device)
    rows = quantise_rows(gradient_TN.contiguous(), scales_N)
    return multiply(rows, weight_KN, ones_K, None, dtype)


@input_gradient.register_fake
def _(gradient_TN: Tensor, weight_NK: Tensor, scales_N: Tensor, dtype: torch.dtype) -> Tensor:
    return gradient_TN.new_empty((len(gradient_TN), weight_NK.shape[1]), dtype=dtype)


def freeze_in_float8(model: BidirectionalNetwork) -> None:
    """Replace the linear layers of the blocks, also those under adapters, by `FrozenLinear`."""
    replaced = 0
    for block in model.blocks:
        for name, part in zip(BlockParts._fields, block.parts, strict=True):
            if name not in QUANTISED_PARTS or part is None:
                continue
            if type(part) is nn.Linear:
                block.replace_part(name, FrozenLinear(part))
            else:
                assert type(part.base_layer) is nn.Linear, type(part.base_layer)
                part.base_layer = FrozenLinear(part.base_layer)
            replaced += 1
    what = "lora.frozen_precision=float8: %d frozen layers hold float8 weights"
    logger.info(what, replaced)


def frozen_layers(model: nn.Module) -> dict[str, FrozenLinear]:
    """Return the layers with float8 weights by the published names of those weights."""
    return {
        f"{name.replace('.base_layer', '')}.weight": layer
        for name, layer in model.named_modules()
        if isinstance(layer, FrozenLinear)
    }
