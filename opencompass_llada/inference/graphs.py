"""Replays partial passes from CUDA graphs: one launch a pass instead of hundreds.

A graph serves every prompt length, since positions, slots and numbers of keys are read from the
device; it holds the addresses of the cache and the rotation tables that it was captured with.
Shape suffixes: B rows, T tokens of all spans, W tokens wanted, M hidden size.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from opencompass_llada.inference.elementwise import kernels_fit
from opencompass_llada.inference.forward import CacheSlots, FastNetwork, LayerAttend
from opencompass_llada.inference.kv_cache import KeyValueCache
from opencompass_llada.inference.sequence_split import SequenceSplit
from opencompass_llada.inference.tilings import SMALL_PRODUCT
from opencompass_llada.networks.experts import graph_obstacle
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


Replay = Callable[[Tensor, Span], Tensor]
"""``(ids_T, span) -> states_WM``."""


class SpanPass(NamedTuple):
    """A partial pass but for the ids of its tokens."""

    span: Span
    cache: KeyValueCache
    rotation: Rotation
    num_wanted: int
    """Leading tokens of each span whose states are wanted."""


class GraphedPasses:
    """The graphs of one network."""

    def __init__(
        self, network: FastNetwork, asked: bool | None, split: SequenceSplit | None = None
    ) -> None:
        """Decide whether there will be any; asked for where they cannot be is a ValueError.

        Processes that split passes launch them one by one unless asked.
        """
        self._network, self._split = network, split
        self._captured: dict[tuple[int, ...], tuple[Replay, Rotation]] = {}
        self._pool: Any = None
        obstacle = kernels_fit(network.device, network.head_dim)
        if network.dtype not in (torch.bfloat16, torch.float16):
            obstacle = obstacle or f"the dtype is {network.dtype}"
        if network.network.config.experts is not None:
            obstacle = obstacle or graph_obstacle(network.device, network.dtype)
        if asked and obstacle:
            remedy = "use graphs=None, which takes them where they run"
            raise ValueError(f"graphs=True cannot be had, because {obstacle}; {remedy}")
        self.by_kernel = obstacle is None and (asked is not False or split is not None)
        if split is not None and not asked:
            obstacle = obstacle or f"{split.size} processes split them"
        obstacle = "as asked" if asked is False else obstacle
        self.enabled = obstacle is None
        kernel = " with the split attention kernel" if self.by_kernel else ""
        what = f"launched one by one{kernel}, because {obstacle}"
        what = f"CUDA graphs{kernel}" if self.enabled else what
        logger.info("Small passes: %s", what)

    def clear(self) -> None:
        """Drop all graphs."""
        self._captured.clear()
        self._pool = None

    def run(self, ids_T: Tensor, given: SpanPass) -> Tensor:
        """Return the wanted states [W, M] of a pass, which the next pass overwrites."""
        if not self.enabled:
            return self.span_states(ids_T, given)
        span, cache, rotation, num_wanted = given
        sizes = (span.num_keys_B.shape[0], ids_T.shape[0], num_wanted)
        shape = (*sizes, id(cache), rotation[0].data_ptr())
        if shape not in self._captured:
            if len(self._captured) >= _MOST_GRAPHS:
                del self._captured[next(iter(self._captured))]
            self._captured[shape] = self._capture(ids_T, given), rotation
        replay, _ = self._captured[shape]
        return replay(ids_T, span)

    def span_states(
        self, ids_T: Tensor, given: SpanPass, attend: LayerAttend | None = None
    ) -> Tensor:
        """Run a pass without a graph, by the split kernel if no attention is given."""
        span, cache, rotation, num_wanted = given
        num_rows, num_tokens = len(span.num_keys_B), len(ids_T) // len(span.num_keys_B)
        wanted_W = None
        if num_wanted < num_tokens:  # two spans of 4 tokens, 2 wanted: 0, 1, 4, 5
            places_T = torch.arange(len(ids_T), device=ids_T.device)
            wanted_W = places_T.view(num_rows, num_tokens)[:, :num_wanted].flatten()
        attend, into = attend or _split_attend(span, cache), CacheSlots(cache, span.slots_T)
        embedded, split = self._network.embed(ids_T), self._split
        place = embedded, span.positions_T, rotation
        # By a row's tokens, so that its answer does not depend on the rows beside it.
        run = functools.partial(self._network.run_layers, is_small=num_tokens <= SMALL_PRODUCT)
        if split is None:
            return run(*place, attend, wanted_W, into)
        attend = split.over_heads(attend, into)
        return split.agree(run(*place, attend, wanted_W))

    def _capture(self, ids_T: Tensor, given: SpanPass) -> Replay:
        own_ids_T = ids_T.clone()
        own_span = shown = Span(*(part.clone() for part in given.span))
        own = given._replace(span=own_span)
        stream = torch.cuda.Stream(self._network.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Compiles the kernels and makes the handles that a capture may not.
            self.span_states(own_ids_T, own)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            states_WM = self.span_states(own_ids_T, own)
        self._pool = self._pool or graph.pool()
        num_rows = len(own_span.num_keys_B)
        logger.info("Captured a graph for %d rows and %d tokens", num_rows, len(ids_T))

        def replay(ids_T: Tensor, span: Span) -> Tensor:
            nonlocal shown
            own_ids_T.copy_(ids_T)
            if span is not shown:
                for held, part in zip(own_span, span, strict=True):
                    held.copy_(part)
                shown = span
            graph.replay()
            return states_WM

        return replay


def _split_attend(span: Span, cache: KeyValueCache) -> LayerAttend:
    from opencompass_llada.inference.triton.split_attention import attend_cached

    keys = span.first_keys_B, span.num_keys_B

    def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        k_SGD, v_SGD, *scales = cache.layers[index]
        return attend_cached(q_THD, k_SGD, v_SGD, *keys, *scales)

    return attend
