"""Draws which target tokens are masked: how many, then which.

Random numbers come from a generator on the CPU, so that every device draws the same masks.
"""

from __future__ import annotations

import torch


def stratified_counts(
    num_tokens: int, num_strata: int, generator: torch.Generator
) -> list[tuple[int, int]]:
    """Draw numbers of masked tokens, two in each stratum of the mask ratio.

    Stratum h holds the ratios from h / num_strata to (h + 1) / num_strata. A ratio u, uniform in
    it, becomes the count 1 + floor(u * num_tokens), so that over all strata a count is uniform on
    1..num_tokens as the objective asks.

    Args:
        num_tokens: Tokens of the target, at least 1.
        num_strata: At least 1.
        generator: Source of randomness, on the CPU.

    Returns:
        Pairs of independent counts, one pair a stratum. With 4 tokens and 2 strata, say:
        [(1, 2), (4, 3)].
    """
    uniform = torch.rand(num_strata, 2, generator=generator, dtype=torch.float64)
    ratios = (uniform + torch.arange(num_strata)[:, None]) / num_strata
    counts = (ratios * num_tokens).floor().long().clamp(max=num_tokens - 1) + 1
    return [(int(first), int(second)) for first, second in counts.tolist()]


def draw_places(num_tokens: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw which tokens are masked: ``count`` of ``num_tokens`` without replacement, ascending.

    Returns:
        int64 [count].
    """
    return torch.randperm(num_tokens, generator=generator)[:count].sort().values
