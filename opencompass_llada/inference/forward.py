"""Runs the fast forward pass of a native network: packed products, flat memory, fused steps.

Queries, keys and values (and the MLP's gate and up) are one wide product, and all experts of a
layer two; the modules' own parameters become views of its weights. The MLP runs in chunks and
writes over its input. Where products are float8 and tokens many, norms and the gate give float8.
Shape suffixes: T tokens, M hidden size, H query heads, G key/value heads, D head size, F MLP size,
W tokens wanted, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opencompass_llada.inference.attention_rule import make_rule
from opencompass_llada.inference.elementwise import PlainElementwise, Rows, kernels_fit
from opencompass_llada.inference.float8 import Float8Linear, no_arrivals, product, takes_rows
from opencompass_llada.inference.kv_cache import KeyValueCache
from opencompass_llada.inference.memory import mlp_chunk_of
from opencompass_llada.networks.config import NetworkDimensions
from opencompass_llada.networks.experts import SparseMLP, join
from opencompass_llada.networks.transformer import BidirectionalNetwork, Block, Rotation

logger = logging.getLogger(__name__)


class Projections:
    """The products of one block."""

    def __init__(self, block: Block, *, pack: bool) -> None:
        """Pack the weights if asked, and where the modules are plain linear ones (no adapters)."""
        self.parts = parts = block.parts
        self.head_dim, self._widths = block.head_dim, block.widths
        fused = parts.query_key_value
        inputs = (parts.query, parts.key, parts.value) if fused is None else (fused,)
        self._qkv = _pack(*inputs) if pack or fused is not None else None
        self._gate_up = _pack(parts.gate, parts.up) if pack else None
        sparse = parts.sparse
        self._experts = sparse.stacked() if isinstance(sparse, SparseMLP) else None
        self.attention_takes_rows = takes_rows(*inputs)
        self.mlp_takes_rows = sparse is None and takes_rows(parts.gate, parts.up, parts.down)

    def queries_keys_values(
        self, h_TM: Tensor | Rows, wanted_W: Tensor | None, *, is_small: bool
    ) -> list[Tensor]:
        """Return queries [W, H, D] of what is wanted, keys and values [T, G, D], not rotated.

        Where only some are wanted, the input is no float8.
        """
        parts, queries = self.parts, self._widths[0]
        own_WM = h_TM
        if wanted_W is not None:
            assert isinstance(h_TM, Tensor), "where some queries are wanted, the input is no float8"
            own_WM = h_TM[wanted_W]
        if self._qkv is not None and wanted_W is None:
            q, k, v = self._qkv.times(h_TM, is_small).split(self._widths, dim=-1)
        elif self._qkv is not None:
            k, v = self._qkv.channels(queries, None).times(h_TM, is_small).chunk(2, dim=-1)
            q = self._qkv.channels(0, queries).times(own_WM, is_small)
        elif parts.query_key_value is not None:
            fused = _times(parts.query_key_value, h_TM, is_small)
            q, k, v = fused.split(self._widths, dim=-1)
            q = q if wanted_W is None else q[wanted_W]
        else:
            given = ((parts.query, own_WM), (parts.key, h_TM), (parts.value, h_TM))
            q, k, v = (_times(part, x, is_small) for part, x in given)
        return [x.unflatten(-1, (-1, self.head_dim)) for x in (q, k, v)]

    def attention_out(self, out_TK: Tensor, *, is_small: bool) -> Tensor:
        """Return the projection of what the heads give, [T, M]."""
        return _times(self.parts.attention_out, out_TK, is_small)

    def mlp(
        self, h_TM: Tensor | Rows, ops: PlainElementwise, chunk: int, *, is_small: bool
    ) -> Tensor:
        """Return the MLP's output, [T, M], in chunks of tokens; over its input, if not float8."""
        if isinstance(h_TM, Rows):
            out_TM = torch.empty_like(h_TM.values_TK, dtype=h_TM.dtype)
            for rows, part_TM in zip(h_TM.split(chunk), out_TM.split(chunk), strict=True):
                self._down_into(
                    ops.gate_rows(*self._gate_and_up(rows, is_small)), part_TM, is_small
                )
            return out_TM
        for part_TM in h_TM.split(chunk):
            self._mlp_over(part_TM, ops, is_small)
        return h_TM

    def _mlp_over(self, h_TM: Tensor, ops: PlainElementwise, is_small: bool) -> None:
        mixed_TM = None
        if self._experts is not None:
            mixed_TM = cast(SparseMLP, self.parts.sparse).mix(h_TM, self._experts, ops.experts)
        if self.parts.down is None:
            h_TM.copy_(cast(Tensor, mixed_TM))
            return
        self._down_into(ops.gate(*self._gate_and_up(h_TM, is_small)), h_TM, is_small)
        if mixed_TM is not None:
            h_TM += mixed_TM

    def _gate_and_up(self, h_TM: Tensor | Rows, is_small: bool) -> tuple[Tensor, Tensor]:
        if self._gate_up is None:
            gate, up = self.parts.gate, self.parts.up
            return _times(gate, h_TM, is_small), _times(up, h_TM, is_small)
        gate_TF, up_TF = self._gate_up.times(h_TM, is_small).chunk(2, dim=-1)
        return gate_TF, up_TF

    def _down_into(self, gated_TF: Tensor | Rows, out_TM: Tensor, is_small: bool) -> None:
        down = self.parts.down
        assert down is not None, "asked for where there is one"
        plain = type(down) is nn.Linear and getattr(down, "bias", None) is None
        if plain and isinstance(gated_TF, Tensor):
            torch.mm(gated_TF, cast(nn.Linear, down).weight.t(), out=out_TM)
        elif isinstance(down, Float8Linear):
            down.multiply(gated_TF, out_TM, is_small=is_small)
        else:
            out_TM.copy_(down(gated_TF))


