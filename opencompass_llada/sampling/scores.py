"""Scores by which a step chooses among its predictions; higher is surer.

In float64, one row at a time. The published codes compute in the logits' dtype, where many
confidences of a bfloat16 model tie and are revealed in no defined order.

Shape letters: P masked positions of one row, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from opencompass_llada.sampling.noise import gumbel, uniform


def token_probabilities(probabilities_PV: Tensor, tokens_P: Tensor) -> Tensor:
    """Return the probability of one token at each position (``low_confidence``, ``maskgit_plus``).

    A suppressed token gets 0, the lowest score, and can still be revealed when nothing else is
    left; so does any token where suppression leaves nothing of top-p and top-k.

    Args:
        probabilities_PV: Float64.
        tokens_P: Token ids, int64.

    Returns:
        Float64 [P] in [0, 1].
    """
    return probabilities_PV.gather(-1, tokens_P[:, None])[:, 0].nan_to_num(nan=0.0)


def margins(probabilities_PV: Tensor, tokens_P: Tensor) -> Tensor:
    """Return by how much the likeliest token leads over the second (``topk_margin``).

    Args:
        probabilities_PV: Float64; at least two entries.
        tokens_P: Not looked at.

    Returns:
        Float64 [P] in [0, 1], whichever token was drawn.
    """
    best_P2 = probabilities_PV.topk(2, dim=-1).values
    return best_P2[:, 0] - best_P2[:, 1]


def negative_entropies(probabilities_PV: Tensor, tokens_P: Tensor) -> Tensor:
    """Return minus the entropy in nats (``entropy``).

    Differs from the published code by at most 1e-10 a token, which it adds inside the logarithm.

    Args:
        probabilities_PV: Float64.
        tokens_P: Not looked at.

    Returns:
        Float64 [P], at most 0, whichever token was drawn.
    """
    return -torch.special.entr(probabilities_PV).sum(dim=-1)


def random_scores(count: int, generator: torch.Generator, num_positions: int) -> Tensor:
    """Draw a score for each masked position (``random``, ``origin``).

    Args:
        count: Masked positions; only these draw.
        generator: The row's generator.
        num_positions: P; filler gets 0.

    Returns:
        Uniforms in [0, 1), float64 [P].
    """
    return torch.nn.functional.pad(uniform((count,), generator), (0, num_positions - count))


def perturb(scores_P: Tensor, temperature: float, count: int, generator: torch.Generator) -> Tensor:
    """Make the highest scores a random choice, likelier the higher a score was.

    Taking the n highest of ``score / temperature + Gumbel noise`` draws n positions without
    replacement with probabilities softmax(score / temperature), as Dream's ``alg_temp`` does by
    ``torch.multinomial`` (Gumbel top-k, arXiv:1903.06059).

    Args:
        scores_P: Float64.
        temperature: Above 0; near 0 the choice is the highest scores themselves.
        count: Masked positions; only these draw, filler is left as it is.
        generator: The row's generator.

    Returns:
        Float64 [P].
    """
    noisy_P = scores_P[:count] / temperature + gumbel((count,), generator)
    return torch.cat([noisy_P, scores_P[count:]])
