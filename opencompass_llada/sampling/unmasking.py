"""Decides which predictions a denoising step reveals: in which order, and how many.

A remasking strategy scores predictions, the highest are revealed first; an acceptance rule reveals
more than scheduled where the model is sure. An entry of `STRATEGIES` or `ACCEPTANCE_RULES`, made
here or outside, is all that a new one needs. Differs from LLaDA's generate.py and Dream's
generation_utils.py (``alg``) in that all is float64, one row at a time: in the logits' dtype many
confidences of a bfloat16 model tie.
Shape suffixes: B rows, P masked positions of the active block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from opencompass_llada.options import check_fields, reject_unknown
from opencompass_llada.sampling.schedule import SCHEDULES, StepPlan


def token_probabilities(probabilities_PV: Tensor, tokens_P: Tensor) -> Tensor:
    """Return each predicted token's probability; 0 where suppression leaves nothing to draw."""
    return probabilities_PV.gather(-1, tokens_P[:, None])[:, 0].nan_to_num(nan=0.0)


def margins(probabilities_PV: Tensor, tokens_P: Tensor) -> Tensor:
    """Return by how much the likeliest token leads over the second, whichever was drawn."""
    best_P2 = probabilities_PV.topk(2, dim=-1).values
    return best_P2[:, 0] - best_P2[:, 1]


def negative_entropies(probabilities_PV: Tensor, tokens_P: Tensor) -> Tensor:
    """Return minus the entropy in nats; the published code adds 1e-10 inside the logarithm."""
    return -torch.special.entr(probabilities_PV).sum(dim=-1)


def leftmost_first(probabilities_PV: Tensor, tokens_P: Tensor) -> Tensor:
    """Return scores that fall from left to right, whatever was predicted."""
    return -torch.arange(len(tokens_P), dtype=torch.float64, device=tokens_P.device)


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What a remasking strategy goes by."""

    schedule: str
    """The one that it was published with."""
    score: Callable[[Tensor, Tensor], Tensor] | None
    """Ranks a row's masked positions: ``(probabilities_PV, tokens_P) -> scores_P``, float64
    probabilities and predicted tokens to float64 scores, higher is revealed sooner. None ranks them
    by chance."""
    independent: bool = False
    """Whether each position is revealed by a chance of its own, which the schedule of timesteps
    gives, and not as many as scheduled."""
    of_drawn_distribution: bool = False
    """Whether the score is read off the distribution after temperature, top-p and top-k."""
    of_token: bool = False
    """Whether the score is the predicted token's own probability."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        reject_unknown("schedule", [self.schedule], SCHEDULES)
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


STRATEGIES = {
    "low_confidence": Strategy(schedule="even", score=token_probabilities, of_token=True),
    "random": Strategy(schedule="even", score=None),
    "origin": Strategy(schedule="timesteps", score=None, independent=True),
    "maskgit_plus": Strategy(
        schedule="timesteps", score=token_probabilities, of_drawn_distribution=True, of_token=True
    ),
    "topk_margin": Strategy(schedule="timesteps", score=margins, of_drawn_distribution=True),
    "entropy": Strategy(schedule="timesteps", score=negative_entropies, of_drawn_distribution=True),
    "sequential": Strategy(schedule="even", score=leftmost_first),
}


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """All that may decide which predictions of the active block are revealed at one step."""

    plan: StepPlan
    scores_BP: Tensor
    """Float64, higher is surer; minus infinity marks filler, which the loop ignores whether
    chosen or not. Positions ascend within a row."""
    tokens_BP: Tensor
    """The predicted tokens, int64."""
    logits_BPV: Tensor
    """The model's, of any float type. A rule that needs probabilities takes them a row at a time:
    all of them are large."""


Accept = Callable[[StepContext], Tensor]
"""Chooses the predictions to reveal, bool [B, P], looking at each row alone: at least as many of
the masked positions as scheduled, or all of them at the last step."""


