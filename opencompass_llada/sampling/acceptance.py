"""Acceptance rules: which predictions of a denoising step are revealed and which are masked again.

A rule is a callable of its own file or class; the loop in ``denoising.py`` stays as it is for any
rule that keeps the contract of :class:`AcceptanceRule`. Ships the two published ones: as many as
scheduled, the highest scores first, and each position by its own chance (Dream's ``origin``). The
score itself is made in ``scores.py``.

Shape letters: B rows, P masked positions of the active block (of the row that has most),
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from opencompass_llada.sampling.schedule import StepPlan


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """All that a rule may go by at one denoising step of the active block."""

    plan: StepPlan
    """The step's number, and what the schedule plans for it."""

    scores_BP: Tensor
    """Float64, higher is surer; minus infinity marks filler, which the loop ignores whether
    chosen or not. Positions ascend within a row."""

    tokens_BP: Tensor
    """The predicted tokens, int64."""

    logits_BPV: Tensor
    """The model's logits, of any float type; their softmax is what it thinks of every token. A
    rule that needs probabilities takes them a row at a time: all of them are large."""


class AcceptanceRule(Protocol):
    """Chooses the predictions to reveal at one step.

    A rule reveals everything by the block's last step: in every row at least as many as scheduled
    of the positions that are still masked (or all that are left), or all of them at the last step.
    It may reveal more; the block then ends early. It looks at each row alone, or a batch would
    change a row's result.
    """

    @property
    def reveals_as_scheduled(self) -> bool:
        """Whether every row reveals exactly ``plan.num_scheduled`` positions at every step.

        If so, the loop knows the counts without reading the device; if not, it reads them once a
        step and gives rows with fewer masked positions filler.
        """
        ...

    def __call__(self, step: StepContext) -> Tensor:
        """Choose.

        Args:
            step: The step, its predictions and their scores.

        Returns:
            bool [B, P], True where the prediction is revealed.
        """
        ...


class ScheduledAcceptance:
    """Reveals exactly the scheduled number of positions, the highest scores first.

    Of equal scores the leftmost position is revealed first. The published codes leave that to
    ``torch.topk``, which promises no order.
    """

    reveals_as_scheduled = True

    def __call__(self, step: StepContext) -> Tensor:
        """Choose the highest scores of each row; see :class:`AcceptanceRule`."""
        order_BP = step.scores_BP.argsort(dim=-1, descending=True, stable=True)
        accepted_BP = torch.zeros_like(step.scores_BP, dtype=torch.bool)
        return accepted_BP.scatter(1, order_BP[:, : step.plan.num_scheduled], True)


class IndependentAcceptance:
    """Reveals each position with the step's probability, whatever the others do.

    Dream's ``origin``, the reverse process of masked diffusion itself: how many positions a step
    reveals is random. Scores are uniforms in [0, 1).
    """

    reveals_as_scheduled = False

    def __call__(self, step: StepContext) -> Tensor:
        """Choose the scores that exceed what the probability leaves; see :class:`AcceptanceRule`.

        At the last step the probability is 1 and every score is at least 0.
        """
        return step.scores_BP >= 1.0 - step.plan.reveal_probability
