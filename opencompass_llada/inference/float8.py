"""Runs a network's products in float8: weights quantised once by channel, inputs by row.

e4m3 with float32 scales, the largest magnitude over 448. Norms, embedding, head, router and experts
keep their dtype. A small pass, of at most `SMALL_PRODUCT` tokens of each row, takes its inputs as
they are, since reading the weights is all that bounds it; others round them. What rows run beside a
row decides nothing, so that its answer does not depend on them. On a CPU a product is that of the
same numbers in float32, which is the oracle of the kernels.
Shape suffixes: T tokens, K input channels, N output channels, I tiles of output channels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opencompass_llada.inference.elementwise import Rows, kernels_fit
from opencompass_llada.inference.kv_cache import FLOAT8, quantise
from opencompass_llada.inference.tilings import CHANNEL_TILE, SMALL_PRODUCT
from opencompass_llada.networks.config import NetworkDimensions
from opencompass_llada.networks.transformer import BidirectionalNetwork, BlockParts

logger = logging.getLogger(__name__)

#: The parts of a block whose weights are quantised.
QUANTISED_PARTS = (
    *("query", "key", "value", "query_key_value", "attention_out"),
    *("gate", "up", "down"),
)
#: Channels of float8 products come in multiples of this.
_MULTIPLE = 16
#: Channels of a head that float8 attention takes at least: tensor cores sum so many at once.
_SMALLEST_HEAD = 32


class Float8Linear(nn.Module):
    """A linear layer whose weights are float8; inputs are quantised as they come, or not."""

    arrivals: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Quantise the weights of a layer."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_NK, scales_N = quantise(linear.weight.detach())
        self.weight = nn.Parameter(weight_NK, requires_grad=False)
        self.scales = nn.Parameter(scales_N, requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("arrivals", no_arrivals(weight_NK), persistent=False)

    def forward(self, x: Tensor | Rows) -> Tensor:
        """Return the product of inputs [..., K] with the weights, [..., N], in their dtype."""
        weights = self.weight, self.scales, self.bias, self.arrivals
        if isinstance(x, Rows):
            return product(x, *weights)
        return product(x.reshape(-1, x.shape[-1]), *weights).view(*x.shape[:-1], -1)

    def multiply(
        self, x_TK: Tensor | Rows, out_TN: Tensor | None = None, *, is_small: bool = False
    ) -> Tensor:
        """Return the same of inputs [T, K], not rounded in a small pass, in ``out_TN`` if given."""
        weights = self.weight, self.scales, self.bias, self.arrivals
        return product(x_TK, *weights, out_TN, is_small=is_small)


def quantise_network(network: BidirectionalNetwork) -> None:
    """Replace the linear layers of a network's blocks by float8 ones, block by block.

    Raises:
        ValueError: On a GPU without float8 products, or for sizes that they do not take.
    """
    shape = network.config.shape
    check_float8("precision='float8'", shape, next(network.parameters()).device)
    replaced = kept = 0
    for block in network.blocks:
        for name, part in zip(BlockParts._fields, block.parts, strict=True):
            if name not in QUANTISED_PARTS or part is None:
                continue
            if type(part) is not nn.Linear:
                kept += 1
                continue
            block.replace_part(name, Float8Linear(part))
            replaced += 1
    what = "precision='float8': %d layers hold float8 weights; embedding, head, norms%s keep %s"
    others = ", experts and routers" if shape.experts is not None else ""
    logger.info(what, replaced, others, cast(Tensor, network.get_output_embeddings().weight).dtype)
    if kept:
        logger.info("%d layers that are no plain linear ones (adapters) keep their dtype.", kept)


def check_float8(setting: str, shape: NetworkDimensions, device: torch.device) -> None:
    """Refuse a GPU without float8 products, and sizes that they do not take, with a ValueError.

    ``setting`` is what asks for them, as a user writes it.
    """
    check_card(setting, device)
    check_sizes(setting, shape)


def check_sizes(setting: str, shape: NetworkDimensions) -> None:
    """Refuse sizes that float8 products do not take on any device, with a ValueError."""
    sizes = {shape.width, shape.mlp_width, shape.query_width, shape.kv_width}
    if odd := sorted(size for size in sizes if size % _MULTIPLE):
        raise ValueError(
            f"{setting} takes layers whose sizes are multiples of {_MULTIPLE}, got {odd}; "
            "leave it out for this checkpoint"
        )


def check_card(setting: str, device: torch.device) -> None:
    """Refuse a GPU whose kernels cannot have float8, with a ValueError."""
    if obstacle := float8_obstacle(device):
        raise ValueError(
            f"{setting} cannot be had, because {obstacle}. Cards of compute capability "
            "8.9 and later have it (L4, L40S, RTX 4090, H100, H200, B200); leave it out here."
        )


def check_cache(dtype: str | None, shape: NetworkDimensions, device: torch.device) -> None:
    """Refuse a float8 cache on a GPU whose kernels cannot have it; plain PyTorch can anywhere."""
    if dtype == "float8" and kernels_fit(device, shape.head_dim) is None:
        check_card("cache dtype='float8'", device)


def check_attention(setting: str, shape: NetworkDimensions, device: torch.device) -> None:
    """Refuse a GPU, and heads, that float8 attention does not run on, with a ValueError."""
    check_card(setting, device)
    if device.type != "cuda":
        return
    obstacle = kernels_fit(device, shape.head_dim)
    if shape.head_dim < _SMALLEST_HEAD:
        obstacle = f"the head size {shape.head_dim} is less than {_SMALLEST_HEAD}"
    if obstacle:
        raise ValueError(f"{setting} cannot be had, because {obstacle}; leave it out here")


def float8_obstacle(device: torch.device) -> str | None:
    """Return why a device has no float8 products, or None if it has (a CPU emulates them)."""
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 9):
        return None
    name = torch.cuda.get_device_name(device)
    return f"{name} has compute capability {capability[0]}.{capability[1]}"


def no_arrivals(weight_NK: Tensor) -> Tensor:
    """Return what a product of few rows counts its finished programs in, int32 zeros [I]."""
    num_tiles = -(-len(weight_NK) // CHANNEL_TILE)
    return torch.zeros(num_tiles, dtype=torch.int32, device=weight_NK.device)


def product(
    x_TK: Tensor | Rows,
    weight_NK: Tensor,
    scales_N: Tensor,
    bias_N: Tensor | None,
    arrivals_I: Tensor,
    out_TN: Tensor | None = None,
    *,
    is_small: bool = False,
) -> Tensor:
    """Return inputs [T, K] times weights [N, K] plus the bias, [T, N], in the inputs' dtype.

    Inputs that are not float8 yet are rounded to it but in a small pass, which may have many rows.
    The product is written to ``out_TN``, dense, if that is given.
    """
    if isinstance(x_TK, Rows):
        return multiply(x_TK[:2], weight_NK, scales_N, bias_N, x_TK.dtype, out_TN)
    if not is_small:
        return multiply(quantise_rows(x_TK), weight_NK, scales_N, bias_N, x_TK.dtype, out_TN)
    if x_TK.is_cuda:
        from opencompass_llada.inference.triton.small_products import multiply_few

        if out_TN is None:
            out_TN = x_TK.new_empty((len(x_TK), len(weight_NK)))
        for some_TK, own_TN in zip(*(x.split(SMALL_PRODUCT) for x in (x_TK, out_TN)), strict=True):
            multiply_few(some_TK, weight_NK, scales_N, bias_N, arrivals_I, out_TN=own_TN)
        return out_TN
    exact_TN = F.linear(x_TK.float(), weight_NK.float())
    return _finished((exact_TN * scales_N).to(x_TK.dtype), bias_N, out_TN)


def quantise_rows(x_TK: Tensor, channel_scales_K: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return float8 inputs and the scale of each row, float32 [T].

    Of inputs times ``channel_scales_K``, float32, if these are given.
    """
    if x_TK.is_cuda:
        from opencompass_llada.inference.triton.float8 import quantise_rows as fused

        return fused(x_TK, channel_scales_K)
    return quantise(x_TK if channel_scales_K is None else x_TK * channel_scales_K)


