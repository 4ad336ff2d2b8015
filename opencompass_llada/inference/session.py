"""Passes over one batch: full ones that may cache keys and values, partial ones that use them.

A partial pass first writes the span's own new keys and values over the cached ones, so that its
tokens see each other as they are now. Which span, and when all is refreshed, the sampler decides.
Shape suffixes: B rows, L padded length, T tokens of all rows, P positions asked for, V vocabulary,
H query heads, G key/value heads, D head size, M hidden size.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from opencompass_llada.inference.attention_rule import make_rule
from opencompass_llada.inference.block_attention import attend_blocks
from opencompass_llada.inference.first_layer import FirstLayerAttention, FirstLayers
from opencompass_llada.inference.forward import CacheSlots, FastNetwork, LayerAttend
from opencompass_llada.inference.graphs import GraphedPasses, Span, SpanPass
from opencompass_llada.inference.kv_cache import FLOAT8, KeyValueCache
from opencompass_llada.inference.memory import (
    EXPERT_CHUNK,
    SLOT_STEP,
    MemoryPlan,
    NetworkSize,
    ScoredAtOnce,
    card_budget,
    check_plan,
    whole_blocks,
)
from opencompass_llada.inference.pass_options import PrefillOptions
from opencompass_llada.inference.prefill import PrefillAttention, describe
from opencompass_llada.inference.sequence_split import SequenceSplit
from opencompass_llada.networks.attention import Choose, StretchedAttention
from opencompass_llada.networks.attention_pattern import Blocks, Stretch
from opencompass_llada.networks.transformer import BidirectionalNetwork

logger = logging.getLogger(__name__)

VARLEN_LONGEST = 2048
"""Longest row, in tokens, for which one varlen call serves a batch; longer rows fill the card
alone, and there cuDNN, which has no such call, is faster."""

PREFILL_CHUNK = 8192
"""Most tokens that a block-causal network's prefix is run at once by, or one block, unless a plan
takes fewer; with experts `EXPERT_CHUNK`."""

RowAttention = StretchedAttention | PrefillAttention

Piece = tuple[int, int, int]
"""A row, and the first and the end of some of its positions."""


class PassServer:
    """Opens sessions on one network; holds what outlasts them: a cache's memory, graphs."""

    def __init__(
        self,
        network: FastNetwork,
        *,
        graphs: bool | None = None,
        memory_budget: int | None = None,
        prefill: PrefillOptions | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Replay small passes from CUDA graphs if asked, None does where Triton's kernels run.

        A run may fill the budget, bytes; None is most of the card, and no limit without one. Full
        passes are exact unless ``prefill`` says otherwise. The processes of a ``group`` divide
        passes and cache, each with a network of its own: all open the same sessions and call the
        same passes, and all get the same logits. Theirs are replayed only if asked.
        """
        self.network = network
        self.prefill = prefill or PrefillOptions()
        self.split = None if group is None else SequenceSplit(network.network, group)
        self.graphs = GraphedPasses(network, graphs, self.split)
        self._cache: KeyValueCache | None = None
        self._size = NetworkSize.of(network.network, network.dtype)
        self.budget = card_budget(network.device) if memory_budget is None else memory_budget
        self._logged: set[tuple[str | int | None, ...]] = set()
        self.plan: MemoryPlan | None = None
        self.logit_shift = network.network.logit_shift
        pattern = network.network.attention_pattern
        self.causal_block = pattern.block_length if isinstance(pattern, Blocks) else None
        self.num_groups, self.choose_attention = network.num_groups, network.choose_attention
        if self.split is not None:
            self.num_groups = self.split.num_groups
            heads = (self.split.num_heads, self.num_groups, network.head_dim)
            backend = network.network.attention_backend
            self.choose_attention = make_rule(backend, network.device, network.dtype, *heads)

    def open(
        self,
        row_lengths: Sequence[int],
        *,
        block_length: int,
        cache_dtype: str | None,
        passes: int,
        guided: bool = False,
        final_lengths: Sequence[int] | None = None,
        scored: ScoredAtOnce | None = None,
    ) -> Session:
        """Plan the memory of a batch, by these fields of `MemoryPlan`, and begin with it.

        ``passes`` are the full passes to come, for the choice of the attention kernel. The sessions
        of one server share their cache: one is used up before the next is opened. A batch that does
        not fit the card is a MemoryPlanError that names the nearest plan that does. Memory is
        planned and held for ``final_lengths``, which the rows of later sessions grow to, if given.
        """
        final = tuple(final_lengths or row_lengths)
        self.plan = MemoryPlan(
            size=self._size,
            row_lengths=final,
            block_length=block_length,
            cache_dtype=cache_dtype,
            mlp_chunk=self.network.largest_chunk,
            guided=guided,
            prefix_chunk=prefill_chunk(self.network.network),
            scored=scored,
            prefill=self.prefill,
            ranks=1 if self.split is None else self.split.size,
        )
        if self.budget is not None:
            self._fit_plan(self.plan, self.budget)
        cache = None if cache_dtype is None else self._reserve(sum(final), cache_dtype)
        self.network.network.prepare(max(final), self.network.device)  # one table for all sessions
        return Session(self, tuple(row_lengths), cache, passes)

    @property
    def is_split(self) -> bool:
        """Whether several processes split passes."""
        return self.split is not None

    def release(self) -> None:
        """Give the cache's memory and the graphs back."""
        self.graphs.clear()
        self._cache = None

    def log_prefill(self, row_lengths: Sequence[int]) -> None:
        """Say how full passes of such rows attend, where they are not exact.

        Once for each size, as of caches, and not for each batch; once that short rows are exact.
        """
        longest = max(filter(self.prefill.covers, row_lengths), default=0)
        about = ("prefill", longest // SLOT_STEP)
        if longest and about not in self._logged:
            self._logged.add(about)
            logger.info("%s", describe(self.prefill, longest))
        if min(row_lengths) < (self.prefill.shortest or 0) and ("exact rows",) not in self._logged:
            self._logged.add(("exact rows",))
            what = "Full passes of rows of fewer than %d tokens (prefill shortest) are exact"
            logger.info(what, self.prefill.shortest)

    def _fit_plan(self, asked: MemoryPlan, budget: int) -> None:
        self.plan = plan = check_plan(asked, budget)
        self.network.mlp_chunk = plan.mlp_chunk
        chunks = (plan.mlp_chunk, plan.prefix_chunk)
        about = (plan.cache_dtype, plan.num_tokens // SLOT_STEP, *chunks)
        if about not in self._logged:  # once for each size of cache, not for each sample
            self._logged.add(about)
            logger.info("Memory plan: %s, of %.1f GB at hand", plan.describe(), budget / 1e9)

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
            num_heads=self.num_groups,
            head_dim=self.network.head_dim,
            dtype=dtype,
            device=self.network.device,
        )
        return self._cache


class Session:
    """Passes over one batch of rows, laid end to end without padding; see `PassServer.open`."""

    def __init__(
        self, server: PassServer, lengths: tuple[int, ...], cache: KeyValueCache | None, passes: int
    ) -> None:
        """Begin with rows of at least one token; without a cache there are full passes only."""
        self._server, self._network = server, server.network
        self._pattern = server.network.network.attention_pattern
        assert server.plan is not None, "a batch is planned before it begins"
        self._prefix_chunk = server.plan.prefix_chunk
        self._lengths, self._cache, device = lengths, cache, server.network.device
        self._row_starts = tuple(itertools.accumulate(lengths[:-1], initial=0))
        self._offsets_B = torch.tensor(self._row_starts, dtype=torch.int32, device=device)
        self._positions_T = torch.cat([torch.arange(length, device=device) for length in lengths])
        self._rotation = self._network.network.prepare(max(lengths), device)
        self._spans: dict[tuple[int, ...], tuple[Span, bool]] = {}
        calls, choose = passes * len(self._network.layers), server.choose_attention
        self._choose: Choose = lambda num_queries, num_keys: choose(num_queries, num_keys, calls)
        self._starts = (0,) * len(lengths)
        self._first_layers = FirstLayers() if passes > 1 and self._repeats_exactly() else None

    def _repeats_exactly(self) -> bool:
        """Whether tokens that stay the same may be attended to once for several passes.

        Merging parts in 16 bit would round anew. On a GPU attention to a prompt is a small share of
        a network of many layers, and comparing tokens would wait for it.
        """
        network, server = self._network, self._server
        is_plain = network.device.type == "cpu" and network.dtype == torch.float32
        is_whole = not server.prefill.enabled and server.split is None
        if not (is_plain and is_whole and len(network.layers) > 1):
            return False  # before a kernel is chosen, which is timed and logged
        longest = max(self._lengths)
        sees_all = all(map(self._pattern.sees_all, self._lengths))
        return sees_all and self._choose(longest, longest) is None

    @functools.cached_property
    def _whole_rows(self) -> RowAttention:
        """Attention of a full pass; of small blocks it is made of many stretches.

        Each row that is long enough for the server's ``prefill`` is computed by it, the others
        exactly.
        """
        prefill = self._server.prefill
        if prefill.enabled and all(map(self._pattern.sees_all, self._lengths)):
            self._server.log_prefill(self._lengths)
            if any(map(prefill.covers, self._lengths)):
                # Nothing here may hold the session, which holds the cache.
                exactly = functools.partial(_attend_row, self._choose)
                return PrefillAttention(prefill, self._lengths, exactly)
        whole = [self._pattern.stretches(length) for length in self._lengths]
        return self._attention(whole, self._starts, self._choose)

    @torch.inference_mode()
    def full_pass(self, ids_BL: Tensor, positions_BP: Tensor, *, keep: bool) -> Tensor:
        """Run every token of right-padded rows, cache if asked; return logits [B, P, V]."""
        network = self._network
        num_rows, num_wanted = positions_BP.shape
        wanted_W = self._slots_of(network.network.predicting_positions(positions_BP))
        assert self._cache is not None or not keep, "a session without a cache keeps nothing"
        # Only where all see all do any queries see the same keys.
        narrows = all(map(self._pattern.sees_all, self._lengths))
        last = self._whole_rows
        if narrows:
            wanted = [[Stretch(0, num_wanted, 0, length)] for length in self._lengths]
            last = self._attention(wanted, self._starts, self._choose)
        rows = [ids_L[:length] for ids_L, length in zip(ids_BL, self._lengths, strict=True)]
        into = None
        if keep and self._cache is not None:
            into = CacheSlots(self._cache, torch.arange(sum(self._lengths), device=network.device))
        first = None
        if self._first_layers is not None and not keep:  # one that caches is the block's only one
            first = self._first_layers.attention(rows, positions_BP)
        ids_T, attend = torch.cat(rows), self._layers(self._whole_rows, last, first)
        placed = self._positions_T, self._rotation, attend
        if (split := self._server.split) is not None:
            states = split.full_pass(network, ids_T, *placed, wanted_W, into)
        else:
            asked_W = wanted_W if narrows else None
            states = network.run_layers(network.embed(ids_T), *placed, asked_W, into)
            states = states if narrows else states[wanted_W]
        return network.head(states.view(num_rows, num_wanted, -1))

    @torch.inference_mode()
    def prefill(self, ids_BL: Tensor, lengths: Sequence[int]) -> None:
        """Cache the leading whole blocks of each row of a block-causal network, in chunks.

        The chunks are those of the plan with which the session was opened. Memory beside the cache
        is that of a chunk, however long the rows are.
        """
        network, cache, block = self._network, self._cache, self._server.causal_block
        chunk = self._prefix_chunk
        assert cache is not None, "a session without a cache keeps nothing"
        assert block is not None, "only a block-causal network's prefix is final"
        assert chunk is not None, block
        assert chunk % block == 0, (chunk, block)
        assert all(length % block == 0 for length in lengths), (lengths, block)
        device = network.device
        for pieces in _chunks(lengths, chunk):
            positions = [torch.arange(first, end, device=device) for _, first, end in pieces]
            slots = [
                own + self._row_starts[row]
                for own, (row, _, _) in zip(positions, pieces, strict=True)
            ]
            ids = [ids_BL[row, first:end] for row, first, end in pieces]
            network.run_layers(
                network.embed(torch.cat(ids)),
                torch.cat(positions),
                self._rotation,
                self._prefill_attend(pieces, cache, block),
                # Of the last layer keys and values are wanted, and no states.
                torch.zeros(1, dtype=torch.int64, device=device),
                CacheSlots(cache, torch.cat(slots)),
            )

    def _prefill_attend(
        self, pieces: Sequence[Piece], cache: KeyValueCache, block: int
    ) -> LayerAttend:
        """Return attention of pieces to what is cached of their rows up to their ends."""
        last_index = len(self._network.layers) - 1
        sizes = [end - first for _, first, end in pieces]

        def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
            if index == last_index:
                return q_THD
            outs = []
            for (row, _, end), q_PHD in zip(pieces, q_THD.split(sizes), strict=True):
                start = self._row_starts[row]
                keys = cache.layers[index].read(start, start + end, self._network.dtype)
                outs.append(attend_blocks(q_PHD, *keys, block))
            return outs[0] if len(outs) == 1 else torch.cat(outs)

        return attend

    @torch.inference_mode()
    def partial_pass(
        self,
        ids_BL: Tensor,
        starts: Sequence[int],
        num_tokens: int,
        positions_BP: Tensor,
        num_wanted: int | None = None,
        finished: Sequence[int] = (),
    ) -> Tensor:
        """Run ``num_tokens`` of each row from its start on, on what is cached; return logits.

        The states that predict the asked positions lie within the ``num_wanted`` leading tokens
        (None: anywhere), and the last layer computes no more queries than those. As many tokens
        from each row's entry of ``finished`` on run beside them, to leave their keys and values.
        """
        assert self._cache is not None, "a session without a cache has full passes only"
        network, graphs = self._network, self._server.graphs
        num_wanted, num_rows = num_wanted or num_tokens, len(starts)
        starts = [*finished, *starts]
        if finished:
            ids_BL = ids_BL.repeat(2, 1)
        span, is_uniform = self._span(tuple(starts), num_tokens)
        positions_BS = span.positions_T.view(len(starts), num_tokens)
        ids_T = ids_BL.gather(1, positions_BS).flatten()
        given = SpanPass(span, self._cache, self._rotation, num_wanted)
        if graphs.by_kernel and is_uniform:
            states_WM = graphs.run(ids_T, given)
        else:
            attend = self._span_attend(starts, num_tokens, num_wanted, self._cache)
            states_WM = graphs.span_states(ids_T, given, attend)
        states_BWM = states_WM.view(len(starts), num_wanted, -1)[-num_rows:]
        first_B1 = positions_BS[-num_rows:, :1]
        local_BP = network.network.predicting_positions(positions_BP) - first_B1
        local_BP = local_BP.clamp(min=0)  # filler may be predicted before the span
        asked = local_BP[..., None].expand(-1, -1, states_BWM.shape[-1])
        return network.head(states_BWM.gather(1, asked))

    @torch.inference_mode()
    def run_line(self, ids_T: Tensor, positions_T: Tensor, attend: LayerAttend) -> Tensor:
        """Run tokens which attend by themselves, say to what is `cached`; cache nothing.

        Returns the states for the head, [T, M].
        """
        embedded = self._network.embed(ids_T)
        return self._network.run_layers(embedded, positions_T, self._rotation, attend)

    def cached(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        """Return the first row's keys and values before a position, [end, G, D]."""
        assert self._cache is not None, "a session without a cache keeps nothing"
        return self._cache.layers[layer].read(0, end, self._network.dtype)

    def _span(self, starts: tuple[int, ...], num_tokens: int) -> tuple[Span, bool]:
        """Return where a span stands, and whether its tokens of a row all see the same keys."""
        key = (*starts, num_tokens)  # made once, since putting host numbers on a device waits
        if key not in self._spans:
            device = self._network.device
            first_B1 = torch.tensor(starts, device=device)[:, None]
            positions_BS = first_B1 + torch.arange(num_tokens, device=device)
            seen = self._seen(starts, num_tokens)
            keys = [(s[0].first_key, s[0].end_key - s[0].first_key) for s in seen]
            first_B, number_B = torch.tensor(keys, dtype=torch.int32, device=device).unbind(1)
            offsets_B = self._offsets_B.repeat(len(starts) // len(self._lengths))
            span = Span(
                positions_T=positions_BS.flatten(),
                slots_T=(offsets_B[:, None] + positions_BS).flatten(),
                first_keys_B=offsets_B + first_B,
                num_keys_B=number_B.contiguous(),
            )
            self._spans[key] = span, all(len(stretches) == 1 for stretches in seen)
        return self._spans[key]

    def _slots_of(self, positions_BP: Tensor) -> Tensor:
        """Return where the positions of each row stand, int64 [B * P]."""
        return (self._offsets_B[:, None] + positions_BP).flatten()

    def _seen(self, starts: Sequence[int], num_queries: int) -> list[list[Stretch]]:
        """Return what consecutive queries of each row see of it, in positions of the row.

        There may be several starts a row: of all rows first, then of all rows again.
        """
        lengths = self._lengths * (len(starts) // len(self._lengths))
        return [
            self._pattern.of_queries(start, start + num_queries, length)
            for start, length in zip(starts, lengths, strict=True)
        ]

    def _attention(
        self, seen: Sequence[Sequence[Stretch]], starts: Sequence[int], choose: Choose
    ) -> StretchedAttention:
        """Return attention over the rows, given what each row's queries from its start on see."""
        stretches: list[Stretch] = []
        num_queries = 0
        offsets = self._row_starts * (len(starts) // len(self._lengths))
        for row, start, offset in zip(seen, starts, offsets, strict=True):
            place = num_queries - start
            for first_query, end_query, first_key, end_key in row:
                queries = (first_query + place, end_query + place)
                stretches.append(Stretch(*queries, first_key + offset, end_key + offset))
                num_queries = end_query + place
        together = len(self._lengths) > 1 and max(self._lengths) <= VARLEN_LONGEST
        return StretchedAttention(stretches, choose, in_one_call=together)

    def _layers(
        self, every: RowAttention, last: RowAttention, first: FirstLayerAttention | None = None
    ) -> LayerAttend:
        last_index = len(self._network.layers) - 1

        def attend(index: int, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
            if index == 0 and first is not None:
                return first(q_THD, k_SGD, v_SGD)
            return (every if index < last_index else last)(q_THD, k_SGD, v_SGD)

        return attend

    def _span_attend(
        self, starts: Sequence[int], num_tokens: int, num_wanted: int, cache: KeyValueCache
    ) -> LayerAttend:
        """Return attention over the cached keys with PyTorch's own kernels."""
        every, last = (
            self._attention(self._seen(starts, number), starts, lambda queries, keys: None)
            for number in (num_tokens, num_wanted)
        )
        layers = self._layers(every, last)

        def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
            cached = cache.layers[index].read(0, sum(self._lengths), self._network.dtype)
            return layers(index, q_THD, *cached)

        return attend


def prefill_chunk(network: BidirectionalNetwork) -> int | None:
    """Return the most tokens that a prefix is run at once by: whole blocks; None has no prefix."""
    pattern = network.attention_pattern
    if not isinstance(pattern, Blocks):
        return None
    most = PREFILL_CHUNK if network.config.shape.experts is None else EXPERT_CHUNK
    return whole_blocks(most, pattern.block_length)


def _chunks(lengths: Sequence[int], most: int) -> Iterator[list[Piece]]:
    """Cut rows into pieces and yield as many at a time as hold ``most`` tokens at most.

    Rows of 5 and 3 in chunks of 4 are ``[(0, 0, 4)]``, then ``[(0, 4, 5), (1, 0, 3)]``.
    """
    pieces, room = [], most
    for row, length in enumerate(lengths):
        first = 0
        while first < length:
            end = min(length, first + room)
            pieces.append((row, first, end))
            first, room = end, room - (end - first)
            if room == 0:
                yield pieces
                pieces, room = [], most
    if pieces:
        yield pieces


def _attend_row(choose: Choose, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
    """Return exact attention of a row all of whose queries see all keys, [T, H, D]."""
    whole = [Stretch(0, q_THD.shape[0], 0, k_SGD.shape[0])]
    return StretchedAttention(whole, choose, in_one_call=False)(q_THD, k_SGD, v_SGD)
