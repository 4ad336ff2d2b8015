"""Prompts that say how they are to be read: with a template around them already, or never.

Both are strings, so that OpenCompass can print, join and save them as it does any prompt.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of a rendered conversation."""

    text: str
    """The stretch."""
    is_literal: bool
    """True: the name of a special token that somebody wrote, which means no special token."""


class PromptText(str):
    """A conversation with its chat template, which wrote every special token that there is to be.

    `tokenization.PromptEncoder` reads it piece by piece and adds nothing: no second beginning of
    sequence.
    """

    pieces: tuple[Piece, ...]

    def __new__(cls, pieces: Iterable[Piece]) -> PromptText:
        """Join the pieces.

        Args:
            pieces: In order.
        """
        kept = tuple(pieces)
        text = super().__new__(cls, "".join(piece.text for piece in kept))
        text.pieces = kept
        return text

    def __str__(self) -> str:
        """Return itself, where `str` of another subclass would forget the pieces."""
        return self

    def __getnewargs__(self) -> tuple[tuple[Piece, ...]]:  # type: ignore[override]
        """Let copies keep the pieces."""
        return (self.pieces,)


class VerbatimText(str):
    """A prompt around which no chat template goes, whatever the model's config says."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return itself, where `str` of another subclass would forget what it is."""
        return self
