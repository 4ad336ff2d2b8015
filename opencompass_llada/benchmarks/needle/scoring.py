"""Scores answers by NeedleBench's keyword score and the plain hit rate, one cell at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from opencompass_llada.benchmarks.opencompass_bases import CompleteEvaluator, mean, percent

#: What an answer without the keyword gets of its similarity to the needle.
PARTIAL_CREDIT = 0.2


def score_answer(prediction: str, needle: str, keyword: str) -> dict[str, Any]:
    """Score one answer as NeedleBench does.

    100 if the keyword stands in the prediction; else 0.2 times the similarity of prediction and
    needle, which is 100 * (1 - edit distance / longer length), white space left out of both.

    Returns:
        prediction, needle, keyword, correct (bool), edit_distance and score (0 to 100).
    """
    answered = re.sub(r"\s+", "", prediction)
    hidden = re.sub(r"\s+", "", needle)
    distance = Levenshtein.distance(answered, hidden)
    longer = max(len(answered), len(hidden))
    similarity = 100 * (1 - distance / longer) if longer else 100.0
    correct = keyword in prediction
    return {
        "prediction": prediction,
        "needle": needle.strip(),
        "keyword": keyword,
        "correct": correct,
        "edit_distance": distance,
        "score": 100.0 if correct else PARTIAL_CREDIT * similarity,
    }


class NeedleBenchEvaluator(CompleteEvaluator):
    """Reports NeedleBench's ``score``, and ``accuracy``: keyword hits, percent.

    References are NeedleBench's answer column: needle, ``*``, keyword. Differs from OpenCompass's
    own evaluator in that a lost shard of predictions is an error.
    """

    def judge(self, prediction: str, reference: str) -> dict[str, Any]:
        """Score an answer; see `score_answer`."""
        return score_answer(prediction, *reference.split("*"))

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average over the answers."""
        correct = percent([detail["correct"] for detail in details])
        return {"score": mean(details), "accuracy": correct}
