"""Weighted cross entropy at the positions that are predicted, a chunk of logits at a time.

A chunk's logits are made again in the backward pass, so that only one chunk's exist at any time:
131,072 tokens of LLaDA's vocabulary would take 33 GB in 16 bit.

Shape suffixes: N predicted positions of all rows, M hidden size, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]


def weighted_cross_entropy(
    head: Head, hidden_NM: Tensor, tokens_N: Tensor, scale_N: Tensor, chunk: int
) -> Tensor:
    """Return the weighted sum of cross entropies.

    Args:
        head: Hidden states to logits.
        hidden_NM: Hidden states of predicted positions, any float dtype.
        tokens_N: int64, the tokens to predict.
        scale_N: float32, weight of each.
        chunk: Positions at a time.

    Returns:
        float32 scalar; 0 with a gradient of 0 where nothing is predicted. Chunks are summed in
        float32: with several the result differs from one by rounding alone.
    """
    if len(tokens_N) <= chunk:
        return _sum(head, hidden_NM, tokens_N, scale_N)
    parts = [
        checkpoint(_sum, head, *part, use_reentrant=False)
        for part in zip(
            hidden_NM.split(chunk), tokens_N.split(chunk), scale_N.split(chunk), strict=True
        )
    ]
    return torch.stack(parts).sum()


def _sum(head: Head, hidden_NM: Tensor, tokens_N: Tensor, scale_N: Tensor) -> Tensor:
    logits_NV = head(hidden_NM).float()
    entropies_N = F.cross_entropy(logits_NV, tokens_N, reduction="none")
    return (entropies_N * scale_N).sum()
