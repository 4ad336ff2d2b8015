"""Makes rows of text: a strategy says which pieces make up a row, and what attends to what.

Source: UltraLLaDA, arXiv 2510.10481; where it says nothing, ``adaptive`` packs by best fit (a
document that fits a row is never cut), ``eod`` and ``direct`` pad the last row alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import pkgutil
import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from opencompass_llada.finetune.recipe import AnswerPadding
from opencompass_llada.finetune.samples import choose_fitting, padded_lengths
from opencompass_llada.options import unknown_name_message


@dataclass(frozen=True, kw_only=True)
class TokenizedText:
    """The documents of one source, each followed by the end-of-document token."""

    tokens: np.ndarray
    """int32, all documents one after another."""
    ends: np.ndarray
    """int64 [documents], where each ends in ``tokens``, its end token included."""
    prompt_lengths: np.ndarray
    """int32 [documents], tokens at its beginning that are never masked."""
    has_end: bool = True  # a tokenizer may have no end token
    from_prompts: bool = False
    """Whether the source has a prompt_field, be every prompt empty."""
    digest: str = ""
    """SHA-256 of the arrays above."""
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    """Digest by name of the files that the text was read from."""
    folder: Path | None = None
    """Where the arrays lie on disk."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document without its end token, int64 [documents]."""
        return np.diff(self.ends, prepend=0) - int(self.has_end)

    @property
    def has_prompts(self) -> bool:
        """Whether its documents are samples: prompts with answers."""
        return self.from_prompts or bool(self.prompt_lengths.any())

    def piece(self, document: int, start: int, stop: int) -> np.ndarray:
        """Return a `DocumentSlice`'s tokens, without end tokens that are not stored."""
        first = int(self.ends[document - 1]) if document else 0
        return self.tokens[first + start : min(first + stop, int(self.ends[document]))]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row before masking."""

    input_ids: np.ndarray
    """int64 [length]; padding at the end."""
    weights: np.ndarray
    """float32 [length], of each position's loss; 0 on padding, prompts and questions."""
    positions: np.ndarray | None = None
    """int64 [length]; None for 0 to the end."""
    spans: tuple[int, ...] | None = None
    """Tokens that attend to each other, run by run; None for the whole row."""


