"""Cuts a finished generation, which fills all of its positions, where it should have ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile


def cut_at_token_ids(token_ids: Sequence[int], stop_ids: Collection[int]) -> list[int]:
    """Return the ids before the first one that is in ``stop_ids``, in a new list."""
    return list(takewhile(lambda token_id: token_id not in stop_ids, token_ids))


def cut_at_stop_strings(text: str, stop_strings: Iterable[str]) -> str:
    """Return the text before the stop string, none of them empty, that begins first."""
    starts = [text.find(stop) for stop in stop_strings]
    return text[: min((start for start in starts if start >= 0), default=len(text))]


def cut_is_settled(text: str, stop_strings: Sequence[str]) -> bool:
    """Return whether a text is cut in one place whatever may follow it.

    ``"ab"`` is settled with the stop string ``"b"``, and not with ``"b"`` and ``"abc"``, since a
    following ``"c"`` would move the cut to the front.
    """
    cut = len(cut_at_stop_strings(text, stop_strings))
    if cut == len(text):
        return False
    return not any(
        stop.startswith(text[start:])
        for stop in stop_strings
        for start in range(max(len(text) - len(stop) + 1, 0), cut)
    )


def merge_stop_strings(*groups: Iterable[str] | str | None) -> tuple[str, ...]:
    """Join lists of stop strings, bare strings and Nones, without repeats, in their order.

    An empty string would cut every answer to nothing, and is refused.
    """
    merged: dict[str, None] = {}
    for group in groups:
        for stop in [group] if isinstance(group, str) else (group or []):
            if not isinstance(stop, str) or not stop:
                raise ValueError(f"stop string {stop!r} must be a non-empty string; remove it")
            merged[stop] = None
    return tuple(merged)
