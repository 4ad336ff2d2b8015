"""The base of evaluators that refuse to score an incomplete set of predictions.

Compares numbers of samples; scores nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass.openicl import BaseEvaluator


class CompleteEvaluator(BaseEvaluator):
    """Raises where a sample has no prediction; subclasses write `score`.

    Some of OpenCompass's own evaluators (NeedleBench, RULER) take the references from the
    prediction file, and so average what is left when a shard of predictions is lost. This one
    compares with the data set. Subclasses take ``references``, not ``gold``, in `score`.
    """

    def evaluate(self, k: Any, n: int, original_dataset: Any, **score_kwargs: Any) -> Any:
        """Check that every sample was predicted, then score (see `score`).

        Args:
            k: OpenCompass's k of pass@k.
            n: OpenCompass's number of runs of the data set.
            original_dataset: The samples.
            **score_kwargs: The arguments of `score`.

        Raises:
            ValueError: If predictions are missing.
        """
        check_complete(score_kwargs["predictions"], original_dataset)
        return super().evaluate(k, n, original_dataset, **score_kwargs)


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
