"""Plans what a run will need of the card's memory, before it starts.

An estimate from sizes alone, which leaves out fragmentation and libraries' own memory; for these
`USABLE` keeps a share of what is free. ``benchmarks/inference.py`` measures the real peak.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from opencompass_llada.inference.float8 import added_bytes, bytes_of, linear_parts, takes_rows
from opencompass_llada.inference.kv_cache import FLOAT8
from opencompass_llada.inference.pass_options import PrefillOptions
from opencompass_llada.inference.prefill import prefill_bytes
from opencompass_llada.networks.config import NetworkDimensions
from opencompass_llada.networks.experts import memory_of
from opencompass_llada.networks.transformer import BidirectionalNetwork

MLP_CHUNK = 16384
"""Tokens that the MLP takes at once, unless a plan takes fewer; 1.2 GB of LLaDA-8B."""

EXPERT_CHUNK = 32768
"""The same where a token has experts, and then of a prefix, too, unless a plan takes fewer:
products are faster the more tokens an expert gets. 1.6 GB of LLaDA2.0-mini."""

USABLE = 0.94
"""Share of a card's memory at hand that a plan may fill."""

SLOT_STEP = 1024
"""Slots of a cache are taken in multiples of this, so that like lengths share one cache."""


class MemoryPlanError(ValueError):
    """A run does not fit; the message names the nearest one that does."""


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """What of a network decides its memory."""

    shape: NetworkDimensions
    weight_bytes: int
    element_size: int
    """Bytes of an activation."""
    takes_rows: bool = False
    """Whether dense MLPs of many tokens may take float8 inputs; layers with experts never do."""

    @classmethod
    def of(
        cls, network: BidirectionalNetwork, dtype: torch.dtype, *, precision: str | None = None
    ) -> NetworkSize:
        """Read the sizes of a network, which may be on the meta device, in a dtype.

        With ``precision='float8'`` its linear layers count as what they will be quantised to;
        those that are float8 already count as they are.
        """
        weights = sum(bytes_of(part, dtype) for part in network.modules())
        if precision == "float8":
            weights += sum(added_bytes(part, dtype) for part in linear_parts(network))
        is_float8 = precision == "float8" or any(map(takes_rows, network.modules()))
        shape = network.config.shape
        is_dense = shape.experts is None or not all(shape.experts.sparse_layers)
        return cls(
            shape=shape,
            weight_bytes=weights,
            element_size=dtype.itemsize,
            takes_rows=is_float8 and is_dense,
        )


