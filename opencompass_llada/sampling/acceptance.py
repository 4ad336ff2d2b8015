"""Acceptance rules and their options: which predictions of a denoising step are revealed.

A rule is a callable of its own file or class; the loop in ``loop.py`` stays as it is for any
rule that keeps the contract of :class:`AcceptanceRule`. Ships the two published ones: as many as
scheduled, the highest scores first, and each position by its own chance (Dream's ``origin``). The
score itself is made in ``unmasking.py``.

Each reveals at least what the schedule plans and, with the default of one token a step, at least
one; a block whose predictions are sure ends early. They are approximate: tokens that are revealed
together were predicted apart. None decides by another row.

Shape suffixes: B rows, P masked positions of the active block (of the row that has most), V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from opencompass_llada.options import build, check_fields, unknown_name_message
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


@dataclass(frozen=True, kw_only=True)
class AcceptanceOptions:
    """Which predictions a step reveals beyond those that the schedule plans."""

    type: str = "scheduled"
    """``scheduled`` (none, the published samplers' way) or a name in ``ACCEPTANCE_RULES``."""

    value: float | None = None
    """The rule's number; None is its default."""

    def __post_init__(self) -> None:
        """Fill the default in and check both.

        Raises:
            ValueError: If the name is unknown or the number does not fit; says what does.
        """
        check_fields(self, "acceptance ")
        if self.type == "scheduled":
            if self.value is not None:
                raise ValueError(
                    f"acceptance value={self.value!r} has no effect with type='scheduled'; leave "
                    "it out, or use type='threshold'"
                )
            return
        kind = ACCEPTANCE_RULES.get(self.type)
        if kind is None:
            names = ("scheduled", *ACCEPTANCE_RULES)
            raise ValueError(unknown_name_message("acceptance rule", str(self.type), names))
        if self.value is None:
            object.__setattr__(self, "value", kind.default)
        assert self.value is not None, "the default is filled in"
        if not kind.check(self.value):
            raise ValueError(
                f"acceptance value={self.value!r} must be {kind.rule} for type={self.type!r}; its "
                f"default is {kind.default}"
            )

    @property
    def needs_probabilities(self) -> bool:
        """Whether scores must be probabilities of the predicted tokens."""
        return self.type != "scheduled" and ACCEPTANCE_RULES[self.type].needs_probabilities

    def make(self) -> AcceptanceRule | None:
        """Return the rule, or None for the one that the remasking strategy goes with."""
        if self.type == "scheduled":
            return None
        assert self.value is not None, "the default is filled in"
        return ACCEPTANCE_RULES[self.type].make(self.value)

    def describe(self) -> str:
        """Return a short name, such as ``threshold 0.9``."""
        return self.type if self.value is None else f"{self.type} {self.value:g}"


def parse_acceptance_options(
    options: Mapping[str, Any] | AcceptanceOptions | str | None,
) -> AcceptanceOptions:
    """Make options of a mapping such as ``dict(type='threshold', value=0.9)`` or a rule's name.

    Args:
        options: Field names and values; a name alone; None for the default; options are returned
            as they are.

    Returns:
        The checked options.

    Raises:
        ValueError: If a name is unknown (the nearest valid one is named) or a value does not fit.
    """
    return build(AcceptanceOptions, options, "acceptance", by_name="type")
