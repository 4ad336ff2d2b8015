"""Partial passes replayed from CUDA graphs: one launch a pass instead of hundreds.

A graph is captured once for each number of rows and span length and serves every prompt length,
since positions, slots and row lengths are read from the device. It holds the addresses of the
cache and the rotation tables that it was captured with; a new cache needs new graphs.

Shape suffixes: B rows, T tokens of all spans, M hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from opencompass_llada.logs import get_logger
from opencompass_llada.modeling.block import Rotation
from opencompass_llada.modeling.cache import KeyValueCache
from opencompass_llada.modeling.inference.elementwise import kernels_fit
from opencompass_llada.modeling.inference.network import FastNetwork, LayerAttend

logger = get_logger(__name__)

_MOST_GRAPHS = 64
"""Graphs kept; the oldest goes when one more is needed."""


@dataclass(frozen=True, kw_only=True)
class SpanInputs:
    """What a partial pass reads besides weights and kept keys and values."""

    ids_T: Tensor
    """int64, tokens of the spans, row after row."""

    positions_T: Tensor
    """int64, their positions in their rows."""

    slots_T: Tensor
    """int64, where they are kept."""

    offsets_B: Tensor
    """int32, first slot of each row."""

    lengths_B: Tensor
    """int32, kept tokens of each row."""

    def clone(self) -> SpanInputs:
        """Return a copy in memory of its own."""
        return SpanInputs(**{f.name: getattr(self, f.name).clone() for f in fields(self)})

    def copy_(self, other: SpanInputs) -> None:
        """Take over another's values."""
        for field in fields(self):
            getattr(self, field.name).copy_(getattr(other, field.name))


@dataclass(frozen=True, kw_only=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: SpanInputs
    states_TM: Tensor
    rotation: Rotation


class GraphedPasses:
    """The graphs of one network."""

    def __init__(self, network: FastNetwork) -> None:
        """Decide whether there will be any; the choice is logged.

        Args:
            network: The prepared network.
        """
        self._network = network
        self._captured: dict[tuple[int, ...], _Captured] = {}
        self._pool: tuple[int, int] | None = None
        asked = network.options.graphs
        obstacle = kernels_fit(network.device, network.head_dim)
        if network.dtype not in (torch.bfloat16, torch.float16):
            obstacle = obstacle or f"the dtype is {network.dtype}"
        if asked is False:
            obstacle = "as asked"
        elif asked and obstacle:
            raise ValueError(
                f"graphs=True cannot be had, because {obstacle}; use graphs=None, which takes "
                "them where they run"
            )
        self.enabled = obstacle is None
        logger.info(
            "Small passes: %s",
            "CUDA graphs with the split attention kernel"
            if self.enabled
            else f"launched one by one, because {obstacle}",
        )

    def clear(self) -> None:
        """Drop all graphs."""
        self._captured.clear()
        self._pool = None

    def run(self, inputs: SpanInputs, cache: KeyValueCache, rotation: Rotation) -> Tensor:
        """Return the states [T, M] of a partial pass; they are overwritten by the next one.

        Args:
            inputs: The spans.
            cache: Kept keys and values; written to.
            rotation: cos and sin.
        """
        table = rotation[0]
        shape = (inputs.lengths_B.shape[0], inputs.ids_T.shape[0], id(cache), table.data_ptr())
        found = self._captured.get(shape)
        if found is None:
            if len(self._captured) >= _MOST_GRAPHS:
                del self._captured[next(iter(self._captured))]
            found = self._captured[shape] = self._capture(inputs, cache, rotation)
        found.inputs.copy_(inputs)
        found.graph.replay()
        return found.states_TM

    def span_states(self, inputs: SpanInputs, cache: KeyValueCache, rotation: Rotation) -> Tensor:
        """Run a partial pass with the split kernel, without a graph; see `run`."""
        network = self._network
        return network.run_layers(
            network.embed(inputs.ids_T),
            inputs.positions_T,
            rotation,
            _split_attend(network, inputs, cache),
        )

    def _capture(self, inputs: SpanInputs, cache: KeyValueCache, rotation: Rotation) -> _Captured:
        held = inputs.clone()
        run: Callable[[], Tensor] = lambda: self.span_states(held, cache, rotation)  # noqa: E731
        stream = torch.cuda.Stream(self._network.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()  # compiles the kernels and makes the handles that a capture may not
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            states_TM = run()
        self._pool = self._pool or graph.pool()
        logger.info(
            "Captured a graph for %d rows and %d tokens", held.lengths_B.shape[0], len(held.ids_T)
        )
        return _Captured(graph=graph, inputs=held, states_TM=states_TM, rotation=rotation)


def _split_attend(network: FastNetwork, inputs: SpanInputs, cache: KeyValueCache) -> LayerAttend:
    from opencompass_llada.modeling.inference.decode_kernel import attend_kept

    def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        layer = cache.layers[index]
        network.ops.store(layer, inputs.slots_T, k_TGD, v_TGD)
        return attend_kept(
            q_THD,
            layer.keys_SGD,
            layer.values_SGD,
            inputs.offsets_B,
            inputs.lengths_B,
            k_scales_SG=layer.key_scales_SG,
            v_scales_SG=layer.value_scales_SG,
        )

    return attend
