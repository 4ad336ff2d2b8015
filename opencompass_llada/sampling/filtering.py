"""Top-p and top-k: which tokens may be drawn at a position.

The published rules of Dream (``top_p_logits`` and ``top_k_logits`` in generation_utils.py of
Dream-org/Dream-v0-Instruct-7B): top-p first, on the distribution after temperature, then top-k.
Differs in that it works in float64 where that code stays in the logits' dtype (bfloat16, whose
sums over 150,000 entries are coarse), and that of equal tokens at top-p's edge the lowest ids stay.

Shape letters: P positions of one row, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def keep_likely(
    logits_PV: Tensor, *, temperature: float, top_p: float | None, top_k: int | None
) -> Tensor:
    """Return the logits with minus infinity at the tokens that may not be drawn.

    Of probabilities 0.5, 0.3, 0.15, 0.05 a top-p of 0.7 keeps the first two (0.5 alone falls
    short of it) and a top-k of 3 the first three.

    Args:
        logits_PV: Logits of any float type; not changed.
        temperature: At least 0; 0 is taken as 1 here.
        top_p: Keep the fewest likeliest tokens whose probabilities exceed it together, at least
            one; None for all.
        top_k: Keep that many likeliest tokens, and those as likely as the last; None for all.

    Returns:
        Logits [P, V], before temperature; the very tensor given if nothing is filtered, else
        float64.
    """
    if top_p is None and top_k is None:
        return logits_PV
    logits_PV = logits_PV.double()
    if top_p is not None:
        sorted_PV, order_PV = (logits_PV / (temperature or 1.0)).sort(
            dim=-1, descending=True, stable=True
        )
        probabilities_PV = sorted_PV.softmax(dim=-1)
        before_PV = probabilities_PV.cumsum(dim=-1).roll(1, dims=-1)
        before_PV[:, 0] = 0.0
        dropped_PV = torch.zeros_like(order_PV, dtype=torch.bool)
        dropped_PV = dropped_PV.scatter(-1, order_PV, before_PV > top_p)
        logits_PV = logits_PV.masked_fill(dropped_PV, -torch.inf)
    if top_k is not None and top_k < logits_PV.shape[-1]:
        least_P1 = logits_PV.topk(top_k, dim=-1).values[:, -1:]
        logits_PV = logits_PV.masked_fill(logits_PV < least_P1, -torch.inf)
    return logits_PV
