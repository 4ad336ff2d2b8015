"""Which pieces of which documents make up each row: UltraLLaDA's three strategies.

Knows lengths alone; reads no tokens.

Source: UltraLLaDA, arXiv 2510.10481: documents shorter than a row are packed, longer ones cut into
consecutive windows. Differs where the paper says nothing: ``adaptive`` packs by best fit, so that
a document that fits a row is never cut, and pads; ``eod`` and ``direct`` cut the stream of all
documents at the rows' ends and pad the last row alone.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


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
