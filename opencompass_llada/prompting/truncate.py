"""Shortens prompts that are longer than a limit, and answers to where they should have ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from opencompass_llada.options import reject_unknown

TRUNCATION_POLICIES = ("middle", "left", "right", "error")


class PromptTooLongError(ValueError):
    """A prompt is longer than the limit and the policy is ``error``."""


@dataclass(frozen=True, kw_only=True)
class LengthLimit:
    """How long a prompt may be and what happens to a longer one."""

    max_seq_len: int | None
    """Tokens; None for no limit."""
    policy: str
    prompt_only: bool
    """Whether max_seq_len bounds the prompt, as the papers' and OpenCompass's drop_middle has it,
    and not prompt and generation together."""

    def __post_init__(self) -> None:
        """Check the policy and the limit."""
        reject_unknown("truncation policy", [self.policy], TRUNCATION_POLICIES)
        if self.max_seq_len is not None and self.max_seq_len < 1:
            raise ValueError(f"max_seq_len={self.max_seq_len} must be a positive integer, or None")

    def describe(self) -> str:
        """Return the limit in words."""
        whose = "are" if self.prompt_only else "with their generation are"
        return f"{whose} limited to max_seq_len={self.max_seq_len} tokens, policy {self.policy}"

    def prompt_limit(self, generation_length: int) -> int | None:
        """Return the most prompt tokens beside a generation, at least 1; None for no limit."""
        if self.max_seq_len is None or self.prompt_only:
            return self.max_seq_len
        limit = self.max_seq_len - generation_length
        if limit < 1:
            raise ValueError(
                f"max_seq_len={self.max_seq_len} leaves no room for a prompt beside "
                f"{generation_length} generated tokens; raise max_seq_len to "
                f"{generation_length + 1} or more, or lower max_out_len"
            )
        return limit


def truncate(token_ids: Sequence[int], *, limit: int, policy: str) -> list[int]:
    """Return at most ``limit`` tokens of a prompt.

    With limit 4, the prompt ``[1, 2, 3, 4, 5, 6]`` becomes ``[1, 2, 5, 6]`` under ``middle`` (an
    odd limit keeps the extra token at the end, as in the papers' wrappers), ``[3, 4, 5, 6]`` under
    ``left`` and ``[1, 2, 3, 4]`` under ``right``. Under ``error`` it is a PromptTooLongError.
    """
    reject_unknown("truncation policy", [policy], TRUNCATION_POLICIES)
    if limit < 1:
        raise ValueError(f"limit={limit} leaves no room for a prompt; it must be at least 1 token")
    if len(token_ids) <= limit:
        return list(token_ids)
    if policy == "error":
        raise PromptTooLongError(
            f"A prompt has {len(token_ids)} tokens and the limit is {limit}. Raise max_seq_len by "
            f"{len(token_ids) - limit} or more to take it whole, or choose truncation='middle', "
            "'left' or 'right' to shorten it."
        )
    head = {"left": 0, "right": limit, "middle": limit // 2}[policy]
    return [*token_ids[:head], *token_ids[len(token_ids) - (limit - head) :]]


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
