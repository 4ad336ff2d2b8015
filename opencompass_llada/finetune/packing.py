"""Rows of packed documents: which pieces make up each row, its tokens, what attends to what.

Knows lengths alone; reads no tokens.

Source: UltraLLaDA, arXiv 2510.10481: documents shorter than a row are packed, longer ones cut into
consecutive windows. Differs where the paper says nothing: ``adaptive`` packs by best fit, so that a
document that fits a row is never cut, and pads; ``eod`` and ``direct`` cut the stream of all
documents at the rows' ends and pad the last row alone.

Knows documents of several sources and rows of one length; masks nothing.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from opencompass_llada.finetune.token_cache import TokenizedText


class Piece(NamedTuple):
    """Tokens start .. stop - 1 of a document; one more than it has is its end token."""

    document: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens."""
        return self.stop - self.start


Row = list[Piece]


@dataclass(frozen=True, kw_only=True)
class PackingReport:
    """What packing did with the documents.

    Attributes:
        strategy: Its name.
        row_length: Tokens a row.
        num_documents: Documents.
        num_rows: Rows.
        num_packed: Rows of more than one piece.
        num_cut: Documents that no row holds whole.
        num_tokens: Tokens of documents, end tokens included where the strategy has them.
        num_padding: Tokens of padding.
    """

    strategy: str
    row_length: int
    num_documents: int
    num_rows: int
    num_packed: int
    num_cut: int
    num_tokens: int
    num_padding: int

    def describe(self) -> str:
        """Return one line for the log."""
        share = 100 * self.num_padding / max(1, self.num_rows * self.row_length)
        return (
            f"Packing {self.strategy}: {self.num_documents} documents ({self.num_tokens} tokens) "
            f"in {self.num_rows} rows of {self.row_length}; {self.num_packed} rows hold several "
            f"pieces, {self.num_cut} documents are cut, {self.num_padding} tokens ({share:.1f} %) "
            "are padding"
        )


def pack(
    lengths: Sequence[int], row_length: int, strategy: str, seed: int
) -> tuple[list[Row], PackingReport]:
    """Make rows of documents.

    Five documents of 7, 3, 2, 4 and 1 tokens in rows of 4, ``adaptive``: (0: 0-4), (3: 0-4),
    (0: 4-7 and 4: 0-1), (1: 0-3), (2: 0-2).

    Args:
        lengths: Tokens of each document, its end token included where one is wanted.
        row_length: Tokens a row.
        strategy: ``adaptive``, ``eod`` or ``direct``.
        seed: Decides the order of documents (eod, direct) or of rows (adaptive).

    Returns:
        The rows in the order of training, and the report.
    """
    if strategy == "adaptive":
        rows = _best_fit(lengths, row_length)
        random.Random(f"packing-{seed}").shuffle(rows)
    else:
        order = list(range(len(lengths)))
        random.Random(f"packing-{seed}").shuffle(order)
        documents = [(number, int(lengths[number])) for number in order]
        rows = list(_stream(documents, row_length))
    pieces = [piece for row in rows for piece in row]
    num_tokens = sum(piece.length for piece in pieces)
    times: dict[int, int] = {}
    for piece in pieces:
        times[piece.document] = times.get(piece.document, 0) + 1
    return rows, PackingReport(
        strategy=strategy,
        row_length=row_length,
        num_documents=len(lengths),
        num_rows=len(rows),
        num_packed=sum(len(row) > 1 for row in rows),
        num_cut=sum(count > 1 for count in times.values()),
        num_tokens=num_tokens,
        num_padding=len(rows) * row_length - num_tokens,
    )


def _best_fit(lengths: Sequence[int], row_length: int) -> list[Row]:
    """Put each piece, the longest first, into the row that it fills best."""
    pieces = []
    for document, length in enumerate(lengths):
        for start in range(0, int(length), row_length):
            pieces.append(Piece(document, start, min(start + row_length, int(length))))
    pieces.sort(key=lambda piece: (-piece.length, piece.document, piece.start))
    rows: list[Row] = []
    open_rows: list[tuple[int, int]] = []  # (room, number), ascending
    for piece in pieces:
        place = bisect_left(open_rows, (piece.length, 0))
        if place == len(open_rows):
            rows.append([])
            room, number = row_length, len(rows) - 1
        else:
            room, number = open_rows.pop(place)
        rows[number].append(piece)
        if room > piece.length:
            insort(open_rows, (room - piece.length, number))
    return rows


def _stream(documents: Sequence[tuple[int, int]], row_length: int) -> Iterator[Row]:
    """Cut the documents, one after another, at the rows' ends."""
    row: Row = []
    room = row_length
    for document, length in documents:
        start = 0
        while start < length:
            stop = min(length, start + room)
            row.append(Piece(document, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield row
                row, room = [], row_length
    if row:
        yield row


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
