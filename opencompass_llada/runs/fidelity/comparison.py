"""What two runs over the same samples have in common, in numbers. Knows no model and no host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opencompass_llada.report.statistics import paired_interval


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One sample under one setting."""

    token_ids: tuple[int, ...]
    """Generated ids up to the answer's end, end tokens left out."""

    text: str
    """The answer as the metric gets it."""

    score: float
    """Of this sample alone."""

    num_forward_passes: int
    """Passes that the sample took part in."""

    seconds: float
    """Its share of the time."""

    question: str = ""
    """Stands for the prompt: equal for equal ones; empty where nothing is asked twice."""

    unit: str = ""
    """What it depends on besides chance, such as its needle; empty for nothing."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One benchmark under two settings; shares are from 0 to 1, scores in the metric's points."""

    num_samples: int
    """Different questions."""
    num_units: int
    """Of them, how many depend on nothing in common, such as a needle."""
    token_agreement: float
    """Share of positions with the same token, of the longer answer of each sample."""
    answer_agreement: float
    """Share of samples whose answers are the same text."""
    first_score: float
    second_score: float
    score_difference: float
    """Second less first."""
    difference_low: float | None
    difference_high: float | None
    """95 % interval of the difference over units (`report.statistics.paired_interval`); None for a
    metric beyond 0 to 100."""
    first_passes: float
    second_passes: float
    """Forward passes a sample."""
    first_seconds: float
    second_seconds: float
    """Seconds a sample."""

    @property
    def speed_up(self) -> float:
        """How many times faster the second setting is."""
        return self.first_seconds / self.second_seconds if self.second_seconds else float("inf")


def compare(first: Sequence[Answered], second: Sequence[Answered]) -> Comparison:
    """Compare two runs, sample by sample; a question that occurs again counts once.

    Args:
        first: One setting's answers, at least one.
        second: The other's, in the same order.

    Raises:
        ValueError: If there are none, or not as many of each.
    """
    if not first or len(first) != len(second):
        raise ValueError(
            f"{len(first)} and {len(second)} answers cannot be compared; both settings must "
            "answer the same samples, at least one"
        )
    questions = {pair[0].question or place: pair for place, pair in
                 reversed(list(enumerate(zip(first, second, strict=True))))}  # fmt: skip
    pairs = list(questions.values())[::-1]
    first, second = zip(*pairs, strict=True)
    units = [pair[0].unit or place for place, pair in enumerate(pairs)]
    same, total = 0, 0
    for a, b in pairs:
        same += sum(x == y for x, y in zip(a.token_ids, b.token_ids, strict=False))
        total += max(len(a.token_ids), len(b.token_ids))
    differences = [b.score - a.score for a, b in pairs]
    low, high = paired_interval(differences, units) or (None, None)
    return Comparison(
        num_samples=len(pairs),
        num_units=len(set(units)),
        token_agreement=same / total if total else 1.0,
        answer_agreement=_mean([float(a.text == b.text) for a, b in pairs]),
        first_score=_mean([a.score for a in first]),
        second_score=_mean([b.score for b in second]),
        score_difference=_mean(differences),
        difference_low=low,
        difference_high=high,
        first_passes=_mean([float(a.num_forward_passes) for a in first]),
        second_passes=_mean([float(b.num_forward_passes) for b in second]),
        first_seconds=_mean([a.seconds for a in first]),
        second_seconds=_mean([b.seconds for b in second]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
