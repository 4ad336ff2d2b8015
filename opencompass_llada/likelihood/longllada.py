"""LongLLaDA's perplexity: no likelihood bound, kept to compare with its Figure 1.

Source: LongLLaDA, arXiv 2506.14429 (its ppl/get_ppl_llada.py): a text is cut into chunks of 64
tokens, each scored given all text before it, clean; masks are drawn 8 times; the figure of a chunk
is the unweighted mean of the cross entropy over masked tokens, and that of a context length the
geometric mean of the chunks so far. The weights L / l of the bound are left out, so that draws with
many masks, which are harder, count for more: the figure lies above the bound. Here the mean is
over the masked tokens of all draws of a chunk together; where the script runs its draws in several
batches, it averages the means of the batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from opencompass_llada.likelihood.estimate import Estimate, pool
from opencompass_llada.likelihood.masks import draw_places, systematic_counts
from opencompass_llada.likelihood.options import LikelihoodOptions
from opencompass_llada.likelihood.scoring import EntropyFunction, masked_entropies
from opencompass_llada.sampling import derive_seed


def estimate_longllada(
    entropies: EntropyFunction,
    prefix: Sequence[int],
    target: Sequence[int],
    options: LikelihoodOptions,
    *,
    mask_token_id: int,
    device: torch.device | str = "cpu",
) -> Estimate:
    """Score a stretch of text chunk by chunk as LongLLaDA does.

    Args:
        entropies: The model call.
        prefix: Ids before the target, never masked; may be empty.
        target: Ids to score; the last chunk may be shorter than the others.
        options: Draws a chunk, chunk length, batch size and seed.
        mask_token_id: The model's mask.
        device: The model's.

    Returns:
        The chunks added up, so that nats a token are the mean of equally long chunks and the
        perplexity is their geometric mean. Draws times chunks forward passes. The variance treats
        the draws of a chunk as independent; they are spread evenly, so that it errs upwards.

    Raises:
        ValueError: If the target is empty, or the text holds the mask.
        FloatingPointError: If the model's output is not finite.
    """
    if not target:
        raise ValueError("target=[] must hold at least one token to score.")
    text, chunks = [*prefix, *target], []
    for start in range(len(prefix), len(text), options.chunk_length):
        chunk = text[start : start + options.chunk_length]
        generator = torch.Generator().manual_seed(derive_seed(options.seed, chunk))
        counts = systematic_counts(len(chunk), options.draws, generator)
        masks = [draw_places(len(chunk), count, generator) for count in counts]
        sums = masked_entropies(
            entropies,
            text[:start],
            chunk,
            masks,
            mask_token_id=mask_token_id,
            batch_size=options.batch_size,
            device=device,
        )
        chunks.append(_unweighted_mean(sums, counts, len(chunk)))
    return pool(chunks)


def _unweighted_mean(sums: Sequence[float], counts: Sequence[int], num_tokens: int) -> Estimate:
    """Return the mean over masked tokens times the chunk's tokens, with a ratio's variance."""
    num_draws, num_masked = len(sums), sum(counts)
    mean = sum(sums) / num_masked
    residuals = [value - mean * count for value, count in zip(sums, counts, strict=True)]
    spread = sum(residual**2 for residual in residuals) * num_draws / max(1, num_draws - 1)
    return Estimate(
        estimator="longllada",
        nll=mean * num_tokens,
        variance=spread * (num_tokens / num_masked) ** 2,
        degrees_of_freedom=max(1.0, num_draws - 1.0),
        num_tokens=num_tokens,
        num_draws=num_draws,
        num_forward_passes=num_draws,
    )