class DocumentSlice(NamedTuple):
    """Tokens start .. stop - 1 of a document; those that it has not are end tokens."""

    document: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens."""
        return self.stop - self.start


@dataclass(frozen=True)
class TokenWindows:
    """Random windows over the joined documents of several sources, of each a share."""

    texts: Sequence[TokenizedText]
    shares: Sequence[float]

    def draw(self, length: int, rng: random.Random) -> np.ndarray:
        """Draw a window, int32 [length]; a source shorter than that is repeated."""
        array = rng.choices(self.texts, self.shares)[0].tokens
        start = rng.randrange(max(1, len(array) - length))
        return np.resize(array[start : start + length], length)


class PackedRows(Sequence[list[DocumentSlice]]):
    """The pieces of each row in three arrays, which processes share and which stay small."""

    def __init__(self, rows: Sequence[Sequence[DocumentSlice]]) -> None:
        """Copy the pieces of all rows."""
        numbers = itertools.chain.from_iterable(itertools.chain.from_iterable(rows))
        #: int64 [pieces, 3], the fields of a `DocumentSlice`.
        self.pieces = np.fromiter(numbers, np.int64).reshape(-1, 3)
        self._ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))

    def __len__(self) -> int:
        """Rows."""
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        """Return a row's pieces."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._ends[index - 1]) if index else 0
        return [DocumentSlice(*piece) for piece in self.pieces[start : self._ends[index]].tolist()]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece, int64 [pieces]."""
        return self.pieces[:, 2] - self.pieces[:, 1]

    @property
    def sizes(self) -> np.ndarray:
        """Pieces of each row, int64 [rows]."""
        return np.diff(self._ends, prepend=0)


class PackingStrategy:
    """Packs documents into rows; an epoch is every row once, in an order of its own.

    A subclass says how documents are cut (`pack`), and where it differs what attends to what, where
    positions begin and what the loss weighs. Recipes name it by its key in `STRATEGIES` or by a
    dotted path.
    """

    #: A document attends to itself alone, not to the whole row.
    attends_documents: ClassVar[bool] = False
    #: Documents keep the end token that follows them; a tokenizer without one is refused.
    keeps_ends: ClassVar[bool] = False
    #: Rows are drawn from the sources by ``shares``; other strategies get a source each
    #: (`mixture.Mixture`) where sources have weights.
    draws_sources: ClassVar[bool] = False
    #: Rows begin inside documents, so that prompts and answers are torn apart.
    cuts_anywhere: ClassVar[bool] = False

    def __init__(
        self,
        texts: Sequence[TokenizedText],
        row_length: int,
        *,
        seed: int,
        pad_token_id: int,
        restart_positions: bool = False,
        shares: Sequence[float] | None = None,
        answer_padding: AnswerPadding | None = None,
        skips_long_samples: bool = False,
    ) -> None:
        """Pack the documents of all sources together.

        ``pad_token_id`` fills rows up; ``restart_positions`` counts from 0 in every document;
        ``shares`` are those of each source among the rows, where rows are drawn. A sample that is
        longer than a row is an error or skipped; ``answer_padding`` follows the others.
        """
        self.texts, self.row_length, self.seed = texts, row_length, seed
        self.shares = shares or [1.0] * len(texts)
        self.pad_token_id, self._restart = pad_token_id, restart_positions
        self._answer_padding, self._skips = answer_padding, skips_long_samples
        self._num_skipped = 0
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))
        self.prepare()

    @classmethod
    def name(cls) -> str:
        """Return the key of `STRATEGIES`; the class's name where it has none."""
        return next((name for name, own in STRATEGIES.items() if own is cls), cls.__name__)

    def prepare(self) -> None:
        """Pack once, before the first row."""
        if self.keeps_ends and not all(text.has_end for text in self.texts):
            raise ValueError(
                f"strategy={self.name()!r} puts an end-of-document token between "
                "documents, and the tokenizer has none (no eos_token). Use strategy='adaptive' or "
                "'direct', or a tokenizer with an eos_token."
            )
        self._first = np.cumsum([0, *(len(text.ends) for text in self.texts)])
        lengths = np.concatenate([self._lengths(text) for text in self.texts])
        rng = random.Random(f"packing-{self.seed}")
        self._rows = PackedRows(self.pack(lengths.tolist(), self.row_length, rng))
        if not len(self._rows):
            left_out = f" ({self._num_skipped} samples are longer than a row)"
            raise ValueError(f"The text holds no tokens{left_out if self._num_skipped else ''}.")
        are_samples = np.repeat([t.has_prompts for t in self.texts], np.diff(self._first))
        documents = self._rows.pieces[:, 0]
        is_cut = are_samples[documents] & (self._rows.lengths != lengths[documents])
        if is_cut.any():
            raise ValueError(
                f"strategy={self.name()!r} cuts sample {documents[is_cut.argmax()]}, a prompt with "
                "its answer; use strategy=adaptive, or let pack keep samples whole."
            )

    def _lengths(self, text: TokenizedText) -> np.ndarray:
        """Return the tokens of a source's documents in a row, int64; 0 for those left out."""
        # Documents keep their end token where it is wanted, and as answers to prompts.
        if not text.has_prompts:
            return text.lengths + int(text.has_end and self.keeps_ends)
        lengths = text.lengths + int(text.has_end)
        fits = choose_fitting(lengths, self.row_length, skips=self._skips)
        self._num_skipped += int((~fits).sum())
        if self._answer_padding is not None:
            if not text.has_end:
                raise ValueError(
                    "answer_padding: answers are padded with the end-of-document token, and the "
                    "tokenizer has none (no eos_token). Leave it out, or use a tokenizer with one."
                )
            rng = np.random.default_rng([self.seed, 0xA5])
            padding, room = self._answer_padding, self.row_length
            lengths[fits] = padded_lengths(lengths[fits], padding, room, rng)
        return np.where(fits, lengths, 0)

    @property
    def samples_per_row(self) -> float:
        """The mean number of pieces in a row, which `normalize_by` counts as samples."""
        return len(self._rows.pieces) / len(self._rows)

    def epochs(self, num_rows: int) -> list[float]:
        """Return how often the text was gone through when so many rows were made.

        One figure for all sources, which are packed together; none where rows are drawn.
        """
        return [num_rows / len(self._rows)] if hasattr(self, "_rows") else []

    def pack(
        self, lengths: Sequence[int], row_length: int, rng: random.Random
    ) -> list[list[DocumentSlice]]:
        """Return the pieces of each row; lengths of documents include an end token where wanted."""
        raise NotImplementedError

    def spans(self, pieces: Sequence[DocumentSlice]) -> list[int]:
        """Return the tokens that attend to each other, run by run, without padding."""
        lengths = [piece.length for piece in pieces]
        return lengths if self.attends_documents else [sum(lengths)]

    def positions(self, pieces: Sequence[DocumentSlice]) -> np.ndarray:
        """Return the positions of the pieces' tokens, int64."""
        if self._restart:
            return np.concatenate([np.arange(piece.length) for piece in pieces])
        return np.arange(sum(piece.length for piece in pieces))

    def weights(self, piece: DocumentSlice, prompt_length: int) -> np.ndarray:
        """Return the weight of each token's loss, float32: 0 in the document's prompt."""
        places = np.arange(piece.start, piece.stop)
        return (places >= prompt_length).astype(np.float32)

    def row(self, number: int, rng: random.Random) -> Row:
        """Return the row of that number, which may run over many epochs."""
        epoch, index = divmod(number, len(self._rows))
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self._rows))
            self._order = (epoch, order)
        pieces = self._rows[int(self._order[1][index])]
        ids = np.full(self.row_length, self.pad_token_id, np.int64)
        weights = np.zeros(self.row_length, np.float32)
        positions = np.arange(self.row_length)
        place = 0
        for piece in pieces:
            source = int(np.searchsorted(self._first, piece.document, side="right")) - 1
            document, text = piece.document - int(self._first[source]), self.texts[source]
            end = place + piece.length
            tokens = text.piece(document, piece.start, piece.stop)
            ids[place : place + len(tokens)] = tokens  # the row is full of end tokens already
            weights[place:end] = self.weights(piece, int(text.prompt_lengths[document]))
            place = end
        positions[:place] = self.positions(pieces)
        padding = (self.row_length - place,) if place < self.row_length else ()
        spans = (*self.spans(pieces), *padding)
        return Row(input_ids=ids, weights=weights, positions=positions, spans=spans)

    def describe(self) -> str | None:
        """Return one line on what is packed, padded and cut; None where nothing is packed."""
        num_tokens = int(self._rows.lengths.sum())
        room = len(self._rows) * self.row_length
        num_packed = int((self._rows.sizes > 1).sum())
        left_out = f"; {self._num_skipped} samples, longer than a row, are left out"
        left_out = left_out if self._num_skipped else ""
        num_cut = int((np.bincount(self._rows.pieces[:, 0]) > 1).sum())
        return (
            f"Packing {self.name()}: {int(self._first[-1])} documents ({num_tokens} "
            f"tokens) in {len(self._rows)} rows of {self.row_length}; {num_packed} rows hold "
            f"several pieces, {num_cut} documents are cut, {room - num_tokens} tokens "
            f"({100 * (room - num_tokens) / room:.1f} %) are padding{left_out}"
        )


