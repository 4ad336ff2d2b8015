"""Acceptance rules that reveal all that is sure enough: threshold, factor, entropy bound.

Each reveals at least what the schedule plans and, with the default of one token a step, at least
one; a block whose predictions are sure ends early. They are approximate: tokens that are revealed
together were predicted apart. None decides by another row.

Shape letters: B rows, P masked positions of the active block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from opencompass_llada.sampling.acceptance import (
    AcceptanceRule,
    ScheduledAcceptance,
    StepContext,
)

_SCHEDULED = ScheduledAcceptance()


@dataclass(frozen=True)
class ThresholdAcceptance:
    """Reveals every prediction whose confidence is at least a threshold.

    Fast-dLLM, arXiv 2505.22618 (confidence-aware parallel decoding).
    """

    threshold: float
    """A probability; scores must be probabilities of the predicted tokens."""

    reveals_as_scheduled = False

    def __call__(self, step: StepContext) -> Tensor:
        """Choose; see `AcceptanceRule`."""
        return _SCHEDULED(step) | (step.scores_BP >= self.threshold)


@dataclass(frozen=True)
class FactorAcceptance:
    """Reveals the n surest, n the largest with ``(n + 1) (1 - confidence of the nth) < factor``.

    Fast-dLLM, arXiv 2505.22618 (factor-based decoding), which follows from a bound on
    how far parallel decoding can be from one token at a time. Differs from its published code at
    the last masked position, which that reveals whatever its confidence.
    """

    factor: float
    """Above 0."""

    reveals_as_scheduled = False

    def __call__(self, step: StepContext) -> Tensor:
        """Choose; see `AcceptanceRule`."""
        ranked_BP, order_BP = step.scores_BP.sort(dim=-1, descending=True, stable=True)
        numbers_P = torch.arange(2, ranked_BP.shape[1] + 2, device=ranked_BP.device)
        sure_BP = numbers_P * (1 - ranked_BP) < self.factor
        return _SCHEDULED(step) | _first_ranks(sure_BP, order_BP)


@dataclass(frozen=True)
class EntropyBoundAcceptance:
    """Reveals the n surest, n the largest whose entropies exceed their largest by at most a bound.

    EB-sampler, arXiv 2505.24857: the sum of the entropies of what is revealed together
    less the largest of them bounds the dependence that is ignored. Positions are ranked by the
    remasking strategy's score, entropies are those of the model's logits, in nats.
    """

    bound: float
    """In nats, at least 0."""

    reveals_as_scheduled = False

    def __call__(self, step: StepContext) -> Tensor:
        """Choose; see `AcceptanceRule`."""
        order_BP = step.scores_BP.argsort(dim=-1, descending=True, stable=True)
        entropies_BP = torch.stack([_entropies(logits_PV) for logits_PV in step.logits_BPV])
        ranked_BP = entropies_BP.gather(1, order_BP)
        excess_BP = ranked_BP.cumsum(dim=-1) - ranked_BP.cummax(dim=-1).values
        return _SCHEDULED(step) | _first_ranks(excess_BP <= self.bound, order_BP)


@dataclass(frozen=True)
class RuleKind:
    """What an acceptance rule is, for the settings."""

    make: Callable[[float], AcceptanceRule]
    """Makes the rule of its one number."""

    default: float
    """The number where none is given."""

    check: Callable[[float], bool]
    """Whether a number fits."""

    rule: str
    """What fits, for messages."""

    needs_probabilities: bool
    """Whether scores must be probabilities of the predicted tokens."""


ACCEPTANCE_RULES: dict[str, RuleKind] = {
    "threshold": RuleKind(
        make=ThresholdAcceptance,
        default=0.9,
        check=lambda value: 0 < value <= 1,
        rule="a probability above 0",
        needs_probabilities=True,
    ),
    "factor": RuleKind(
        make=FactorAcceptance,
        default=1.0,
        check=lambda value: value > 0,
        rule="above 0",
        needs_probabilities=True,
    ),
    "entropy_bound": RuleKind(
        make=EntropyBoundAcceptance,
        default=0.1,
        check=lambda value: value >= 0,
        rule="at least 0, in nats",
        needs_probabilities=False,
    ),
}
"""The rules beside the schedule, by the name that ``acceptance=dict(type=...)`` takes. A rule of
your own is one more entry; the loop stays as it is."""


def _first_ranks(holds_BP: Tensor, order_BP: Tensor) -> Tensor:
    """Mark the positions of the ranks before the first one that does not hold."""
    first_BP = holds_BP.cumprod(dim=-1).bool()
    return torch.zeros_like(first_BP).scatter(1, order_BP, first_BP)


def _entropies(logits_PV: Tensor) -> Tensor:
    """Return entropies in nats, float64 [P]; a token of logit minus infinity adds nothing."""
    return torch.special.entr(logits_PV.double().softmax(dim=-1)).sum(dim=-1)