def multiply(
    quantised: tuple[Tensor, Tensor],
    weight_NK: Tensor,
    scales_N: Tensor,
    bias_N: Tensor | None,
    dtype: torch.dtype,
    out_TN: Tensor | None = None,
) -> Tensor:
    """Return inputs [T, K] times weights [N, K] plus the bias, [T, N], in a dtype.

    Written to ``out_TN``, dense and of that dtype, if that is given.
    """
    x_TK, scales_T = quantised
    if not x_TK.is_cuda:
        exact_TN = F.linear(x_TK.float(), weight_NK.float())
        return _finished((exact_TN * scales_T[:, None] * scales_N).to(dtype), bias_N, out_TN)
    given: dict[str, Any] = {
        "scale_a": scales_T[:, None],
        "scale_b": scales_N[None, :],
        "out_dtype": torch.bfloat16,  # the only one that scales by row give
        "use_fast_accum": True,
    }
    if out_TN is not None and bias_N is None and dtype == torch.bfloat16:
        return torch._scaled_mm(x_TK, weight_NK.t(), **given, out=out_TN)
    return _finished(torch._scaled_mm(x_TK, weight_NK.t(), **given).to(dtype), bias_N, out_TN)


def _finished(product_TN: Tensor, bias_N: Tensor | None, out_TN: Tensor | None) -> Tensor:
    """Return a product with its bias, where it is wanted."""
    if bias_N is not None:
        product_TN = product_TN + bias_N
    return product_TN if out_TN is None else out_TN.copy_(product_TN)


def takes_rows(*parts: nn.Module | None) -> bool:
    """Tell whether the parts of a block that are there take inputs that are float8 already."""
    return all(isinstance(part, Float8Linear) for part in parts if part is not None)


def linear_parts(network: BidirectionalNetwork) -> Iterator[nn.Linear]:
    """Yield the layers whose weights `quantise_network` quantises."""
    for block in network.blocks:
        for name, part in zip(BlockParts._fields, block.parts, strict=True):
            if name in QUANTISED_PARTS and type(part) is nn.Linear:
                yield part


def added_bytes(linear: nn.Linear, dtype: torch.dtype) -> int:
    """Return how many bytes more a layer takes in float8 with its scales; below 0 for fewer."""
    return linear.weight.numel() * (FLOAT8.itemsize - dtype.itemsize) + 4 * linear.out_features


def bytes_of(module: nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes of a module's own weights, in a dtype but where they are float8."""
    own = module.parameters(recurse=False)
    if isinstance(module, Float8Linear):
        return sum(parameter.numel() * parameter.itemsize for parameter in own)
    return sum(parameter.numel() for parameter in own) * dtype.itemsize
