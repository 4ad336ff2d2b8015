"""Which tokens of a text a point of the curve scores, and which stand before them.

Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencompass_llada.options import build, check_fields, unknown_name_message

TARGETS = ("last", "segment", "whole")


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """One point of a curve over context length, the same whatever the curve's other points are.

    Of a text of 8 tokens 01234567, with a length of 4 and a target of 2 tokens, there are scored
    (given what stands before the bar): ``last`` 45|67, at every length the same tokens;
    ``segment``, previous_length 2: 01|23, so that the segments up to a length make up the text;
    ``whole`` |0123. A second window is 23|45 for ``last`` and |4567 for ``whole``.
    """

    length: int
    """Tokens of prefix and target together."""
    target: str = "last"
    """One of `TARGETS`."""
    target_tokens: int | None = None
    """Tokens scored, for ``last`` alone."""
    previous_length: int | None = None
    """Where the segment begins, for ``segment`` alone."""
    windows_per_text: int = 1
    """Windows taken of a text; they share no scored token. 1 for ``segment``."""

    def __post_init__(self) -> None:
        """Check how the numbers fit together.

        Raises:
            ValueError: With the name, the value, the rule and a valid value.
        """
        check_fields(self, "window ")
        if self.target not in TARGETS:
            raise ValueError(unknown_name_message("target", self.target, TARGETS))
        for name in ("length", "windows_per_text"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.target == "segment" and self.windows_per_text > 1:
            raise ValueError(
                f"windows_per_text={self.windows_per_text} must be 1 with target='segment', whose "
                "segments of all lengths make up one text; take more texts instead (LLADA_TEXTS)."
            )
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

    @property
    def needed_tokens(self) -> int:
        """Tokens of the shortest text that holds all windows."""
        if self.target == "last":
            return self.length + (self.windows_per_text - 1) * (self.target_tokens or 0)
        return self.length * self.windows_per_text

    def check_text(self, size: int, unit: str = "tokens") -> None:
        """Refuse a text that is too short.

        Args:
            size: Of the text; in bytes it is a bound that no text of fewer tokens passes.
            unit: Of the size.

        Raises:
            ValueError: If the text is too short.
        """
        if size < self.needed_tokens:
            raise ValueError(
                f"A text has {size} {unit}, and {self.windows_per_text} windows of {self.length} "
                f"tokens need {self.needed_tokens}; lower the lengths or the number of windows, "
                "raise min_characters (LLADA_MIN_CHARACTERS) to pass over short texts, or give "
                "longer ones."
            )


def parse_window_options(options: Mapping[str, Any]) -> WindowOptions:
    """Read the inferencer's ``window`` option.

    Raises:
        ValueError: For an unknown name (the nearest is named), a missing one or a wrong value.
    """
    return build(WindowOptions, options, "window")


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
    options.check_text(len(token_ids))
    ids, length = list(token_ids), options.length
    for number in range(options.windows_per_text):
        if options.target == "last":
            assert options.target_tokens is not None, "checked on construction"
            end = len(ids) - number * options.target_tokens
            border = end - options.target_tokens
            yield ids[end - length : border], ids[border:end]
        elif options.target == "segment":
            yield ids[: options.previous_length], ids[options.previous_length : length]
        else:
            yield [], ids[number * length : (number + 1) * length]
