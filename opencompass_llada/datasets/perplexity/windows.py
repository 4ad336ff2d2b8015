"""Which tokens of a text a point of the curve scores, and which stand before them.

Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from opencompass_llada.options import reject_unknown, unknown_name_message

TARGETS = ("last", "segment", "whole")


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """One point of a curve over context length.

    A text is cut into windows of ``longest_length`` tokens. With a window of 8 tokens 01234567, a
    length of 4 and a target of 2 tokens, there are scored (given what stands before the bar):
    ``last`` 45|67, at every length the same tokens; ``segment``, previous_length 2: 01|23, so
    that the segments up to a length make up the text; ``whole`` |0123.
    """

    length: int
    """Tokens of prefix and target together."""
    longest_length: int
    """Length of the curve's last point."""
    target: str = "last"
    """One of `TARGETS`."""
    target_tokens: int | None = None
    """Tokens scored, for ``last`` alone."""
    previous_length: int | None = None
    """Where the segment begins, for ``segment`` alone."""
    windows_per_text: int = 1
    """Windows taken of a text, one after the other."""

    def __post_init__(self) -> None:
        """Check how the numbers fit together.

        Raises:
            ValueError: With the name, the value, the rule and a valid value.
        """
        if self.target not in TARGETS:
            raise ValueError(unknown_name_message("target", self.target, TARGETS))
        if not 1 <= self.length <= self.longest_length:
            raise ValueError(
                f"length={self.length} must be from 1 to longest_length={self.longest_length}."
            )
        if self.windows_per_text < 1:
            raise ValueError(f"windows_per_text={self.windows_per_text} must be at least 1.")
        for name, target in (("target_tokens", "last"), ("previous_length", "segment")):
            if (getattr(self, name) is None) == (self.target == target):
                raise ValueError(
                    f"{name}={getattr(self, name)} with target={self.target!r}: target={target!r} "
                    "needs it, and it has no effect with others."
                )
        if self.target_tokens is not None and not 1 <= self.target_tokens <= self.length:
            raise ValueError(
                f"target_tokens={self.target_tokens} must be from 1 to length={self.length}, the "
                "shortest context; use a shorter target or longer lengths."
            )
        if self.previous_length is not None and not 0 <= self.previous_length < self.length:
            raise ValueError(
                f"previous_length={self.previous_length} must be from 0 to below "
                f"length={self.length}."
            )


def parse_window_options(options: Mapping[str, Any]) -> WindowOptions:
    """Read the inferencer's ``window`` option.

    Raises:
        ValueError: For an unknown name (the nearest is named), a missing one or a wrong value.
    """
    reject_unknown("window option", options, [field.name for field in fields(WindowOptions)])
    try:
        return WindowOptions(**options)
    except TypeError as error:
        raise ValueError(f"window options: {error}") from error


def cut_windows(
    token_ids: Sequence[int], options: WindowOptions
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (prefix, target) for each window of a text.

    Args:
        token_ids: The whole text.
        options: What to take.

    Raises:
        ValueError: If the text is too short.
    """
    needed = options.windows_per_text * options.longest_length
    if len(token_ids) < needed:
        raise ValueError(
            f"A text has {len(token_ids)} tokens, and {options.windows_per_text} windows of "
            f"{options.longest_length} need {needed}; lower the lengths or the number of windows, "
            "raise min_characters (LLADA_MIN_CHARACTERS), or give longer texts."
        )
    for number in range(options.windows_per_text):
        start = number * options.longest_length
        yield _cut(list(token_ids[start : start + options.longest_length]), options)


def _cut(window: list[int], options: WindowOptions) -> tuple[list[int], list[int]]:
    if options.target == "last":
        assert options.target_tokens is not None, "checked on construction"
        row = window[-options.length :]
        return row[: -options.target_tokens], row[-options.target_tokens :]
    start = options.previous_length or 0
    return window[:start], window[start : options.length]
