"""Replays partial passes from CUDA graphs: one launch a pass instead of hundreds.

A graph serves every prompt length, since positions, slots and numbers of keys are read from the
device; it holds the addresses of the cache and the rotation tables that it was captured with.
Shape suffixes: B rows, T tokens of all spans, W tokens wanted, M hidden size.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from opencompass_llada.inference.elementwise import kernels_fit
from opencompass_llada.inference.forward import CacheSlots, FastNetwork, LayerAttend
from opencompass_llada.inference.kv_cache import KeyValueCache
from opencompass_llada.networks.transformer import Rotation

logger = logging.getLogger(__name__)

_MOST_GRAPHS = 64
"""Graphs held; the oldest goes when one more is needed."""


class Span(NamedTuple):
    """Where the tokens of a partial pass stand and what they see; read from the device."""

    positions_T: Tensor
    """int64, positions in their rows, row after row."""
    slots_T: Tensor
    """int64, where they are cached."""
    first_keys_B: Tensor
    """int32, slot of the first key that each row's span sees."""
    num_keys_B: Tensor
    """int32, keys that each row's span sees."""


@dataclass
class _Captured:
    """A graph and the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    ids_T: Tensor
    span: Span
    states_WM: Tensor
    rotation: Rotation
    shown: Span | None = None
    """The span whose numbers ``span`` holds."""

    def replay(self, ids_T: Tensor, span: Span) -> Tensor:
        self.ids_T.copy_(ids_T)
        if span is not self.shown:
            for own, given in zip(self.span, span, strict=True):
                own.copy_(given)
            self.shown = span
        self.graph.replay()
        return self.states_WM


class GraphedPasses:
    """The graphs of one network."""

    def __init__(self, network: FastNetwork, asked: bool | None) -> None:
        """Decide whether there will be any; asked for where they cannot be is a ValueError."""
        self._network = network
        self._captured: dict[tuple[int, ...], _Captured] = {}
        self._pool: Any = None
        obstacle = kernels_fit(network.device, network.head_dim)
        if network.dtype not in (torch.bfloat16, torch.float16):
            obstacle = obstacle or f"the dtype is {network.dtype}"
        if asked is False:
            obstacle = "as asked"
        elif asked and obstacle:
            remedy = "use graphs=None, which takes them where they run"
            raise ValueError(f"graphs=True cannot be had, because {obstacle}; {remedy}")
        self.enabled = obstacle is None
        told = "CUDA graphs with the split attention kernel"
        told = told if self.enabled else f"launched one by one, because {obstacle}"
        logger.info("Small passes: %s", told)

    def clear(self) -> None:
        """Drop all graphs."""
        self._captured.clear()
        self._pool = None

    def run(
        self, ids_T: Tensor, span: Span, cache: KeyValueCache, rotation: Rotation, num_wanted: int
    ) -> Tensor:
        """Return states [W, M] of a partial pass; they are overwritten by the next one.

        They are those of the leading ``num_wanted`` tokens of each span, whose tokens all see the
        same keys. The cache is written to.
        """
        sizes = (span.num_keys_B.shape[0], ids_T.shape[0], num_wanted)
        shape = (*sizes, id(cache), rotation[0].data_ptr())
        found = self._captured.get(shape)
        if found is None:
            if len(self._captured) >= _MOST_GRAPHS:
                del self._captured[next(iter(self._captured))]
            found = self._captured[shape] = self._capture(ids_T, span, cache, rotation, num_wanted)
        return found.replay(ids_T, span)

    def span_states(
        self,
        ids_T: Tensor,
        span: Span,
        cache: KeyValueCache,
        rotation: Rotation,
        num_wanted: int,
        attend: LayerAttend | None = None,
    ) -> Tensor:
        """Run a partial pass without a graph, by the split kernel if no attention is given."""
        network = self._network
        return network.run_layers(
            network.embed(ids_T),
            span.positions_T,
            rotation,
            attend or _split_attend(span, cache),
            _leading_places(span.num_keys_B.shape[0], ids_T, num_wanted),
            CacheSlots(cache, span.slots_T),
        )

    def _capture(
        self, ids_T: Tensor, span: Span, cache: KeyValueCache, rotation: Rotation, num_wanted: int
    ) -> _Captured:
        own = (ids_T.clone(), Span(*(part.clone() for part in span)))
        stream = torch.cuda.Stream(self._network.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Compiles the kernels and makes the handles that a capture may not.
            self.span_states(*own, cache, rotation, num_wanted)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            states_WM = self.span_states(*own, cache, rotation, num_wanted)
        self._pool = self._pool or graph.pool()
        logger.info("Captured a graph for %d rows and %d tokens", len(span.num_keys_B), len(ids_T))
        return _Captured(graph, *own, states_WM, rotation)


def _leading_places(num_rows: int, ids_T: Tensor, num_wanted: int) -> Tensor | None:
    """Return the places [W] of the leading tokens of each span; None if they are all tokens.

    Two spans of 4 tokens, 2 wanted: 0, 1, 4, 5.
    """
    num_tokens = ids_T.shape[0] // num_rows
    if num_wanted == num_tokens:
        return None
    places_BS = torch.arange(len(ids_T), device=ids_T.device).view(num_rows, num_tokens)
    return places_BS[:, :num_wanted].flatten()


def _split_attend(span: Span, cache: KeyValueCache) -> LayerAttend:
    from opencompass_llada.inference.triton.split_attention import attend_cached

    def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        layer = cache.layers[index]
        return attend_cached(
            q_THD,
            layer.keys_SGD,
            layer.values_SGD,
            span.first_keys_B,
            span.num_keys_B,
            k_scales_SG=layer.key_scales_SG,
            v_scales_SG=layer.value_scales_SG,
        )

    return attend
