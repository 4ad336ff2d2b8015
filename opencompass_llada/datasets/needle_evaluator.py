"""NeedleBench's keyword score and the plain hit rate, refused when a sample is missing.

Scores answers. Does not choose needles, and averages nothing over cells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from opencompass.openicl import BaseEvaluator
from rapidfuzz.distance import Levenshtein

#: What an answer without the keyword gets of its similarity to the needle.
PARTIAL_CREDIT = 0.2


def score_answer(prediction: str, needle: str, keyword: str) -> dict[str, Any]:
    """Score one answer as NeedleBench does.

    100 if the keyword stands in the prediction; else 0.2 times the similarity of prediction and
    needle, which is 100 * (1 - edit distance / longer length), white space left out of both.

    Args:
        prediction: The model's answer.
        needle: The hidden sentence.
        keyword: What the answer must contain.

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


class NeedleBenchEvaluator(BaseEvaluator):
    """Reports NeedleBench's ``score``, ``accuracy`` (keyword hits, percent) and ``num_samples``.

    Differs from OpenCompass's own evaluator, which takes the references from the prediction file
    and so averages what is left when a shard of predictions is lost: this one compares with the
    data set and raises.
    """

    def evaluate(self, k: Any, n: int, original_dataset: Any, **score_kwargs: Any) -> Any:
        """Check that every sample was predicted, then score (see `score`).

        Args:
            k: OpenCompass's k of pass@k.
            n: OpenCompass's number of runs of the data set.
            original_dataset: The samples.
            **score_kwargs: The arguments of `score`.
        """
        check_complete(score_kwargs["predictions"], original_dataset)
        return super().evaluate(k, n, original_dataset, **score_kwargs)

    def score(
        self, predictions: Sequence[str], references: Sequence[str], test_set: Any = None
    ) -> dict[str, Any]:
        """Score the answers of one cell.

        Args:
            predictions: The model's answers.
            references: NeedleBench's answer column: needle, ``*``, keyword.
            test_set: The samples, to check the number of predictions against.

        Returns:
            score, accuracy (both 0 to 100), num_samples, and details, one dictionary a sample
            (see `score_answer`).

        Raises:
            ValueError: If the number of predictions is not that of the samples, or is 0.
        """
        check_complete(predictions, references if test_set is None else test_set)
        if not predictions:
            raise ValueError("There are no predictions, so there is no score.")
        details = []
        for prediction, reference in zip(predictions, references, strict=True):
            needle, keyword = reference.split("*")
            details.append(score_answer(prediction, needle, keyword))
        num_samples = len(details)
        return {
            "score": sum(detail["score"] for detail in details) / num_samples,
            "accuracy": 100 * sum(detail["correct"] for detail in details) / num_samples,
            "num_samples": num_samples,
            "details": details,
        }


def check_complete(predictions: Sequence[str], samples: Any) -> None:
    """Raise unless there is one prediction a sample.

    Raises:
        ValueError: With both numbers and what to do.
    """
    if len(predictions) != len(samples):
        raise ValueError(
            f"There are {len(predictions)} predictions for {len(samples)} samples: a shard of the "
            "predictions is missing or left over, and a score of the rest would be wrong. Run "
            "inference again with -r <the run's folder>; it makes only what is missing."
        )
