"""Writes a sample's prompt for a reader that is shown less of it: floors that a score is held to.

``full`` is shown all. ``last_window`` is shown the end of the context that fits the window which
the model was pre-trained for: a model that scores no better on the full prompt has not used its
length. ``no_context`` is shown head and question alone. Runs without OpenCompass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from opencompass_llada.options import check_at_least, check_fields, reject_unknown

READERS = ("full", "last_window", "no_context")
#: Prompts that are written and counted to find the longest end; see `_find_end`.
MAX_ENDS_TRIED = 16


class Tokenizer(Protocol):
    """What `benchmarks.counting` loads."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a piece of text."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        ...

    def count(self, text: str, *, as_turn: bool = False) -> int:
        """Return how many tokens a model sees for a whole prompt."""
        ...


@dataclass(frozen=True, kw_only=True)
class PromptParts:
    """A prompt, which is head + context + question."""

    head: str
    """Instructions, which every reader is shown."""
    context: str
    """What grows with the length."""
    question: str
    """With the beginning of the answer, where there is one."""

    @property
    def whole(self) -> str:
        """The prompt."""
        return self.head + self.context + self.question

    @property
    def lengths(self) -> tuple[int, int]:
        """Characters of head and question; `split_prompt` gets the parts back."""
        return len(self.head), len(self.question)


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """Keywords of a data set that say who reads it; options classes derive from this."""

    reader: str = "full"
    """One of `READERS`."""
    window: int | None = None
    """Tokens of prompt and answer that the ``last_window`` reader is shown: what the model was
    pre-trained for, before any extension."""
    window_reserve: int = 0
    """Tokens of the window that are kept for the answer."""
    window_tokenizer: str | None = None
    """What counts the window, the model's own; None for the data set's."""
    window_chat: bool = False
    """Whether the tokens of the tokenizer's chat template count as part of the window."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        reject_unknown("reader", [self.reader], READERS)
        check_at_least(self, 1, "window")
        check_at_least(self, 0, "window_reserve")
        if (self.reader == "last_window") != (self.window is not None):
            raise ValueError(
                f"reader={self.reader!r} with window={self.window}: the reader 'last_window' has a "
                "window of so many tokens, and no other has one."
            )

    def read(
        self,
        parts: PromptParts,
        load: Callable[[str], Tokenizer],
        name: str | None = None,
        *,
        chat: bool = False,
    ) -> str:
        """Return the reader's prompt; ``name`` is the tokenizer of the data set, loaded if needed.

        With ``chat`` the chat template's tokens count whatever ``window_chat`` says.

        Raises:
            ValueError: If nothing says what counts the window, or it has no room.
        """
        if self.window is None:
            return parts.head + parts.question if self.reader == "no_context" else parts.whole
        name = self.window_tokenizer or name
        if name is None:
            raise ValueError(
                f"window={self.window} of a data set that counts no tokens: give window_tokenizer, "
                "the path of the model's tokenizer."
            )
        return read_as(
            parts,
            self.reader,
            window=self.window,
            answer_length=self.window_reserve,
            tokenizer=load(name),
            as_turn=chat or self.window_chat,
        )


def split_prompt(prompt: str, lengths: tuple[int, int]) -> PromptParts:
    """Return the parts of a prompt, given `PromptParts.lengths`."""
    begin, end = lengths[0], len(prompt) - lengths[1]
    return PromptParts(head=prompt[:begin], context=prompt[begin:end], question=prompt[end:])


def read_as(
    parts: PromptParts,
    reader: str,
    *,
    window: int | None,
    answer_length: int,
    tokenizer: Tokenizer,
    as_turn: bool = False,
) -> str:
    """Return the prompt that a reader of `READERS` is given.

    Args:
        parts: The whole prompt's.
        reader: Who reads.
        window: Tokens of prompt and answer that ``last_window`` is shown at most.
        answer_length: Tokens of the answer.
        tokenizer: What counts.
        as_turn: Count the chat template around the prompt, too.

    Raises:
        ValueError: If the window has no room for head, question and answer.
    """
    reject_unknown("reader", [reader], READERS)
    if reader == "full":
        return parts.whole
    if reader == "no_context":
        return parts.head + parts.question
    if window is None:
        raise ValueError("reader='last_window' needs window=, the tokens that it is shown.")
    count = partial(tokenizer.count, as_turn=as_turn)
    room = window - answer_length
    if (needed := count(parts.head + parts.question)) > room:
        raise ValueError(
            f"window={window} has no room for the prompt without its context, of {needed} tokens, "
            f"and an answer of {answer_length}: no reader of the last window can be asked this. "
            f"Use a window of at least {needed + answer_length}."
        )
    end = _find_end(parts, count, tokenizer, room=room, needed=needed)
    return parts.head + end + parts.question


def _find_end(
    parts: PromptParts,
    count: Callable[[str], int],
    tokenizer: Tokenizer,
    *,
    room: int,
    needed: int,
) -> str:
    """Return the longest end of the context with which the prompt has at most ``room`` tokens.

    Joining pieces of text may merge or split tokens at the seams, so that it is looked for: the
    total of each try says by how many tokens the next is longer or shorter.
    """
    context = parts.context
    near = _cut_near(context, tokenizer, room)
    tokens = tokenizer.encode(near)

    def take(num_tokens: int) -> str:
        # A character that is cut in two decodes to others: only the length is taken from there.
        size = len(tokenizer.decode(tokens[len(tokens) - num_tokens :])) if num_tokens else 0
        return context[max(len(context) - size, 0) :]

    if near == context and count(parts.whole) <= room:
        return context
    best, best_size, size = "", 0, room - needed
    tried = {0}
    for _ in range(MAX_ENDS_TRIED):
        size = min(max(size, 0), len(tokens))
        if size in tried:
            size = best_size + 1
            if size in tried or size > len(tokens):
                break
        tried.add(size)
        end = take(size)
        total = count(parts.head + end + parts.question)
        if total <= room and len(end) > len(best):
            best, best_size = end, size
        if total == room:
            break
        size += room - total
    return best


def _cut_near(context: str, tokenizer: Tokenizer, room: int) -> str:
    """Return an end of the context of surely more than ``room`` tokens, or all of it.

    A context may be hundreds of times as long as the window, and is not tokenized whole.
    """
    size = 8 * room
    while size < len(context):
        end = context[len(context) - size :]
        if len(tokenizer.encode(end)) > room + 1:
            return end
        size *= 2
    return context