@dataclass(frozen=True, kw_only=True)
class ScoredAtOnce:
    """What a pass over noisy copies of blocks holds, where texts are scored."""

    tokens: int
    """Tokens of the copies."""
    places: int
    """Places whose logits and cross entropies are there at once."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """A run's arrangement and what it will need, in bytes."""

    size: NetworkSize
    row_lengths: tuple[int, ...]
    """Tokens of each row of a batch, masks included."""
    block_length: int
    cache_dtype: str | None
    """``bfloat16`` (the network's own dtype), ``float8`` or None."""
    mlp_chunk: int = MLP_CHUNK
    guided: bool = False
    """Whether classifier-free guidance combines the logits of two passes."""
    prefix_chunk: int | None = None
    """Tokens that a pass runs of a block-causal network's prefix, whole blocks of
    ``block_length``; None where passes run whole rows, and without effect where nothing is
    cached."""
    scored: ScoredAtOnce | None = None
    """None where tokens are generated."""
    prefill: PrefillOptions = PrefillOptions()
    ranks: int = 1
    """Processes that split passes and cache (`sequence_split`); bytes are those of one."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(self.row_lengths)

    @property
    def pass_tokens(self) -> int:
        """Tokens of the largest pass: all, or a chunk of the prefix or two blocks of each row.

        Of processes that split it, those of one.
        """
        if self.prefix_chunk is None or self.cache_dtype is None:
            return -(-self.num_tokens // self.ranks)
        active = 2 * len(self.row_lengths) * self.block_length
        largest = min(max(self.prefix_chunk, active), self.num_tokens)
        return largest if self.scored is None else max(largest, self.scored.tokens)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters."""
        return self.size.weight_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of cached keys and values with their scales."""
        if self.cache_dtype is None:
            return 0
        shape = self.size.shape
        slots = -(-self.num_tokens // SLOT_STEP) * SLOT_STEP
        per_head = shape.head_dim * self.size.element_size
        if self.cache_dtype == "float8":
            per_head = shape.head_dim + 4
        return 2 * shape.num_layers * slots * (shape.num_groups // self.ranks) * per_head

    @property
    def activation_bytes(self) -> int:
        """Bytes of what lives at once in the largest pass, rotation tables included."""
        shape, tokens = self.size.shape, self.pass_tokens
        heads = 2 * shape.head_dim * (shape.num_heads + shape.num_groups)
        if self.ranks > 1:  # the own heads of all tokens beside all heads of the own tokens
            heads *= 2
        attention = tokens * (2 * shape.width + heads)
        chunk = min(self.mlp_chunk, tokens)
        inner = dense = 3 * shape.mlp_width * self.size.element_size
        if shape.experts is not None:  # whose output waits for the shared expert's
            mixed = max(memory_of(shape.experts, shape.width, self.size.element_size), inner)
            inner = mixed + shape.width * self.size.element_size
        states = 2 * shape.width * self.size.element_size
        mlp = tokens * states + chunk * inner
        if self.size.takes_rows:  # which the output is not written over; what is gated is float8
            dense -= shape.mlp_width * (self.size.element_size - FLOAT8.itemsize)
            rows = shape.width * FLOAT8.itemsize + 4
            mlp = max(mlp, tokens * (states + rows) + chunk * dense)
        tables = 2 * 4 * shape.head_dim * max(self.row_lengths)
        bytes_of_attention = attention * self.size.element_size + self._chunk_bytes
        bytes_of_attention += prefill_bytes(self.prefill, self._own_heads, self.row_lengths)
        return max(bytes_of_attention, mlp) + tables

    @property
    def _own_heads(self) -> NetworkDimensions:
        """The network with the heads that one process attends by."""
        shape = self.size.shape
        heads, groups = (number // self.ranks for number in (shape.num_heads, shape.num_groups))
        return replace(shape, num_heads=heads, num_groups=groups)

    @property
    def _chunk_bytes(self) -> int:
        """Bytes that `block_attention` takes beside queries, keys, values and what it returns."""
        if self.prefix_chunk is None or self.cache_dtype is None:
            return 0
        shape, element = self.size.shape, self.size.element_size
        queries, keys = (shape.head_dim * n for n in (shape.num_heads, shape.num_groups))
        # Two parts in the network's dtype; queries, keys, values, a part and their merging in
        # float32; scores of a block twice.
        parts = queries * (2 * element + 3 * 4) + keys * 2 * 4
        scores = 2 * 4 * shape.num_heads * self.block_length
        row = 0
        if self.cache_dtype == "float8":  # a layer's keys and values of a row, made the dtype again
            row = max(self.row_lengths) * keys * (2 * element + 2 * 4)
        return self.pass_tokens * (parts + scores) + row

    @property
    def logit_bytes(self) -> int:
        """Bytes of the block's logits and of one row's float64 softmax; or of those scored.

        These are there in the network's dtype, in float32, and as log-probabilities.
        """
        if self.scored is not None:
            per_entry = self.size.element_size + 2 * 4
            return self.scored.places * self.size.shape.vocabulary * per_entry
        alone = self._pass_logit_bytes + 2 * self.block_length * self.size.shape.vocabulary * 8
        # Guidance holds logits of both passes and combined ones before the softmax.
        return max(alone, 3 * self._pass_logit_bytes) if self.guided else alone

    @property
    def _pass_logit_bytes(self) -> int:
        tokens = len(self.row_lengths) * self.block_length
        return tokens * self.size.shape.vocabulary * self.size.element_size

    @property
    def peak_bytes(self) -> int:
        """The estimate; with guidance the first pass's logits wait while the second one runs."""
        waiting = self._pass_logit_bytes if self.guided else 0
        passing = max(self.activation_bytes + waiting, self.logit_bytes)
        return self.weight_bytes + self.cache_bytes + passing

    def describe(self) -> str:
        """Return one line for the log."""
        rows = f"{len(self.row_lengths)} rows of up to {max(self.row_lengths)} tokens"
        cached = "nothing cached" if self.cache_dtype is None else f"{self.cache_dtype} cached"
        chunks = f"MLP in chunks of {self.mlp_chunk}"
        if self.prefix_chunk is not None and self.cache_dtype is not None:
            chunks += f", prefix in chunks of {self.prefix_chunk}"
        if self.ranks > 1:
            chunks += f", on each of {self.ranks} devices"
        return (
            f"{rows}, {cached}, {chunks}: about {self.peak_bytes / 1e9:.1f} GB "
            f"(weights {self.weight_bytes / 1e9:.1f}, keys and values "
            f"{self.cache_bytes / 1e9:.1f}, activations {self.activation_bytes / 1e9:.1f}, "
            f"logits {self.logit_bytes / 1e9:.1f})"
        )


def mlp_chunk_of(shape: NetworkDimensions) -> int:
    """Return how many tokens a network's MLP takes at once, unless a plan takes fewer."""
    return MLP_CHUNK if shape.experts is None else EXPERT_CHUNK


