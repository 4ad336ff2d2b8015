"""Several single tokens in one place, scored by one forward pass: the letters of a multiple choice.

The model reads the same row for all of them, so that a pass each would repeat itself.

Shape letters: B rows, L row length, P positions asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from opencompass_llada.likelihood.estimate import Estimate
from opencompass_llada.likelihood.scoring import EntropyFunction


def score_alternatives(
    entropies: EntropyFunction,
    row: Sequence[int],
    position: int,
    candidates: Sequence[int],
    *,
    estimator: str,
    device: torch.device | str = "cpu",
) -> list[Estimate]:
    """Return the negative log-likelihood of each candidate in one place.

    Args:
        entropies: The model call; the one position is asked for as often as there are candidates.
        row: Ids that the model reads.
        position: The position to ask for.
        candidates: Token ids, at least one.
        estimator: What the estimates are called.
        device: The model's.

    Returns:
        Exact values, in order. The one forward pass is counted with the first.

    Raises:
        FloatingPointError: If the model's output is not finite.
    """
    row_BL = torch.tensor([list(row)], device=device)
    targets_BP = torch.tensor([list(candidates)], device=device)
    positions_BP = torch.full_like(targets_BP, position)
    values = entropies(row_BL, positions_BP, targets_BP)[0].double().tolist()
    if not all(map(math.isfinite, values)):
        raise FloatingPointError(
            "The model's cross entropies are not finite; load it in bfloat16 or float32, and check "
            "the checkpoint."
        )
    return [
        Estimate(
            estimator=estimator,
            nll=value,
            variance=0.0,
            degrees_of_freedom=math.inf,
            num_tokens=1,
            num_draws=int(estimator == "bound"),
            num_forward_passes=int(index == 0),
        )
        for index, value in enumerate(values)
    ]
