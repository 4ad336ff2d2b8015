"""Runs noisy copies of a text's blocks, each of which sees itself and the clean blocks before it.

What a pass over ``[clean | noisy]`` with the doubled mask gives, but that the clean text, which
sees nothing noisy, is run once and cached. Noisy copies do not see each other, and so many run at a
time that memory beside the cache is flat, however many blocks and masks there are.
Shape suffixes: T tokens in a line, S keys, W tokens wanted, M hidden size; H, G, D as elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from opencompass_llada.inference.block_attention import attend_noisy
from opencompass_llada.inference.forward import LayerAttend
from opencompass_llada.inference.memory import MemoryPlanError, ScoredAtOnce, longest_row
from opencompass_llada.inference.session import PassServer

T = TypeVar("T")

LINE_LENGTH = 4096
"""Noisy tokens that are run at once, unless one block has more."""

PIECE_LENGTH = 512
"""Noisy tokens that attend at once: with a mask to what is near them, without one to all before."""


class NoisyBlock(NamedTuple):
    """A copy of a block, some of its tokens masked, and the places whose tokens are asked for."""

    start: int
    """Position of its first token."""
    token_ids: Tensor
    """int64, on the CPU."""
    places: Tensor
    """int64, counted from the block's start."""


class Piece(NamedTuple):
    """Some tokens of a line which attend together; see `attend_noisy`."""

    first: int
    end: int
    num_shared: int
    """Clean tokens that all of them see."""
    end_clean: int
    """End of those that any of them sees."""
    seen_TS: Tensor
    own_QK: Tensor | None


class Line(NamedTuple):
    """Noisy blocks, end to end."""

    ids_T: Tensor
    positions_T: Tensor
    wanted_W: Tensor
    pieces: list[Piece]


class NoisyPasses:
    """Passes over noisy copies of the blocks of one text."""

    def __init__(
        self, server: PassServer, text: Sequence[int], num_clean: int, places: int
    ) -> None:
        """Cache the clean text's leading whole blocks; so many ``places`` are scored at once.

        A text that does not fit the card is a MemoryPlanError.
        """
        self._text = torch.tensor(list(text))
        self._shift = server.logit_shift
        self._device = server.network.device
        try:
            self._session = server.open(
                [len(text)],
                block_length=server.causal_block or 1,
                cache_dtype="bfloat16",
                passes=1,
                scored=ScoredAtOnce(tokens=LINE_LENGTH, places=places),
            )
        except MemoryPlanError as error:
            raise MemoryPlanError(_describe_shortfall(server)) from error
        self._session.prefill(self._text[None].to(self._device), [num_clean])

    @torch.inference_mode()
    def states(self, blocks: Sequence[NoisyBlock]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield indices of some blocks, and states [W, M] for the head, of these blocks in order.

        Each block has as many states as places.
        """
        order = sorted(range(len(blocks)), key=lambda index: blocks[index].start)
        for indices in _batches(order, lambda i: len(blocks[i].token_ids), LINE_LENGTH):
            line = self._line([blocks[index] for index in indices])
            ids, positions = line.ids_T.to(self._device), line.positions_T.to(self._device)
            attend = self._attend(line.pieces)
            states_TM = self._session.run_line(ids, positions, attend)
            yield indices, states_TM[line.wanted_W.to(self._device)]

    def _line(self, blocks: Sequence[NoisyBlock]) -> Line:
        """Lay blocks end to end, each after the clean tokens that predict its first places."""
        ids, positions, wanted, spans, length = [], [], [], [], 0
        for block in blocks:
            shift = min(self._shift, block.start)
            first = block.start - shift
            end = block.start + len(block.token_ids)
            ids.append(torch.cat([self._text[first : block.start], block.token_ids]))
            positions.append(torch.arange(first, end))
            predicting = (block.start + block.places - self._shift).clamp(min=0)
            wanted.append(predicting - first + length)
            spans.append(Span(length, end - first, shift, block.start))
            length += end - first
        pieces = [
            _piece(batch, self._device)
            for _, equal in itertools.groupby(spans, lambda span: (span.size, span.num_clean))
            for batch in _batches(list(equal), lambda span: span.size, PIECE_LENGTH)
        ]
        return Line(torch.cat(ids), torch.cat(positions), torch.cat(wanted), pieces)

    def _attend(self, pieces: Sequence[Piece]) -> LayerAttend:
        def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
            outs = []
            for first, end, num_shared, end_clean, seen_TS, own_QK in pieces:
                own = k_TGD[first:end], v_TGD[first:end]
                clean = self._session.cached(index, end_clean)
                outs.append(attend_noisy(q_THD[first:end], own, clean, num_shared, seen_TS, own_QK))
            return torch.cat(outs)

        return attend


class Span(NamedTuple):
    """Where a block stands in a line."""

    first: int
    size: int
    num_clean: int
    """Clean tokens before it in the line, which predict its first ones."""
    start: int
    """Its first position in the text, so that it sees so many clean tokens."""


def _describe_shortfall(server: PassServer) -> str:
    plan, budget = server.plan, server.budget
    assert plan is not None, "made before it is refused"
    assert budget is not None, "without one nothing is refused"
    shorter = longest_row(plan, budget)
    remedy = f"score at most {shorter} tokens (max_seq_len, or lengths of a perplexity), or use"
    return (
        f"A text of {plan.num_tokens} tokens cannot be scored, since its keys and values are "
        f"cached: {plan.describe()} do not fit the {budget / 1e9:.1f} GB at hand; "
        f"{remedy if shorter else 'use'} a larger card"
    )


def _piece(spans: Sequence[Span], device: torch.device) -> Piece:
    """Put blocks of equal sizes together."""
    _, size, num_clean, lowest = spans[0]
    highest = spans[-1].start
    starts_T = torch.tensor([span.start for span in spans]).repeat_interleave(size)
    seen_TS = torch.arange(lowest, highest) < starts_T[:, None]
    own_QK = None
    if len(spans) > 1 or num_clean:
        is_noisy_K = torch.arange(size) >= num_clean  # the clean ones' keys are cached
        own_QK = (is_noisy_K & is_noisy_K[:, None]).to(device)
    end = spans[-1].first + size
    return Piece(spans[0].first, end, lowest, highest, seen_TS.to(device), own_QK)


def _batches(items: Sequence[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Yield consecutive items whose sizes add up to ``most`` at most, but at least one."""
    batch: list[T] = []
    room = most
    for item in items:
        if batch and size(item) > room:
            yield batch
            batch, room = [], most
        batch.append(item)
        room -= size(item)
    if batch:
        yield batch
