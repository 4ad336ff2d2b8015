"""Remasking strategies: what each ranks predictions by, and the scores themselves.

In float64, one row at a time. The published codes compute in the logits' dtype, where many
confidences of a bfloat16 model tie and are revealed in no defined order.

A table and its checks. An entry of `STRATEGIES`, made here or outside, is all that a strategy
needs. The entries' score functions stand above it, the choice is in ``acceptance.py``.

LLaDA's (generate.py of github.com/ML-GSAI/LLaDA) and Dream's (``alg`` in generation_utils.py of
Dream-org/Dream-v0-Instruct-7B) differ in three ways: LLaDA's confidence is the token's probability
before temperature, Dream's is made of the distribution that the token was drawn from (after
temperature, top-p and top-k); LLaDA spreads reveals evenly, Dream goes by timesteps
(``schedule.py``); and LLaDA's ``random`` reveals a fixed number of random positions where Dream's
``origin`` decides for each position alone.

Shape suffixes: P masked positions of one row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from opencompass_llada.options import unknown_name_message
from opencompass_llada.sampling.noise import gumbel, uniform
from opencompass_llada.sampling.schedule import SCHEDULES


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


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What a remasking strategy goes by."""

    schedule: str
    """The schedule that it was published with."""

    score: Callable[[Tensor, Tensor], Tensor] | None
    """How positions are ranked by what the model says: ``(probabilities_PV, tokens_P) ->
    scores_P``, float64 probabilities and predicted tokens of a row's masked positions to float64
    scores, higher is revealed sooner. None ranks them by chance."""

    independent: bool = False
    """Whether each position is revealed by a chance of its own, which the schedule gives, and not
    as many as scheduled. Only with score None and a schedule of timesteps."""

    of_drawn_distribution: bool = False
    """Whether that is read off the distribution after temperature, top-p and top-k."""

    of_token: bool = False
    """Whether that is the predicted token's own probability."""

    def __post_init__(self) -> None:
        """Check that the fields fit together.

        Raises:
            ValueError: With the fields and the rule.
        """
        if self.schedule not in SCHEDULES:
            raise ValueError(unknown_name_message("schedule", self.schedule, SCHEDULES))
        if self.score is None and (self.of_drawn_distribution or self.of_token):
            raise ValueError(
                f"{self}: of_drawn_distribution and of_token say what a score is read off; give a "
                "score, or leave them out"
            )
        if self.independent and (self.score is not None or self.schedule != "timesteps"):
            raise ValueError(
                f"{self}: independent=True reveals by the chances of schedule='timesteps' alone; "
                "give score=None and that schedule"
            )

    @property
    def confident(self) -> bool:
        """Whether positions are ranked by what the model says, and not by chance."""
        return self.score is not None


STRATEGIES = {
    "low_confidence": Strategy(schedule="even", score=token_probabilities, of_token=True),
    "random": Strategy(schedule="even", score=None),
    "origin": Strategy(schedule="timesteps", score=None, independent=True),
    "maskgit_plus": Strategy(
        schedule="timesteps", score=token_probabilities, of_drawn_distribution=True, of_token=True
    ),
    "topk_margin": Strategy(schedule="timesteps", score=margins, of_drawn_distribution=True),
    "entropy": Strategy(schedule="timesteps", score=negative_entropies, of_drawn_distribution=True),
}
