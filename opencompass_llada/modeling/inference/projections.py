"""The matrix products of one block, with weights that share an input packed into one.

Packing queries, keys and values (and the MLP's gate and up) makes one wide product of several
narrow ones, which matters where few tokens are multiplied with weights that must all be read.
The modules' own parameters become views of the packed tensor, so that nothing is held twice and
the network's plain forward pass goes on working.

Shape suffixes: T tokens, M hidden size, H query heads, G key/value heads, D head size, F MLP size.
"""

from __future__ import annotations

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
            self._query_width = parts.query.weight.shape[0]
            self._key_width = parts.key.weight.shape[0]

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
        if type(down) is nn.Linear and down.bias is None and not torch.is_grad_enabled():
            torch.mm(gated_TF, down.weight.t(), out=out_TM)
        else:
            out_TM.copy_(down(gated_TF))

    def _heads(self, x_TM: Tensor) -> Tensor:
        return x_TM.unflatten(-1, (-1, self.head_dim))


def _pack(*modules: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return one weight and bias for several linear modules, whose own become views of them."""
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    weight = torch.cat([linear.weight.detach() for linear in linears])
    first = 0
    for linear in linears:
        end = first + linear.weight.shape[0]
        linear.weight.data = weight[first:end]
        first = end
    if any(linear.bias is None for linear in linears):
        assert all(linear.bias is None for linear in linears), "biases on some of the modules only"
        return weight, None
    bias = torch.cat([linear.bias.detach() for linear in linears])
    first = 0
    for linear in linears:
        end = first + linear.bias.shape[0]
        linear.bias.data = bias[first:end]
        first = end
    return weight, bias
