"""Draws the sampler's random numbers: one generator a row, so that a batch changes nothing.

Order of a row's stream, at each denoising step: with temperature > 0 one float64 uniform for
each masked position of the active block and each vocabulary entry, position by position from left
to right; then with remasking at random (``random``, ``origin``) or with a remasking temperature
one float64 uniform for each of those positions. Nothing else draws. The published codes draw from
the global generator, LLaDA's for every position of the sequence, so that their streams, not their
distributions, differ from this one.

Shape letters: P masked positions of one row, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def derive_seed(seed: int, prompt: Sequence[int]) -> int:
    """Derive a row's seed, in [0, 2**63), from the run's seed and the row's own prompt.

    Depends neither on the row's place in a batch nor on the batch size, so that a resumed or
    differently batched run draws the same numbers, while two prompts draw different ones. Equal
    prompts get equal seeds: for several samples of one prompt give ``sample`` its own seeds.
    """
    text = f"{seed}:{','.join(map(str, map(int, prompt)))}"
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_generators(seeds: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """Make one generator a seed; CPU and CUDA draw different numbers from one seed."""
    return [torch.Generator(device=device).manual_seed(int(seed)) for seed in seeds]


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw float64 uniforms in [0, 1) on the generator's device."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)


def gumbel_argmax(logits_PV: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one token for each position from ``softmax(logits / temperature)``, int64 [P].

    Takes the argmax of ``logits - temperature * log(-log(u))`` in float64, because low-precision
    Gumbel noise lowers the quality of masked diffusion models (arXiv:2409.02908). The published
    code takes the argmax of ``exp(logits) / (-log(u)) ** temperature``, whose logarithm this is;
    its ``exp`` overflows above a logit of 709, which guidance can reach, and then every
    overflowing token ties at infinity.
    """
    exponential_PV = _uniform(*logits_PV.shape, generator=generator).log_().neg_()
    return (logits_PV.double() - temperature * exponential_PV.log_()).argmax(dim=-1)


def random_scores(count: int, generator: torch.Generator, num_positions: int) -> Tensor:
    """Draw a uniform score for each of ``count`` masked positions; filler gets 0. Float64 [P]."""
    return pad(_uniform(count, generator=generator), (0, num_positions - count))


def perturb(scores_P: Tensor, temperature: float, count: int, generator: torch.Generator) -> Tensor:
    """Make the highest of ``count`` scores a random choice, likelier the higher a score was.

    Taking the n highest of ``score / temperature + Gumbel noise`` draws n positions without
    replacement with probabilities softmax(score / temperature), as Dream's ``alg_temp`` does by
    ``torch.multinomial`` (Gumbel top-k, arXiv:1903.06059). Filler is left as it is.
    """
    gumbel_P = _uniform(count, generator=generator).log_().neg_().log_().neg_()
    return torch.cat([scores_P[:count] / temperature + gumbel_P, scores_P[count:]])