class Adaptive(PackingStrategy):
    """Puts each piece, the longest first, into the row that it fills best.

    Documents of 7, 3, 2, 4 and 1 tokens in rows of 4: (0: 0-4), (3: 0-4), (0: 4-7 and 4: 0-1),
    (1: 0-3), (2: 0-2).
    """

    attends_documents = True

    def pack(
        self, lengths: Sequence[int], row_length: int, rng: random.Random
    ) -> list[list[DocumentSlice]]:
        """Pack by best fit, the rows in random order."""
        pieces = [
            DocumentSlice(document, start, min(start + row_length, length))
            for document, length in enumerate(lengths)
            for start in range(0, length, row_length)
        ]
        pieces.sort(key=lambda piece: (-piece.length, piece.document, piece.start))
        rows: list[list[DocumentSlice]] = []
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
        rng.shuffle(rows)
        return rows


class Direct(PackingStrategy):
    """Cuts the stream of shuffled documents at the rows' ends."""

    def pack(
        self, lengths: Sequence[int], row_length: int, rng: random.Random
    ) -> list[list[DocumentSlice]]:
        """Cut the documents one after another."""
        order = list(range(len(lengths)))
        rng.shuffle(order)
        rows: list[list[DocumentSlice]] = []
        room = 0
        for document in order:
            start = 0
            while start < lengths[document]:
                if room == 0:
                    rows.append([])
                    room = row_length
                stop = min(lengths[document], start + room)
                rows[-1].append(DocumentSlice(document, start, stop))
                room, start = room - (stop - start), stop
        return rows


class EndOfDocument(Direct):
    """Cuts the same stream, with an end token after each document."""

    keeps_ends = True


class Windows(PackingStrategy):
    """Takes random windows of the joined documents, for training from scratch."""

    cuts_anywhere = True
    draws_sources = True

    def prepare(self) -> None:
        """Pack nothing."""
        self._windows = TokenWindows(self.texts, self.shares)

    @property
    def samples_per_row(self) -> float:
        """One: the window."""
        return 1.0

    def row(self, number: int, rng: random.Random) -> Row:
        """Draw a window; the number is not asked."""
        window = self._windows.draw(self.row_length, rng).astype(np.int64)
        return Row(input_ids=window, weights=np.ones(self.row_length, np.float32))

    def describe(self) -> str | None:
        """Return None: nothing is packed."""
        return None


STRATEGIES: dict[str, type[PackingStrategy]] = {
    "windows": Windows,
    "adaptive": Adaptive,
    "eod": EndOfDocument,
    "direct": Direct,
}


def find_strategy(name: str) -> type[PackingStrategy]:
    """Return the strategy of a key of `STRATEGIES`, or of a dotted path."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    found = find_class(name) if "." in name else None
    if not isinstance(found, type) or not issubclass(found, PackingStrategy):
        raise ValueError("recipe: " + unknown_name_message("strategy", name, STRATEGIES))
    return found


def find_class(path: str) -> Any:
    """Return what a dotted path names, or None; a ValueError if its module lacks an import."""
    module, _, name = path.rpartition(".")
    try:
        return pkgutil.resolve_name(f"{module}:{name}")
    except (AttributeError, ValueError):
        return None
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            return None
        raise ValueError(
            f"recipe: {path!r} cannot be imported: {error}. Install what its module needs, or "
            "correct the module."
        ) from error