def _times(part: nn.Module | None, x_TK: Tensor | Rows, is_small: bool) -> Tensor:
    """Return a linear module's product, or an adapter's; see `run_layers` for a small pass."""
    assert part is not None, "asked for where there is one"
    if isinstance(part, Float8Linear):
        return part.multiply(x_TK, is_small=is_small)
    return cast(Tensor, part(x_TK))


class Product(NamedTuple):
    """The weights of linear layers that share an input, in one product."""

    weight_NK: Tensor
    bias_N: Tensor | None
    scales_N: Tensor | None
    """Of float8 weights, as the next."""
    arrivals_I: Tensor | None

    def times(self, x_TK: Tensor | Rows, is_small: bool) -> Tensor:
        """Return the products of all channels, [T, N]; inputs are float8 only where weights are."""
        if self.scales_N is None or self.arrivals_I is None:
            assert isinstance(x_TK, Tensor), "float8 inputs are for float8 weights"
            return F.linear(x_TK, self.weight_NK, self.bias_N)
        weights = self.weight_NK, self.scales_N, self.bias_N, self.arrivals_I
        return product(x_TK, *weights, is_small=is_small)

    def channels(self, first: int, end: int | None) -> Product:
        """Return the product of some of the channels."""
        bias_N, scales_N = (
            None if part is None else part[first:end] for part in (self.bias_N, self.scales_N)
        )
        return Product(self.weight_NK[first:end], bias_N, scales_N, self.arrivals_I)


def _pack(*modules: nn.Module | None) -> Product | None:
    """Return one product for several linear modules, whose own weights become views of its.

    None where a module is missing or no linear one of the same kind (an adapter's).
    """
    kinds = {type(module) for module in modules}
    if kinds not in ({nn.Linear}, {Float8Linear}):
        return None
    linears = cast("list[nn.Linear | Float8Linear]", modules)
    weight = join([linear.weight for linear in linears])
    scales = [linear.scales for linear in linears if isinstance(linear, Float8Linear)]
    biases = [linear.bias for linear in linears if linear.bias is not None]
    assert len(biases) in (0, len(linears)), "biases on some of the modules only"
    bias = join(biases) if biases else None
    if not scales:
        return Product(weight, bias, None, None)
    return Product(weight, bias, join(scales), no_arrivals(weight))


class CacheSlots(NamedTuple):
    """Where a pass caches its keys and values: each token's slot, int64."""

    cache: KeyValueCache
    slots_T: Tensor


