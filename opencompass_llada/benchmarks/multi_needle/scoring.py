"""Scores multi-needle answers by NeedleBench's keywords, one cell at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass_llada.benchmarks.opencompass_bases import (
    CompleteEvaluator,
    check_complete,
    percent,
)


class MultiNeedleRetrievalEvaluator(CompleteEvaluator):
    """Reports the share of needles found, overall and by depth."""

    def score(
        self, predictions: Sequence[str], references: Sequence[str], test_set: Any = None
    ) -> dict[str, Any]:
        """Score answers against the answer column: ``KEYWORD*KEYWORD#DEPTH*DEPTH``.

        Returns:
            score (needles found, percent: NeedleBench's average_score), accuracy (answers with
            all needles, percent), DepthN for each depth, num_samples, and details.

        Raises:
            ValueError: If the number of predictions is not that of the samples, or is 0.
        """
        check_complete(predictions, references if test_set is None else test_set)
        found_by_depth: dict[str, list[bool]] = {}
        details = []
        for prediction, reference in zip(predictions, references, strict=True):
            keywords, _, depths = reference.partition("#")
            found = [keyword in prediction for keyword in keywords.split("*")]
            for depth, hit in zip(depths.split("*"), found, strict=True):
                found_by_depth.setdefault(depth, []).append(hit)
            details.append(_describe(prediction, keywords, found))
        shares = {depth: percent(hits) for depth, hits in found_by_depth.items()}
        return {
            "score": sum(shares.values()) / len(shares),
            "accuracy": percent([detail["correct"] for detail in details]),
            **{f"Depth{depth}": share for depth, share in shares.items()},
            "num_samples": len(details),
            "details": details,
        }


class MultiNeedleReasoningEvaluator(CompleteEvaluator):
    """Reports the share of the answer's words that stand in the prediction."""

    def score(
        self, predictions: Sequence[str], references: Sequence[str], test_set: Any = None
    ) -> dict[str, Any]:
        """Score answers against the answer column, ``ANSWER*ANSWER``, in any letter case.

        Returns:
            score (NeedleBench's: words of the answer found, percent, averaged over samples),
            accuracy (answers with all words, percent), num_samples, and details.

        Raises:
            ValueError: If the number of predictions is not that of the samples, or is 0.
        """
        check_complete(predictions, references if test_set is None else test_set)
        details = []
        for prediction, reference in zip(predictions, references, strict=True):
            answer = reference.split("*")[1]
            found = [word in prediction.lower() for word in answer.lower().split()]
            details.append(_describe(prediction, answer, found))
        return {
            "score": sum(detail["score"] for detail in details) / len(details),
            "accuracy": percent([detail["correct"] for detail in details]),
            "num_samples": len(details),
            "details": details,
        }


def _describe(prediction: str, keywords: str, found: Sequence[bool]) -> dict[str, Any]:
    return {
        "prediction": prediction,
        "keywords": keywords,
        "num_found": sum(found),
        "score": percent(found),
        "correct": all(found),
    }
