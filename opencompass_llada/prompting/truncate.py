"""Shorten prompts that are longer than a limit, counted in tokens.

Knows token ids only: not where the limit comes from, nor what the tokens mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from opencompass_llada.options import unknown_name_message

TRUNCATION_POLICIES = ("middle", "left", "right", "error")


class PromptTooLongError(ValueError):
    """A prompt is longer than the limit and the policy is ``error``."""


def check_truncation_policy(policy: str) -> str:
    """Return the policy if it is a known one.

    Raises:
        ValueError: For an unknown policy; the message names the nearest valid one.
    """
    if policy not in TRUNCATION_POLICIES:
        raise ValueError(unknown_name_message("truncation policy", policy, TRUNCATION_POLICIES))
    return policy


def truncate(token_ids: Sequence[int], *, limit: int, policy: str) -> list[int]:
    """Return at most ``limit`` tokens of a prompt.

    With limit 4, the prompt ``[1, 2, 3, 4, 5, 6]`` becomes ``[1, 2, 5, 6]`` under ``middle`` (the
    middle goes; an odd limit keeps the extra token at the end, as in the LongLLaDA and UltraLLaDA
    wrappers), ``[3, 4, 5, 6]`` under ``left`` (the start goes) and ``[1, 2, 3, 4]`` under
    ``right`` (the end goes).

    Args:
        token_ids: The prompt.
        limit: The most tokens to keep, at least 1.
        policy: One of ``TRUNCATION_POLICIES``.

    Returns:
        A new list; equal to the prompt where it fits.

    Raises:
        PromptTooLongError: If the prompt does not fit and the policy is ``error``.
        ValueError: If the limit is below 1 or the policy is unknown.
    """
    check_truncation_policy(policy)
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
    if policy == "left":
        return list(token_ids[len(token_ids) - limit :])
    if policy == "right":
        return list(token_ids[:limit])
    head = limit // 2
    return [*token_ids[:head], *token_ids[len(token_ids) - (limit - head) :]]