def check_plan(plan: MemoryPlan, budget: int) -> MemoryPlan:
    """Return the plan, with smaller chunks if these are what makes it fit a budget in bytes."""
    own = _fit_chunks(plan, budget)
    if own is not None:
        return own
    others = (_fit_chunks(other, budget) for other in _nearest(plan))
    fitting = next((other for other in others if other is not None), None)
    text = f"{plan.describe()} do not fit the {budget / 1e9:.1f} GB at hand. "
    if fitting is None:
        raise MemoryPlanError(
            f"{text}Not even one row without cached keys and values does; use a larger card"
        )
    changes = _changes(plan, fitting)
    if ranks := _fitting_ranks(plan, budget):
        changes += f"; or sequence_parallel={ranks}, which splits it over {ranks} GPUs"
    raise MemoryPlanError(f"{text}Nearest plan that does: {changes}.")


def longest_row(plan: MemoryPlan, budget: int) -> int:
    """Return how many tokens of one row fit a budget in bytes, in multiples of `SLOT_STEP`."""
    for length in range(max(plan.row_lengths) // SLOT_STEP * SLOT_STEP, 0, -SLOT_STEP):
        if _fit_chunks(replace(plan, row_lengths=(length,)), budget) is not None:
            return length
    return 0


def whole_blocks(num_tokens: int, block_length: int) -> int:
    """Return how many of so many tokens are whole blocks; one block at least."""
    return max(num_tokens // block_length, 1) * block_length


def _fit_chunks(plan: MemoryPlan, budget: int) -> MemoryPlan | None:
    """Return the plan with the largest chunks that fit a budget in bytes, or None."""
    return next((p for p in _smaller_chunks(plan) if p.peak_bytes <= budget), None)


def _smaller_chunks(plan: MemoryPlan) -> Iterator[MemoryPlan]:
    """Yield the plan, then the same with ever smaller chunks of the MLP and of the prefix."""
    yield plan
    asked = plan.prefix_chunk
    # A dense network's prefix is in chunks of 8192 from the first, and is cut when all else is.
    dense = [(4096, 8192), (1024, 8192), (1024, 4096), (1024, 1024)]
    sparse = [(size, size) for size in (16384, 8192, 4096, 1024)]
    for mlp, prefix in dense if plan.size.shape.experts is None else sparse:
        smaller = None if asked is None else min(asked, whole_blocks(prefix, plan.block_length))
        yield replace(plan, mlp_chunk=min(mlp, plan.mlp_chunk), prefix_chunk=smaller)


def _nearest(plan: MemoryPlan) -> Iterator[MemoryPlan]:
    """Yield other plans, the least different first: dtype, rows, no cache, shorter context."""
    dtypes = [plan.cache_dtype, *(["float8"] if plan.cache_dtype == "bfloat16" else [])]
    longest = sorted(plan.row_lengths, reverse=True)
    yield from (replace(plan, cache_dtype=dtype) for dtype in dtypes[1:])
    for dtype in dtypes:
        for count in range(len(longest) - 1, 0, -1):
            yield replace(plan, cache_dtype=dtype, row_lengths=tuple(longest[:count]))
    one = replace(plan, cache_dtype=None, row_lengths=tuple(longest[:1]))
    yield one
    for length in range(longest[0] // SLOT_STEP * SLOT_STEP, 0, -SLOT_STEP):
        yield replace(one, row_lengths=(length,))


def _changes(asked: MemoryPlan, fitting: MemoryPlan) -> str:
    """Name what to change by the sampler's options."""
    changes = []
    if fitting.cache_dtype != asked.cache_dtype:
        option = "type='none'" if fitting.cache_dtype is None else "dtype='float8'"
        changes.append(f"cache=dict({option})")
    if len(fitting.row_lengths) != len(asked.row_lengths):
        changes.append(f"batch_size={len(fitting.row_lengths)}")
    if max(fitting.row_lengths) < max(asked.row_lengths):
        changes.append(f"at most {max(fitting.row_lengths)} tokens")
    return f"{', '.join(changes)} ({fitting.peak_bytes / 1e9:.1f} GB)"


def _fitting_ranks(plan: MemoryPlan, budget: int) -> int | None:
    """Return the fewest further processes that fit a plan by splitting it; None where none do."""
    if plan.prefix_chunk is not None:  # tokens do not all see each other
        return None
    heads = math.gcd(plan.size.shape.num_heads, plan.size.shape.num_groups)
    more = (ranks for ranks in range(plan.ranks + 1, heads + 1) if heads % ranks == 0)
    return next((n for n in more if _fit_chunks(replace(plan, ranks=n), budget)), None)


def card_budget(device: torch.device) -> int | None:
    """Return the bytes of a card that a plan may fill, this process's own included, or None."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(USABLE * (free + torch.cuda.memory_reserved(device)))
