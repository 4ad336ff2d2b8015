"""Passes over one batch: full ones that may keep keys and values, partial ones that use them.

A partial pass recomputes a span of each row against everything that is kept of the row. It first
writes the span's own new keys and values over the kept ones, so that its tokens see each other as
they are now. Which span, and when a full pass refreshes everything, is the sampler's policy.

Shape suffixes: B rows, L padded length, T tokens of all rows, P positions asked for, V vocabulary,
H query heads, G key/value heads, D head size, M hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opencompass_llada.inference.forward import FastNetwork, Keep, LayerAttend
from opencompass_llada.inference.graphs import (
    GraphedPasses,
    Span,
    SpanInputs,
    leading_places,
)
from opencompass_llada.inference.kv_cache import FLOAT8, KeyValueCache
from opencompass_llada.inference.memory import (
    SLOT_STEP,
    MemoryPlan,
    NetworkSize,
    card_budget,
    check_plan,
)
from opencompass_llada.inference.rows import PackedRows, attend_rows
from opencompass_llada.logs import get_logger

logger = get_logger(__name__)


class PassServer:
    """Opens sessions on one network; holds what outlasts them: a cache's memory, graphs.

    Attributes:
        plan: The memory plan of the last session.
    """

    def __init__(self, network: FastNetwork) -> None:
        """Keep the network.

        Args:
            network: The prepared network.
        """
        self.network = network
        self.graphs = GraphedPasses(network)
        self._cache: KeyValueCache | None = None
        self._size = NetworkSize.of(network.network, network.dtype)
        budget = network.options.memory_budget
        self._budget = card_budget(network.device) if budget is None else budget
        self._logged: set[str] = set()
        self.plan: MemoryPlan | None = None

    @property
    def logit_shift(self) -> int:
        """How many positions before its token a prediction is made."""
        return self.network.logit_shift

    def open(
        self,
        row_lengths: Sequence[int],
        *,
        block_length: int,
        cache_dtype: str | None,
        passes: int,
        guided: bool = False,
    ) -> Session:
        """Plan the memory of a batch and begin with it.

        Args:
            row_lengths: Tokens of each row, masks included.
            block_length: Most positions of a row that logits are asked for at once.
            cache_dtype: ``bfloat16`` for the network's own dtype, or ``float8``; None keeps
                nothing.
            passes: Full passes to come, for the choice of the attention kernel.
            guided: Whether the logits are combined with another session's, see `MemoryPlan`.

        Returns:
            The session; the sessions of one server share their cache, so that one is used up
            before the next is opened.

        Raises:
            MemoryPlanError: If it does not fit the card; names the nearest plan that does.
        """
        self._plan(row_lengths, block_length, cache_dtype, guided)
        rows = PackedRows(row_lengths, self.network.device)
        cache = None if cache_dtype is None else self._reserve(rows.num_tokens, cache_dtype)
        return Session(self, rows, cache, passes)

    def release(self) -> None:
        """Give the cache's memory and the graphs back."""
        self.graphs.clear()
        self._cache = None

    def _plan(
        self,
        row_lengths: Sequence[int],
        block_length: int,
        cache_dtype: str | None,
        guided: bool,
    ) -> None:
        plan = MemoryPlan(
            size=self._size,
            row_lengths=tuple(row_lengths),
            block_length=block_length,
            cache_dtype=cache_dtype,
            mlp_chunk=self.network.options.mlp_chunk,
            guided=guided,
        )
        self.plan = plan
        if self._budget is None:
            return
        self.plan = plan = check_plan(plan, self._budget)
        self.network.mlp_chunk = plan.mlp_chunk
        about = f"{cache_dtype} {plan.num_tokens // SLOT_STEP} {plan.mlp_chunk}"
        if about not in self._logged:  # once for each size of cache, not for each sample
            self._logged.add(about)
            budget = self._budget / 1e9
            logger.info("Memory plan: %s, of %.1f GB at hand", plan.describe(), budget)

    def _reserve(self, num_slots: int, cache_dtype: str) -> KeyValueCache:
        dtype = FLOAT8 if cache_dtype == "float8" else self.network.dtype
        held = self._cache
        if held is not None and held.dtype == dtype and held.num_slots >= num_slots:
            return held
        self.release()
        del held  # two caches do not fit a card that one nearly fills
        self._cache = KeyValueCache(
            num_layers=len(self.network.layers),
            num_slots=-(-num_slots // SLOT_STEP) * SLOT_STEP,
            num_heads=self.network.num_groups,
            head_dim=self.network.head_dim,
            dtype=dtype,
            device=self.network.device,
        )
        return self._cache


class Session:
    """Passes over one batch of rows."""

    def __init__(
        self, server: PassServer, rows: PackedRows, cache: KeyValueCache | None, passes: int
    ) -> None:
        """See `PassServer.open`.

        Args:
            server: Where the network and the graphs are.
            rows: The batch's rows.
            cache: Where keys and values are kept; None for nowhere.
            passes: Full passes to come.
        """
        self._server = server
        self._network = server.network
        self._rows = rows
        self._cache = cache
        self._passes = passes
        self._rotation = self._network.rotation(max(rows.lengths))
        self._spans: dict[tuple[int, ...], Span] = {}

    @torch.inference_mode()
    def full_pass(self, ids_BL: Tensor, positions_BP: Tensor, *, keep: bool) -> Tensor:
        """Run every token of every row.

        Args:
            ids_BL: int64, right-padded to one length; padding is not read.
            positions_BP: int64, positions in each row whose tokens are predicted.
            keep: Keep all keys and values.

        Returns:
            Logits [B, P, V].
        """
        network, rows = self._network, self._rows
        num_rows, num_wanted = positions_BP.shape
        wanted_W = rows.slots_of(network.network.predicting_positions(positions_BP))
        assert self._cache is not None or not keep, "a session without a cache keeps nothing"
        states = network.run_layers(
            network.embed(rows.pack(ids_BL)),
            rows.positions_T,
            self._rotation,
            self._full_attend(num_wanted),
            wanted_W,
            Keep(self._cache, rows.slots_T) if keep and self._cache is not None else None,
        )
        return network.head(states.view(num_rows, num_wanted, -1))

    @torch.inference_mode()
    def partial_pass(
        self,
        ids_BL: Tensor,
        starts: Sequence[int],
        num_tokens: int,
        positions_BP: Tensor,
        num_wanted: int | None = None,
    ) -> Tensor:
        """Run a span of each row against what is kept of the row.

        Args:
            ids_BL: int64, right-padded to one length.
            starts: The span's first position in each row.
            num_tokens: The span's length, the same in each row.
            positions_BP: int64, positions whose tokens are predicted, by states within the span.
            num_wanted: The leading tokens of the span within which those states lie; None for all
                of it. The last layer computes no more queries than those.

        Returns:
            Logits [B, P, V].
        """
        assert self._cache is not None, "a session without a cache has full passes only"
        network = self._network
        num_wanted = num_wanted or num_tokens
        span = self._span(tuple(starts), num_tokens)
        positions_BS = span.positions_T.view(len(starts), num_tokens)
        inputs = SpanInputs(
            ids_T=ids_BL.gather(1, positions_BS).flatten(),
            span=span,
        )
        if self._server.graphs.enabled:
            states_WM = self._server.graphs.run(inputs, self._cache, self._rotation, num_wanted)
        else:
            states_WM = network.run_layers(
                network.embed(inputs.ids_T),
                span.positions_T,
                self._rotation,
                self._span_attend(num_tokens, num_wanted, self._cache),
                leading_places(len(starts), inputs.ids_T, num_wanted),
                keep=Keep(self._cache, span.slots_T),
            )
        states_BWM = states_WM.view(len(starts), num_wanted, -1)
        local_BP = network.network.predicting_positions(positions_BP) - positions_BS[:, :1]
        asked = local_BP[..., None].expand(-1, -1, states_BWM.shape[-1])
        return network.head(states_BWM.gather(1, asked))

    def _span(self, starts: tuple[int, ...], num_tokens: int) -> Span:
        """Return where a span stands; made once, since putting host numbers on a device waits."""
        key = (*starts, num_tokens)
        if key not in self._spans:
            device, rows = self._network.device, self._rows
            first_B1 = torch.tensor(starts, device=device)[:, None]
            positions_BS = first_B1 + torch.arange(num_tokens, device=device)
            self._spans[key] = Span(
                positions_T=positions_BS.flatten(),
                slots_T=rows.slots_of(positions_BS),
                offsets_B=rows.offsets_B,
                lengths_B=rows.lengths_B,
            )
        return self._spans[key]

    def _full_attend(self, num_wanted: int) -> LayerAttend:
        rows, network = self._rows, self._network
        calls = self._passes * len(network.layers)
        last = len(network.layers) - 1

        def choose(num_queries: int, num_keys: int) -> str | None:
            return network.choose_attention(num_queries, num_keys, calls)

        def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
            lengths = rows.lengths if index < last else (num_wanted,) * len(rows.lengths)
            return attend_rows(q_THD, k_TGD, v_TGD, lengths, rows.lengths, choose)

        return attend

    def _span_attend(self, num_tokens: int, num_wanted: int, cache: KeyValueCache) -> LayerAttend:
        """Return attention over the kept keys with PyTorch's own kernels, row by row."""
        rows, network = self._rows, self._network
        last = len(network.layers) - 1

        def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
            kept_k, kept_v = cache.layers[index].read(0, rows.num_tokens, network.dtype)
            lengths = (num_tokens if index < last else num_wanted,) * len(rows.lengths)
            return attend_rows(q_THD, kept_k, kept_v, lengths, rows.lengths, lambda p, s: None)

        return attend
