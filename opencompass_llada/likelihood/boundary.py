"""Where a text's condition ends and what is scored begins, in tokens.

Token ids only. A whole text is tokenised once, as the model would read it, and split at the longest
common token prefix: of the text and its condition alone, or of several texts that differ in their
endings. Counting the condition's own tokens, as common evaluation harnesses do, goes wrong where
the tokenizer merges across the border; splitting by characters needs the place of every token in
the text, which not all tokenizers tell.

In "So the sum is 12" of the five tokens [So, _the, _sum, _is, _12] with the condition "So the sum
is 1", of [So, _the, _sum, _is, _1], the common prefix is [So, _the, _sum, _is] and [_12] is scored.
By counting, all five tokens are the condition's and the "2" is never scored. No token of the
condition holds a character of what is scored; the first scored token may hold the condition's last
characters.
"""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix_length(rows: Sequence[Sequence[int]]) -> int:
    """Return how many leading tokens all rows share.

    ``[1, 2, 3]`` and ``[1, 2, 4, 5]`` share 2.

    Args:
        rows: Token ids, at least one row.
    """
    length = 0
    for tokens in zip(*rows, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length


def split_options(rows: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Split texts into the condition that they share and the rest of each.

    ``[1, 2, 3]`` and ``[1, 2, 4, 5]`` give ``[1, 2]`` and ``[[3], [4, 5]]``. Every rest keeps at
    least one token: ``[1, 2]`` and ``[1, 2, 3]`` give ``[1]`` and ``[[2], [2, 3]]``.

    Args:
        rows: Token ids of at least one text.

    Returns:
        The condition, and the rests in order.

    Raises:
        ValueError: If a text has no tokens.
    """
    if not all(rows):
        raise ValueError("a text to score has no tokens; look at the data set's prompt_template")
    length = min(common_prefix_length(rows), min(map(len, rows)) - 1)
    return list(rows[0][:length]), [list(row[length:]) for row in rows]
