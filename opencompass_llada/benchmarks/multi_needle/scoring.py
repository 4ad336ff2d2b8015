"""NeedleBench's keyword scores of multi-needle answers, refused when a sample is missing.

Scores answers; chooses no needles and averages nothing over cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass_llada.benchmarks.complete import CompleteEvaluator, check_complete


class MultiNeedleRetrievalEvaluator(CompleteEvaluator):
    """Reports the share of needles found, overall and by depth."""

    def score(
        self, predictions: Sequence[str], references: Sequence[str], test_set: Any = None
    ) -> dict[str, Any]:
        """Score the answers of one cell.

        Args:
            predictions: The model's answers.
            references: The answer column: ``KEYWORD*KEYWORD#DEPTH*DEPTH``.
            test_set: The samples, to check the number of predictions against.

        Returns:
            score (needles found, percent: NeedleBench's average_score), accuracy (answers with
            all needles, percent), DepthN for each depth, num_samples, and details.

        Raises:
            ValueError: If the number of predictions is not that of the samples, or is 0.
        """
        _require(predictions, references if test_set is None else test_set)
        found_by_depth: dict[str, list[bool]] = {}
        details = []
        for prediction, reference in zip(predictions, references, strict=True):
            keywords, _, depths = reference.partition("#")
            found = [keyword in prediction for keyword in keywords.split("*")]
            for depth, hit in zip(depths.split("*"), found, strict=True):
                found_by_depth.setdefault(depth, []).append(hit)
            details.append(
                {
                    "prediction": prediction,
                    "keywords": keywords,
                    "num_found": sum(found),
                    "score": _percent(found),
                    "correct": all(found),
                }
            )
        shares = {depth: _percent(hits) for depth, hits in found_by_depth.items()}
        return {
            "score": sum(shares.values()) / len(shares),
            "accuracy": _percent([bool(detail["correct"]) for detail in details]),
            **{f"Depth{depth}": share for depth, share in shares.items()},
            "num_samples": len(details),
            "details": details,
        }


class MultiNeedleReasoningEvaluator(CompleteEvaluator):
    """Reports the share of the answer's words that stand in the prediction."""

    def score(
        self, predictions: Sequence[str], references: Sequence[str], test_set: Any = None
    ) -> dict[str, Any]:
        """Score the answers of one cell, upper and lower case alike.

        Args:
            predictions: The model's answers.
            references: The answer column: ``ANSWER*ANSWER``.
            test_set: The samples, to check the number of predictions against.

        Returns:
            score (NeedleBench's: words of the answer found, percent, averaged over samples),
            accuracy (answers with all words, percent), num_samples, and details.

        Raises:
            ValueError: If the number of predictions is not that of the samples, or is 0.
        """
        _require(predictions, references if test_set is None else test_set)
        details = []
        for prediction, reference in zip(predictions, references, strict=True):
            words = reference.split("*")[1].lower().split()
            found = [word in prediction.lower() for word in words]
            details.append(
                {
                    "prediction": prediction,
                    "keywords": reference.split("*")[1],
                    "num_found": sum(found),
                    "score": _percent(found),
                    "correct": all(found),
                }
            )
        scores = [float(str(detail["score"])) for detail in details]
        return {
            "score": sum(scores) / len(scores),
            "accuracy": _percent([bool(detail["correct"]) for detail in details]),
            "num_samples": len(details),
            "details": details,
        }


def _require(predictions: Sequence[str], samples: Any) -> None:
    check_complete(predictions, samples)
    if not predictions:
        raise ValueError("There are no predictions, so there is no score.")


def _percent(hits: Sequence[bool]) -> float:
    return 100 * sum(hits) / len(hits)
