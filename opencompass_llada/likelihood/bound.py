"""The likelihood bound of the masked diffusion objective, with an honest standard error.

Source: LLaDA, arXiv 2502.09992, Eq. 14 (the low-variance form of the bound of Eq. 6): with L
target tokens, draw a count l uniform on 1..L and l places without replacement; then
L / l * (sum of the masked tokens' cross entropies) has the bound as its mean. The bound is also
the mean, over all orders of the tokens, of the negative log-likelihood in that order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from opencompass_llada.likelihood.estimate import Estimate, satterthwaite
from opencompass_llada.likelihood.masks import draw_places, stratified_counts
from opencompass_llada.likelihood.options import LikelihoodOptions
from opencompass_llada.likelihood.scoring import EntropyFunction, masked_entropies
from opencompass_llada.sampling import derive_seed


def estimate_bound(
    entropies: EntropyFunction,
    prefix: Sequence[int],
    target: Sequence[int],
    options: LikelihoodOptions,
    *,
    mask_token_id: int,
    device: torch.device | str = "cpu",
    draw_key: Sequence[int] | None = None,
) -> Estimate:
    """Estimate the bound on the negative log-likelihood of a target given a clean prefix.

    The mask ratio is stratified: two independent draws in each of ``draws / 2`` strata. The
    squared differences within the strata give an unbiased estimate of the variance, and no draw
    is spent on it. The masks depend on the seed and the target alone, so that estimates for
    several prefixes of one target, or by several models, differ by no noise of the masks.

    Args:
        entropies: The model call.
        prefix: Ids before the target, never masked; may be empty (the whole text is the target).
        target: Ids to score, at least one.
        options: Number of draws, batch size and seed.
        mask_token_id: The model's mask.
        device: The model's.
        draw_key: Numbers that the masks depend on in the target's place. Targets of one length
            and one key are masked alike, so that their estimates differ by no noise of the masks.

    Returns:
        The estimate; unbiased, an upper bound in expectation. ``draws`` forward passes.

    Raises:
        ValueError: If the target is empty, or the text holds the mask.
        FloatingPointError: If the model's output is not finite.
    """
    if not target:
        raise ValueError("target=[] must hold at least one token to score.")
    num_tokens, num_strata = len(target), options.draws // 2
    key = target if draw_key is None else draw_key
    generator = torch.Generator().manual_seed(derive_seed(options.seed, key))
    pairs = stratified_counts(num_tokens, num_strata, generator)
    counts = [count for pair in pairs for count in pair]
    masks = [draw_places(num_tokens, count, generator) for count in counts]
    sums = masked_entropies(
        entropies,
        prefix,
        target,
        masks,
        mask_token_id=mask_token_id,
        batch_size=options.batch_size,
        device=device,
    )
    weighted = [value * num_tokens / count for value, count in zip(sums, counts, strict=True)]
    return _combine(weighted, num_tokens, num_strata)


def _combine(weighted: Sequence[float], num_tokens: int, num_strata: int) -> Estimate:
    """Average draws, two a stratum; the variance of a pair's mean is difference squared over 4."""
    variances = [
        ((first - second) / 2 / num_strata) ** 2
        for first, second in zip(weighted[::2], weighted[1::2], strict=True)
    ]
    return Estimate(
        estimator="bound",
        nll=sum(weighted) / len(weighted),
        variance=sum(variances),
        degrees_of_freedom=satterthwaite([(variance, 1.0) for variance in variances]),
        num_tokens=num_tokens,
        num_draws=len(weighted),
        num_forward_passes=len(weighted),
    )
