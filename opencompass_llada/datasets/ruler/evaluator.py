"""RULER's evaluator: the mean of `matching`'s scores, refused when a prediction is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass_llada.datasets.complete import CompleteEvaluator, check_complete
from opencompass_llada.datasets.ruler.matching import MATCHES
from opencompass_llada.options import reject_unknown


class RulerEvaluator(CompleteEvaluator):
    """Reports ``score`` (0 to 100, two decimals as in RULER) and ``num_samples``."""

    def __init__(self, match: str = "all") -> None:
        """Keep how answers are scored.

        Args:
            match: ``'all'`` (niah, vt, cwe, fwe) or ``'part'`` (qa).

        Raises:
            ValueError: For another.
        """
        super().__init__()
        reject_unknown("RULER match", [match], MATCHES)
        self.match = match

    def score(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        test_set: Any = None,
    ) -> dict[str, Any]:
        """Score the answers of one data set.

        Args:
            predictions: The model's answers.
            references: For each sample, what its answer must contain.
            test_set: The samples, to check the number of predictions against.

        Returns:
            score, num_samples, and details: prediction, references and score (0 to 100) of each.

        Raises:
            ValueError: If the number of predictions is not that of the samples, or is 0.
        """
        check_complete(predictions, references if test_set is None else test_set)
        if not predictions:
            raise ValueError("There are no predictions, so there is no score.")
        match = MATCHES[self.match]
        details = [
            {
                "prediction": prediction,
                "references": list(expected),
                "score": 100 * match(prediction, expected),
            }
            for prediction, expected in zip(predictions, references, strict=True)
        ]
        shares = [match(p, r) for p, r in zip(predictions, references, strict=True)]
        return {
            "score": round(sum(shares) / len(shares) * 100, 2),
            "num_samples": len(details),
            "details": details,
        }
