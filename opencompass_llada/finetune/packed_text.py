"""Rows of packed documents: their tokens, weights, and what attends to what.

Knows documents of several sources and rows of one length; masks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opencompass_llada.finetune.packing import PackingReport, Piece, pack
from opencompass_llada.finetune.token_cache import TokenizedText


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """One row before masking.

    Attributes:
        input_ids: int64 [length]; padding at the end.
        weights: float32 [length]; 0 on padding and on prompts.
        positions: int64 [length], from 0 in each row, or in each document.
        spans: Tokens that attend to each other, run by run; they add up to the length.
    """

    input_ids: np.ndarray
    weights: np.ndarray
    positions: np.ndarray
    spans: tuple[int, ...]


def _keeps_end(text: TokenizedText, strategy: str) -> bool:
    """Tell whether documents keep their end token: under ``eod``, and as answers to prompts."""
    return text.has_end and (strategy == "eod" or bool(text.prompt_lengths.any()))


class PackedText:
    """All rows of one length; an epoch is every row once, in an order of its own."""

    def __init__(
        self,
        texts: Sequence[TokenizedText],
        row_length: int,
        strategy: str,
        *,
        seed: int,
        pad_token_id: int,
        restart_positions: bool = False,
    ) -> None:
        """Pack the documents of all sources together.

        Args:
            texts: One a source.
            row_length: Tokens a row.
            strategy: See finetune.packing.
            seed: Decides all orders.
            pad_token_id: Fills rows up; never attended to and never trained on.
            restart_positions: Count positions from 0 in every document.

        Raises:
            ValueError: For ``eod`` without end tokens.
        """
        if strategy == "eod" and not all(text.has_end for text in texts):
            raise ValueError(
                "strategy='eod' puts an end-of-document token between documents, and the tokenizer "
                "has none (no eos_token). Use strategy='adaptive' or 'direct', or a tokenizer with "
                "an eos_token."
            )
        self._texts, self._length, self._strategy = texts, row_length, strategy
        self._seed, self._pad, self._restart = seed, pad_token_id, restart_positions
        counts = [text.num_documents for text in texts]
        self._first = np.concatenate(([0], np.cumsum(counts)))
        lengths = np.concatenate([text.lengths + int(_keeps_end(text, strategy)) for text in texts])
        self._rows, self.report = pack(lengths.tolist(), row_length, strategy, seed)
        if not self._rows:
            raise ValueError("The text holds no tokens.")
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    report: PackingReport

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self._rows)

    def row(self, number: int) -> PackedRow:
        """Return the row of that number, which may run over many epochs."""
        epoch, place = divmod(number, len(self._rows))
        if self._order[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))
            self._order = (epoch, order)
        return self._assemble(self._rows[int(self._order[1][place])])

    def _assemble(self, pieces: Sequence[Piece]) -> PackedRow:
        ids = np.full(self._length, self._pad, np.int64)
        weights = np.zeros(self._length, np.float32)
        positions = np.arange(self._length)
        place = 0
        for piece in pieces:
            source = int(np.searchsorted(self._first, piece.document, side="right")) - 1
            document = piece.document - int(self._first[source])
            text = self._texts[source]
            end = place + piece.length
            ids[place:end] = text.piece(document, piece.start, piece.stop)
            in_prompt = max(0, int(text.prompt_lengths[document]) - piece.start)
            weights[place + min(in_prompt, piece.length) : end] = 1.0
            if self._restart:
                positions[place:end] = np.arange(piece.length)
            place = end
        lengths = [piece.length for piece in pieces]
        spans = lengths if self._strategy == "adaptive" else [place]
        padding = [self._length - place] if place < self._length else []
        return PackedRow(
            input_ids=ids, weights=weights, positions=positions, spans=(*spans, *padding)
        )
