"""Divides passes among processes: tokens of full passes, heads of attention and of what is cached.

Every process holds all weights. In a full pass each runs a stretch of the tokens; before attention
they exchange stretches for heads (`networks.sequence_parallel`), so that each attends by its own
heads over all tokens and caches these heads' keys and values alone. In a partial pass, whose tokens
are few, all run all of them, attend by their own heads over what they have cached and gather the
others' outputs. All processes get the same states, bit for bit, so that they reveal the same
tokens.
Shape suffixes: T tokens of a pass, S of this process's stretch, W tokens wanted, M hidden size, H
query heads, G key/value heads, K heads of this process, D head size.
"""

from __future__ import annotations

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from opencompass_llada.inference.forward import CacheSlots, FastNetwork, LayerAttend
from opencompass_llada.networks.sequence_parallel import check_passes, exchange
from opencompass_llada.networks.transformer import BidirectionalNetwork, Rotation

WRITTEN_AT_ONCE = 16384
"""Tokens whose keys and values are cached at once: float8 ones are scaled in float32."""


class SequenceSplit:
    """This process's part of passes; all processes of the group call the same in the same order."""

    def __init__(self, network: BidirectionalNetwork, group: dist.ProcessGroup) -> None:
        """Take whole heads for each process of the group.

        A ValueError says which numbers of processes a network's heads can be given to, or that its
        tokens do not all see each other.
        """
        self._group = group
        self.size, self._rank = dist.get_world_size(group), dist.get_rank(group)
        check_passes(network.config, network.attention_pattern, self.size)
        heads = network.config.shape.num_heads, network.config.shape.num_groups
        self.num_heads, self.num_groups = (number // self.size for number in heads)

    def full_pass(
        self,
        network: FastNetwork,
        ids_T: Tensor,
        positions_T: Tensor,
        rotation: Rotation,
        attend: LayerAttend,
        wanted_W: Tensor,
        into: CacheSlots | None,
    ) -> Tensor:
        """Run tokens through the layers as `FastNetwork.run_layers` does, each process a stretch.

        ``attend`` is called with this process's heads of all tokens, ``into`` caches their keys and
        values. The last stretch is filled up with tokens that nothing attends to. Returns the
        wanted states on all processes, [W, M].
        """
        stretch = -(-len(ids_T) // self.size)
        own = slice(self._rank * stretch, (self._rank + 1) * stretch)
        own_ids_S, own_positions_S = (
            F.pad(x_T, (0, stretch * self.size - len(x_T)))[own] for x_T in (ids_T, positions_T)
        )
        places_W = wanted_W - own.start
        is_own_W = (places_W >= 0) & (places_W < stretch)
        states_WM = network.run_layers(
            network.embed(own_ids_S),
            own_positions_S,
            rotation,
            self._over_stretches(network, len(ids_T), attend, is_own_W, into),
            places_W.clamp(0, stretch - 1),  # of others' tokens anything, which is left out
        )
        return self._from_owners(states_WM, is_own_W)

    def _over_stretches(
        self,
        network: FastNetwork,
        num_tokens: int,
        attend: LayerAttend,
        is_own_W: Tensor,
        into: CacheSlots | None,
    ) -> LayerAttend:
        """Return attention for stretches, given that of this process's heads over all tokens."""
        last = len(network.layers) - 1

        def whole(x_SHD: Tensor) -> Tensor:
            return exchange(x_SHD, self._group, split=1, join=0)[:num_tokens]

        def exchanging(index: int, q_SHD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
            padding = len(k_SGD) * self.size - num_tokens
            k_TKD, v_TKD = whole(k_SGD), whole(v_SGD)
            if into is not None:
                parts = (x.split(WRITTEN_AT_ONCE) for x in (into.slots_T, k_TKD, v_TKD))
                for part in zip(*parts, strict=True):
                    into.cache.layers[index].write(*part)
            if index == last:
                q_WHD = self._from_owners(q_SHD, is_own_W)
                return self._gather(attend(index, self._own_heads(q_WHD), k_TKD, v_TKD))
            out_TKD = attend(index, whole(q_SHD), k_TKD, v_TKD)
            del k_TKD, v_TKD  # before the buffers of an exchange are made
            if padding:
                out_TKD = F.pad(out_TKD, (0, 0, 0, 0, 0, padding))
            return exchange(out_TKD, self._group, split=0, join=1)

        return exchanging

    def over_heads(self, attend: LayerAttend, into: CacheSlots) -> LayerAttend:
        """Return attention of tokens that all processes run, given that over what one has cached.

        Caches this process's heads of their keys and values before.
        """

        def gathering(index: int, q_WHD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
            q_WKD, k_TKD, v_TKD = map(self._own_heads, (q_WHD, k_TGD, v_TGD))
            into.cache.layers[index].write(into.slots_T, k_TKD, v_TKD)
            return self._gather(attend(index, q_WKD, k_TKD, v_TKD))

        return gathering

    def agree(self, states_WM: Tensor) -> Tensor:
        """Return the first process's states on all: what is revealed must not differ by rounding.

        Kernels that are chosen by their time may differ between processes.
        """
        states_WM = states_WM.contiguous()
        dist.broadcast(states_WM, group=self._group, group_src=0)
        return states_WM

    def _own_heads(self, x_THD: Tensor) -> Tensor:
        return x_THD.chunk(self.size, dim=1)[self._rank].contiguous()

    def _gather(self, out_WKD: Tensor) -> Tensor:
        """Return the heads of all processes, in order: each gets the same from another."""
        return exchange(out_WKD.repeat(self.size, 1, 1), self._group, split=0, join=1)

    def _from_owners(self, x_W: Tensor, is_own_W: Tensor) -> Tensor:
        """Return each row as the process has it whose token it is; of the others all are zeros."""
        x_W = x_W.masked_fill(~is_own_W.view(-1, *(1 for _ in x_W.shape[1:])), 0)
        dist.all_reduce(x_W, group=self._group)
        return x_W
