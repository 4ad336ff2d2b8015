"""LongLLaDA's perplexity, as its script computes it, to compare with its Figure 1.

Source: LongLLaDA, arXiv 2506.14429 (ppl/get_ppl_llada.py of OpenMOSS/LongLLaDA): a text is cut into
chunks of 64 tokens, each scored given all text before it, clean; 8 times a number of masked tokens
is drawn, uniform on 1..64 and independent of the others, and then their places, one row a pass; the
figure of a draw is the mean of its masked tokens' cross entropies, that of a chunk the mean over
its draws, and that of a context length the geometric mean of the perplexities of its chunks.

The mean over a draw's masked tokens is the bound's weight, so that the expectation of a chunk is
its likelihood bound per token. `estimate_bound` differs in masking a whole target at once and in
stratifying the number of masks, which lowers the error.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from opencompass_llada.likelihood.bound import EntropyFunction, draw_places, masked_entropies
from opencompass_llada.likelihood.estimate import Estimate, pool
from opencompass_llada.likelihood.options import LikelihoodOptions
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
        perplexity is their geometric mean. Draws times chunks forward passes. The variance is
        that of the mean over a chunk's draws, without bias.

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
        counts = torch.randint(1, len(chunk) + 1, (options.draws,), generator=generator).tolist()
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
        means = [value / count for value, count in zip(sums, counts, strict=True)]
        chunks.append(_average_draws(means, len(chunk)))
    return pool(chunks)


def _average_draws(means: Sequence[float], num_tokens: int) -> Estimate:
    """Average the draws of a chunk; their spread gives the variance of the average."""
    return Estimate(
        estimator="longllada",
        nll=statistics.fmean(means) * num_tokens,
        variance=statistics.variance(means) / len(means) * num_tokens**2,
        degrees_of_freedom=len(means) - 1.0,
        num_tokens=num_tokens,
        num_draws=len(means),
        num_forward_passes=len(means),
    )