LayerAttend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""``(layer, q_WHD, k_TGD, v_TGD) -> out_WHD``, rotated queries and keys."""


class FastNetwork:
    """A network prepared for fast passes."""

    def __init__(
        self,
        network: BidirectionalNetwork,
        *,
        pack_weights: bool | None = None,
        mlp_chunk: int | None = None,
    ) -> None:
        """Choose the kernels; pack weights that share an input if asked, None packs on CUDA."""
        self.network = network
        self.embed, self.head = network.get_input_embeddings(), network.get_output_embeddings()
        weight = cast(Tensor, self.head.weight)
        self.device, self.dtype = weight.device, weight.dtype
        pack = self.device.type == "cuda" if pack_weights is None else pack_weights
        self.layers = [Projections(block, pack=pack) for block in network.blocks]
        shape = network.config.shape
        self.largest_chunk = self.mlp_chunk = mlp_chunk or mlp_chunk_of(shape)
        heads = (shape.num_heads, shape.num_groups, shape.head_dim)
        self.num_heads, self.num_groups, self.head_dim = heads
        self.ops = choose_elementwise(self.device, shape)
        backend = network.attention_backend
        self.choose_attention = make_rule(backend, self.device, self.dtype, *heads)

    def run_layers(
        self,
        x_TM: Tensor,
        positions_T: Tensor,
        rotation: Rotation,
        attend: LayerAttend,
        wanted_W: Tensor | None = None,
        into: CacheSlots | None = None,
        *,
        is_small: bool = False,
    ) -> Tensor:
        """Run all layers and the final norm over embedded tokens, which are overwritten.

        Returns normalised states at the wanted places, int64, or at all of them: [W, M] or [T, M].
        Attention is called after keys and values were cached, if there is something ``into`` which.
        Inputs of float8 products are not rounded in a small pass (`tilings.SMALL_PRODUCT`).
        """
        delta_TM: Tensor | None = None
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            wanted = wanted_W if index == last else None
            norm, rows = layer.parts.attention_norm, wanted is None and layer.attention_takes_rows
            x_TM, h_TM = self._add_norm(x_TM, delta_TM, norm, rows and not is_small)
            del delta_TM
            placed = positions_T, rotation, wanted, into
            q_THD, k_TGD, v_TGD = self._project(index, h_TM, *placed, is_small=is_small)
            del h_TM
            x_TM = x_TM if wanted is None else x_TM[wanted]
            out_THD = attend(index, q_THD, k_TGD, v_TGD)
            del q_THD, k_TGD, v_TGD
            out_TM = layer.attention_out(out_THD.flatten(-2), is_small=is_small)
            del out_THD
            norm, rows = layer.parts.mlp_norm, layer.mlp_takes_rows and not is_small
            x_TM, h_TM = self._add_norm(x_TM, out_TM, norm, rows)
            del out_TM
            delta_TM = layer.mlp(h_TM, self.ops, self.mlp_chunk, is_small=is_small)
            del h_TM
        return self.ops.add_norm(x_TM, delta_TM, self.network.final_norm)[1]

    def _add_norm(
        self, x_TM: Tensor, delta_TM: Tensor | None, norm: nn.Module, takes_rows: bool
    ) -> tuple[Tensor, Tensor | Rows]:
        """Add and normalise, to float8 for what takes it."""
        if takes_rows:
            return self.ops.add_norm_rows(x_TM, delta_TM, norm)
        return self.ops.add_norm(x_TM, delta_TM, norm)

    def _project(
        self,
        index: int,
        h_TM: Tensor | Rows,
        positions_T: Tensor,
        rotation: Rotation,
        wanted_W: Tensor | None,
        into: CacheSlots | None,
        *,
        is_small: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a layer's rotated queries (of what is wanted), keys and values; cache these."""
        slots = (None, None) if into is None else (into.cache.layers[index], into.slots_T)
        layer = self.layers[index]
        q_WHD, k_TGD, v_TGD = layer.queries_keys_values(h_TM, wanted_W, is_small=is_small)
        parts = self.layers[index].parts
        if parts.query_norm is not None and parts.key_norm is not None:
            q_WHD = self.ops.head_norm(q_WHD, parts.query_norm)
            k_TGD = self.ops.head_norm(k_TGD, parts.key_norm)
        together = q_WHD if wanted_W is None else None
        placed, k_TGD = self.ops.place(together, k_TGD, v_TGD, positions_T, rotation, *slots)
        if wanted_W is not None:
            placed = self.ops.rotate(q_WHD, positions_T[wanted_W], rotation)
        assert placed is not None, "queries were placed with the keys, or rotated alone"
        return placed, k_TGD, v_TGD


def choose_elementwise(device: torch.device, shape: NetworkDimensions) -> PlainElementwise:
    """Return the fused kernels where they can run, else plain PyTorch; log why."""
    obstacle = kernels_fit(device, shape.head_dim)
    if obstacle is None:
        from opencompass_llada.inference.triton import elementwise, experts

        logger.info("Norms, rotation and gate: fused Triton kernels on %s", device)
        turns_all = shape.rotated_dim == shape.head_dim
        ops = elementwise.FusedElementwise() if turns_all else elementwise.PartlyFused()
        ops.experts = experts.FusedExpertSteps()
        return ops
    logger.info("Norms, rotation and gate: plain PyTorch, because %s", obstacle)
    return PlainElementwise()
