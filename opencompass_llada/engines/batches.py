"""Which prompts go together: like lengths, as many as allowed."""

from __future__ import annotations

from collections.abc import Sequence


def length_buckets(
    lengths: Sequence[int], batch_size: int, *, spread: float = 2.0
) -> list[list[int]]:
    """Sort prompts into batches of like lengths.

    Rows of a batch share their small passes, whose time goes by the longest row, and stay together
    until all are done; full passes cost each row its own tokens whatever the batch. Lengths
    5, 90, 6, 80 in batches of 3 give ``[[0, 2], [3, 1]]``.

    Args:
        lengths: Tokens of each prompt.
        batch_size: Most prompts of a batch, at least 1.
        spread: Longest over shortest length of a batch, at most; empty prompts count as 1.

    Returns:
        Places of the prompts, shortest first; equal lengths stay in their order.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        length = max(lengths[place], 1)
        last = batches[-1] if batches else None
        if last and len(last) < batch_size and length <= spread * max(lengths[last[0]], 1):
            last.append(place)
        else:
            batches.append([place])
    return batches