def accept_scheduled(step: StepContext) -> Tensor:
    """Choose as many positions as scheduled, the highest scores first, of equal ones the leftmost.

    The published codes leave ties to ``torch.topk``, which promises no order.
    """
    order_BP = step.scores_BP.argsort(dim=-1, descending=True, stable=True)
    accepted_BP = torch.zeros_like(step.scores_BP, dtype=torch.bool)
    return accepted_BP.scatter(1, order_BP[:, : step.plan.num_scheduled], True)


def accept_independently(step: StepContext) -> Tensor:
    """Choose each position with the step's probability, as Dream's ``origin`` does by uniforms."""
    return step.scores_BP >= 1.0 - step.plan.reveal_probability


def above_threshold(step: StepContext, threshold: float) -> Tensor:
    """Choose every prediction of at least this confidence (Fast-dLLM, arXiv 2505.22618)."""
    return step.scores_BP >= threshold


def within_factor(step: StepContext, factor: float) -> Tensor:
    """Choose the n surest, n the largest with ``(n + 1) (1 - confidence of the nth) < factor``.

    Factor-based decoding of Fast-dLLM, arXiv 2505.22618. Differs from its published code at the
    last masked position, which that reveals whatever its confidence.
    """
    ranked_BP, order_BP = step.scores_BP.sort(dim=-1, descending=True, stable=True)
    numbers_P = torch.arange(2, ranked_BP.shape[1] + 2, device=ranked_BP.device)
    return _first_ranks(numbers_P * (1 - ranked_BP) < factor, order_BP)


def within_entropy_bound(step: StepContext, bound: float) -> Tensor:
    """Choose the n surest, n the largest whose entropies exceed their largest by at most a bound.

    EB-sampler, arXiv 2505.24857. Positions are ranked by the remasking strategy's score, entropies
    are those of the model's logits, in nats.
    """
    order_BP = step.scores_BP.argsort(dim=-1, descending=True, stable=True)
    chances = (logits_PV.double().softmax(dim=-1) for logits_PV in step.logits_BPV)
    entropies_BP = torch.stack([torch.special.entr(rows).sum(dim=-1) for rows in chances])
    ranked_BP = entropies_BP.gather(1, order_BP)
    excess_BP = ranked_BP.cumsum(dim=-1) - ranked_BP.cummax(dim=-1).values
    return _first_ranks(excess_BP <= bound, order_BP)


def within_token_entropy_bound(step: StepContext, bound: float) -> Tensor:
    """Choose the positions of least ``-p log p``, as many as add up to less than a bound.

    SDAR's ``entropy_bounded`` (generate.py of JetAstra/SDAR), p the predicted token's probability:
    of 0.9, 0.5 and 0.99 the values are 0.09, 0.35 and 0.01, and a bound of 0.35 takes the first and
    the last. A very improbable token has a small value, too. Differs from the published code, which
    cannot run (it sums the values of a block before it ranks them, and writes into a mask that it
    never made), and in that at least the scheduled number is chosen, not at least one; with a step
    a token they are the same.
    """
    values_BP = torch.special.entr(step.scores_BP)
    values_BP = values_BP.masked_fill(step.scores_BP <= 0, torch.inf)  # suppressed, or filler
    ranked_BP, order_BP = values_BP.sort(dim=-1, stable=True)
    ranks_P = torch.arange(ranked_BP.shape[1], device=ranked_BP.device)
    fits_BP = (ranked_BP.cumsum(dim=-1) < bound) | (ranks_P < max(step.plan.num_scheduled, 1))
    return _first_ranks(fits_BP, order_BP)


def _first_ranks(holds_BP: Tensor, order_BP: Tensor) -> Tensor:
    """Mark the positions of the ranks before the first one that does not hold."""
    first_BP = holds_BP.cumprod(dim=-1).bool()
    return torch.zeros_like(first_BP).scatter(1, order_BP, first_BP)


