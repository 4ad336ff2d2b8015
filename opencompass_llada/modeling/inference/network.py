"""The fast pass over a bidirectional network: the same function as its ``forward``, arranged anew.

Rows lie end to end without padding; the MLP runs in chunks and writes over its input, so that
activations stay flat; the last layer's queries and MLP are computed only where logits are read;
weights that share an input are packed; what stands between the products is fused on CUDA. What
attends to what, and what is kept, is decided by the caller (``session.py``).

Shape suffixes: T tokens of all rows, W tokens wanted, M hidden size, H query heads,
G key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from opencompass_llada.logs import get_logger
from opencompass_llada.modeling.bidirectional import BidirectionalNetwork
from opencompass_llada.modeling.block import Rotation
from opencompass_llada.modeling.cache import KeyValueCache
from opencompass_llada.modeling.inference.attention_rule import make_rule
from opencompass_llada.modeling.inference.elementwise import Elementwise, choose_elementwise
from opencompass_llada.modeling.inference.projections import Projections, output_width

logger = get_logger(__name__)


class Keep(NamedTuple):
    """Where a pass keeps its keys and values."""

    cache: KeyValueCache
    slots_T: Tensor
    """int64, each token's slot."""


LayerAttend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""``(layer, q_WHD, k_TGD, v_TGD) -> out_WHD``, rotated queries and keys."""


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """How passes are arranged; none of it changes what is computed."""

    pack_weights: bool | None = None
    """Pack weights that share an input; None packs on CUDA."""

    mlp_chunk: int = 16384
    """Tokens that the MLP takes at once; 16,384 of LLaDA-8B take 1.2 GB. A memory plan may take
    fewer."""

    fused: bool | None = None
    """Use the Triton kernels; None uses them where they can run."""

    graphs: bool | None = None
    """Replay small passes from CUDA graphs; None does on CUDA with the Triton kernels."""

    memory_budget: int | None = None
    """Bytes that a run may fill; None is most of the card, and no limit where there is none."""


class FastNetwork:
    """A network prepared for fast passes."""

    def __init__(self, network: BidirectionalNetwork, options: PassOptions | None = None) -> None:
        """Pack the weights and choose the kernels.

        Args:
            network: The loaded network; its parameters may become views of packed ones.
            options: How passes are arranged.
        """
        self.network = network
        self.options = options or PassOptions()
        self.mlp_chunk = self.options.mlp_chunk
        head = cast(Tensor, network.get_output_embeddings().weight)
        self.device: torch.device = head.device
        self.dtype: torch.dtype = head.dtype
        self.head_dim: int = network.config.head_dim
        pack = self.options.pack_weights
        pack = self.device.type == "cuda" if pack is None else pack
        self.layers = [Projections(block, pack=pack) for block in network.blocks]
        parts = self.layers[0].parts
        self.num_heads: int = output_width(parts.query) // self.head_dim
        self.num_groups: int = output_width(parts.key) // self.head_dim
        self.ops = self._choose_ops()
        self.choose_attention = make_rule(
            network.attention_backend,
            self.device,
            self.dtype,
            self.num_heads,
            self.num_groups,
            self.head_dim,
        )

    @property
    def logit_shift(self) -> int:
        """See BidirectionalNetwork."""
        return self.network.logit_shift

    def rotation(self, length: int) -> Rotation:
        """Return cos and sin [>= length, D] of the network."""
        self.network.prepare(length, self.device)
        table = self.network.rotation_tables
        assert table is not None, "prepare builds the tables"
        return table

    def embed(self, ids_T: Tensor) -> Tensor:
        """Return the tokens' embeddings, [T, M]."""
        return self.network.get_input_embeddings()(ids_T)

    def head(self, states: Tensor) -> Tensor:
        """Return the logits of normalised states."""
        return self.network.get_output_embeddings()(states)

    def run_layers(
        self,
        x_TM: Tensor,
        positions_T: Tensor,
        rotation: Rotation,
        attend: LayerAttend,
        wanted_W: Tensor | None = None,
        keep: Keep | None = None,
    ) -> Tensor:
        """Run all layers and the final norm.

        Args:
            x_TM: Embedded tokens; overwritten.
            positions_T: Each token's position in its row.
            rotation: cos and sin of positions.
            attend: Attention, after keys and values were kept.
            wanted_W: int64, places in x whose states are wanted; None for all.
            keep: Where keys and values are kept; None for nowhere.

        Returns:
            Normalised states, [T, M] or [W, M].
        """
        delta_TM: Tensor | None = None
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x_TM, h_TM = self.ops.add_norm(x_TM, delta_TM, layer.parts.attention_norm)
            wanted = wanted_W if index == last else None
            q_THD, k_TGD, v_TGD = self._project(index, h_TM, positions_T, rotation, wanted, keep)
            del h_TM
            x_TM = x_TM if wanted is None else x_TM[wanted]
            out_THD = attend(index, q_THD, k_TGD, v_TGD)
            del q_THD, k_TGD, v_TGD
            out_TM = layer.parts.attention_out(out_THD.flatten(-2))
            del out_THD
            x_TM, delta_TM = self.ops.add_norm(x_TM, out_TM, layer.parts.mlp_norm)
            del out_TM
            self._mlp(index, delta_TM)
        return self.ops.add_norm(x_TM, delta_TM, self.network.final_norm)[1]

    def _project(
        self,
        index: int,
        h_TM: Tensor,
        positions_T: Tensor,
        rotation: Rotation,
        wanted_W: Tensor | None,
        keep: Keep | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a layer's rotated queries (of what is wanted), keys and values, kept if asked."""
        layer = self.layers[index]
        kept = None if keep is None else keep.cache.layers[index]
        slots_T = None if keep is None else keep.slots_T
        if wanted_W is not None:
            k_TGD, v_TGD = layer.keys_values(h_TM)
            _, k_TGD = self.ops.place(None, k_TGD, v_TGD, positions_T, rotation, kept, slots_T)
            q_WHD = layer.queries(h_TM[wanted_W])
            return self.ops.rotate(q_WHD, positions_T[wanted_W], rotation), k_TGD, v_TGD
        q_THD, k_TGD, v_TGD = layer.queries_keys_values(h_TM)
        rotated_THD, k_TGD = self.ops.place(
            q_THD, k_TGD, v_TGD, positions_T, rotation, kept, slots_T
        )
        assert rotated_THD is not None, "queries were given"
        return rotated_THD, k_TGD, v_TGD

    def _mlp(self, index: int, h_TM: Tensor) -> None:
        """Write the MLP's output over its normalised input, a chunk at a time."""
        layer = self.layers[index]
        for part_TM in h_TM.split(self.mlp_chunk):
            layer.down_into(self.ops.gate(*layer.gate_up(part_TM)), part_TM)

    def _choose_ops(self) -> Elementwise:
        from opencompass_llada.modeling.inference.elementwise import PlainElementwise

        if self.options.fused is False:
            logger.info("Norms, rotation and gate: plain PyTorch, as asked")
            return PlainElementwise()
        return choose_elementwise(self.device, self.head_dim)
