"""The likelihood bound of a short target exactly, by all of its masks instead of some.

Source: LLaDA, arXiv 2502.09992, Eq. 14, whose expectation is written out. A target of L tokens
has 2^L - 1 masks; from 128 draws on that is cheaper than drawing for L up to 7, and it leaves no
error. The one token of a multiple-choice answer takes one forward pass (LLaDA's own evaluation
sets mc_num=1 for those tasks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch

from opencompass_llada.likelihood.estimate import Estimate
from opencompass_llada.likelihood.options import LikelihoodOptions
from opencompass_llada.likelihood.scoring import EntropyFunction, masked_entropies


def is_enumerable(num_tokens: int, options: LikelihoodOptions) -> bool:
    """Tell whether all masks of a target are no more than the draws allowed for it."""
    return options.estimator == "bound" and num_tokens < 60 and 2**num_tokens - 1 <= options.draws


def enumerate_bound(
    entropies: EntropyFunction,
    prefix: Sequence[int],
    target: Sequence[int],
    options: LikelihoodOptions,
    *,
    mask_token_id: int,
    device: torch.device | str = "cpu",
) -> Estimate:
    """Compute the bound on the negative log-likelihood of a target given a clean prefix.

    A mask of l places has the probability 1 / L / C(L, l) and the weight L / l, so that its sum
    of cross entropies counts 1 / (l C(L, l)) times.

    Args:
        entropies: The model call.
        prefix: Ids before the target, never masked; may be empty.
        target: Ids to score, at least one; see `is_enumerable`.
        options: Batch size; nothing is drawn.
        mask_token_id: The model's mask.
        device: The model's.

    Returns:
        The bound, without error. 2^L - 1 forward passes.

    Raises:
        ValueError: If the target is empty, or the text holds the mask.
        FloatingPointError: If the model's output is not finite.
    """
    if not target:
        raise ValueError("target=[] must hold at least one token to score.")
    num_tokens = len(target)
    masks = [
        torch.tensor(places)
        for count in range(1, num_tokens + 1)
        for places in combinations(range(num_tokens), count)
    ]
    sums = masked_entropies(
        entropies,
        prefix,
        target,
        masks,
        mask_token_id=mask_token_id,
        batch_size=options.batch_size,
        device=device,
    )
    nll = math.fsum(
        value / len(mask) / math.comb(num_tokens, len(mask))
        for value, mask in zip(sums, masks, strict=True)
    )
    return Estimate(
        estimator="bound",
        nll=nll,
        variance=0.0,
        degrees_of_freedom=math.inf,
        num_tokens=num_tokens,
        num_draws=len(masks),
        num_forward_passes=len(masks),
    )
