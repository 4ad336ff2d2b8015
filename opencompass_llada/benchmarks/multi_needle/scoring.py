"""Scores multi-needle answers by NeedleBench's keywords, one cell at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass_llada.benchmarks.opencompass_bases import CompleteEvaluator, mean, percent


class MultiNeedleRetrievalEvaluator(CompleteEvaluator):
    """Reports the share of needles found, overall and by depth.

    References: ``KEYWORD*KEYWORD#DEPTH*DEPTH``. Figures: score (needles found, percent:
    NeedleBench's average_score), accuracy (answers with all needles, percent), DepthN for each
    depth.
    """

    def judge(self, prediction: str, reference: str) -> dict[str, Any]:
        """Look for each keyword."""
        keywords, _, depths = reference.partition("#")
        found = [keyword in prediction for keyword in keywords.split("*")]
        hits = list(zip(depths.split("*"), found, strict=True))
        return {**_describe(prediction, keywords, found), "hits": hits}

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average by depth, then over depths."""
        found_by_depth: dict[str, list[bool]] = {}
        for detail in details:
            for depth, hit in detail.pop("hits"):  # results hold them by depth alone
                found_by_depth.setdefault(depth, []).append(hit)
        shares = {f"Depth{depth}": percent(hits) for depth, hits in found_by_depth.items()}
        return {
            "score": sum(shares.values()) / len(shares),
            "accuracy": percent([detail["correct"] for detail in details]),
            **shares,
        }


class MultiNeedleReasoningEvaluator(CompleteEvaluator):
    """Reports the share of the answer's words that stand in the prediction, in any letter case.

    References: ``ANSWER*ANSWER``. Figures: score (NeedleBench's: words of the answer found,
    percent, averaged over samples), accuracy (answers with all words, percent).
    """

    def judge(self, prediction: str, reference: str) -> dict[str, Any]:
        """Look for each word."""
        answer = reference.split("*")[1]
        found = [word in prediction.lower() for word in answer.lower().split()]
        return _describe(prediction, answer, found)

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average over the answers."""
        correct = percent([detail["correct"] for detail in details])
        return {"score": mean(details), "accuracy": correct}


def _describe(prediction: str, keywords: str, found: Sequence[bool]) -> dict[str, Any]:
    return {
        "prediction": prediction,
        "keywords": keywords,
        "num_found": sum(found),
        "score": percent(found),
        "correct": all(found),
    }
