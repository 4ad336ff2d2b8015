"""The matrix products of one block, with weights that share an input packed into one.

Packing queries, keys and values (and the MLP's gate and up) makes one wide product of several
narrow ones, which matters where few tokens are multiplied with weights that must all be read.
The modules' own parameters become views of the packed tensor, so that nothing is held twice and
the network's plain forward pass goes on working.

Shape suffixes: T tokens, M hidden size, H query heads, G key/value heads, D head size, F MLP size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opencompass_llada.modeling.block import Block


class Projections:
    """The products of one block."""

    def __init__(self, block: Block, *, pack: bool) -> None:
        """Find the modules and pack their weights if asked.

        Args:
            block: The block; with ``pack``, its parameters become views.
            pack: Pack where the modules are plain linear ones (adapters are left as they are).
        """
        self.parts = block.parts
        self.head_dim = block.head_dim
        parts = self.parts
        inputs = (parts.query, parts.key, parts.value, parts.gate, parts.up)
        self.packed = pack and all(type(module) is nn.Linear for module in inputs)
        if self.packed:
            self._qkv = _pack(parts.query, parts.key, parts.value)
            self._gate_up = _pack(parts.gate, parts.up)
            self._query_width = output_width(parts.query)
            self._key_width = output_width(parts.key)

    def queries_keys_values(self, h_TM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [T, H, D], keys and values [T, G, D], not rotated."""
        if not self.packed:
            return (self.queries(h_TM), *self.keys_values(h_TM))
        widths = (self._query_width, self._key_width, self._key_width)
        q, k, v = F.linear(h_TM, *self._qkv).split(widths, dim=-1)
        return self._heads(q), self._heads(k), self._heads(v)

    def queries(self, h_TM: Tensor) -> Tensor:
        """Return queries [T, H, D], not rotated."""
        return self._heads(self.parts.query(h_TM))

    def keys_values(self, h_TM: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [T, G, D], not rotated."""
        if not self.packed:
            return self._heads(self.parts.key(h_TM)), self._heads(self.parts.value(h_TM))
        weight, bias = self._qkv
        rows = slice(self._query_width, None)
        k, v = F.linear(h_TM, weight[rows], None if bias is None else bias[rows]).chunk(2, dim=-1)
        return self._heads(k), self._heads(v)

    def gate_up(self, h_TM: Tensor) -> tuple[Tensor, Tensor]:
        """Return the MLP's gate and up, [T, F] each."""
        if not self.packed:
            return self.parts.gate(h_TM), self.parts.up(h_TM)
        gate_TF, up_TF = F.linear(h_TM, *self._gate_up).chunk(2, dim=-1)
        return gate_TF, up_TF

    def down_into(self, gated_TF: Tensor, out_TM: Tensor) -> None:
        """Write the MLP's output over ``out``."""
        down = self.parts.down
        if type(down) is nn.Linear and getattr(down, "bias", None) is None:
            torch.mm(gated_TF, down.weight.t(), out=out_TM)
        else:
            out_TM.copy_(down(gated_TF))

    def _heads(self, x_TM: Tensor) -> Tensor:
        return x_TM.unflatten(-1, (-1, self.head_dim))


def output_width(module: nn.Module) -> int:
    """Return the output channels of a linear module or of an adapter around one."""
    return cast(Tensor, module.weight).shape[0]


def _pack(*modules: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return one weight and bias for several linear modules, whose own become views of them."""
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    weight = _join([linear.weight for linear in linears])
    biases = [linear.bias for linear in linears if linear.bias is not None]
    if not biases:
        return weight, None
    assert len(biases) == len(linears), "biases on some of the modules only"
    return weight, _join(biases)


def _join(parameters: Sequence[Tensor]) -> Tensor:
    """Lay parameters end to end and make them views of the result; once is enough."""
    first = parameters[0].detach()
    sizes = [parameter.shape[0] for parameter in parameters]
    end = first.data_ptr()
    ends = []
    for parameter in parameters:
        ends.append((parameter.data_ptr(), end))
        end = parameter.data_ptr() + parameter.numel() * parameter.element_size()
    storage = first.untyped_storage()
    whole = end - storage.data_ptr() <= storage.nbytes()
    if whole and all(start == expected for start, expected in ends):
        return first.as_strided((sum(sizes), *first.shape[1:]), first.stride())
    joined = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, part in zip(parameters, joined.split(sizes), strict=True):
        parameter.data = part
    return joined