@dataclass(frozen=True, kw_only=True)
class AcceptanceRule:
    """A rule that reveals sure predictions beside the scheduled ones, so that blocks end early.

    Approximate: tokens that are revealed together were predicted apart.
    """

    choose: Callable[[StepContext, float], Tensor]
    """``(step, value) -> bool [B, P]``, True where a prediction is sure; of each row alone."""
    default: float
    fits: Callable[[float], bool]
    possible: str
    """Which values fit, for messages."""
    needs_probabilities: bool
    """Whether scores must be probabilities of the predicted tokens."""
    has_own_ranking: bool = False
    """Whether it chooses the scheduled number itself, by a ranking of its own."""


ACCEPTANCE_RULES = {
    "threshold": AcceptanceRule(
        choose=above_threshold,
        default=0.9,
        fits=lambda value: 0 < value <= 1,
        possible="a probability above 0 and up to 1",
        needs_probabilities=True,
    ),
    "factor": AcceptanceRule(
        choose=within_factor,
        default=1.0,
        fits=lambda value: value > 0,
        possible="above 0",
        needs_probabilities=True,
    ),
    "entropy_bound": AcceptanceRule(
        choose=within_entropy_bound,
        default=0.1,
        fits=lambda value: value >= 0,
        possible="at least 0, in nats",
        needs_probabilities=False,
    ),
    "token_entropy_bound": AcceptanceRule(
        choose=within_token_entropy_bound,
        default=0.35,
        fits=lambda value: value >= 0,
        possible="at least 0, in nats",
        needs_probabilities=True,
        has_own_ranking=True,
    ),
}
"""The rules beside the schedule, by the name that ``acceptance=dict(type=...)`` takes."""

#: SDAR's names of rules (``remasking_strategy`` of its code), which are several options here.
SDAR_RULES = {
    "sequential": "remasking='sequential', acceptance='scheduled'",
    "low_confidence_static": "remasking='maskgit_plus', schedule='even', acceptance='scheduled'",
    "low_confidence_dynamic": "remasking='maskgit_plus', schedule='even', "
    "acceptance=dict(type='threshold', value=0.85)",
    "entropy_bounded": "remasking='maskgit_plus', schedule='even', "
    "acceptance=dict(type='token_entropy_bound', value=0.35)",
}
RULE_HINTS = {name: f"SDAR's {name!r} is {options} here." for name, options in SDAR_RULES.items()}


@dataclass(frozen=True, kw_only=True)
class AcceptanceOptions:
    """Which predictions a step reveals beyond those that the schedule plans."""

    type: str = "scheduled"
    """``scheduled`` (none, the published samplers' way) or a name in `ACCEPTANCE_RULES`."""
    value: float | None = None
    """The rule's number; None is its default."""

    def __post_init__(self) -> None:
        """Fill the default in and check both."""
        check_fields(self, "acceptance ")
        if self.type == "scheduled":
            if self.value is None:
                return
            raise ValueError(
                f"acceptance value={self.value!r} has no effect with type='scheduled'; leave it "
                "out, or use type='threshold'"
            )
        reject_unknown("acceptance rule", [self.type], ["scheduled", *ACCEPTANCE_RULES], RULE_HINTS)
        rule = ACCEPTANCE_RULES[self.type]
        value = rule.default if self.value is None else self.value
        object.__setattr__(self, "value", value)
        if not rule.fits(value):
            raise ValueError(
                f"acceptance value={value!r} must be {rule.possible} for type={self.type!r}; its "
                f"default is {rule.default}"
            )

    def make(self) -> Accept:
        """Return what chooses: the schedule, and what the rule adds to it."""
        if self.value is None:
            return accept_scheduled
        rule, value = ACCEPTANCE_RULES[self.type], self.value
        if rule.has_own_ranking:
            return lambda step: rule.choose(step, value)
        return lambda step: accept_scheduled(step) | rule.choose(step, value)
