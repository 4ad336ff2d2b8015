"""Scores LongBench's answers; refused when a sample is missing.

The best of several gold answers counts, as in LongBench's ``eval.py``. Averages one task; tasks
are put together by the summarizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass_llada.datasets.complete import CompleteEvaluator, check_complete
from opencompass_llada.datasets.longbench.metrics import METRICS
from opencompass_llada.datasets.longbench.tasks import BUCKETS, TASKS, LongBenchTask, bucket_of
from opencompass_llada.options import reject_unknown


def score_answer(
    task: LongBenchTask, prediction: str, answers: Sequence[str], classes: Sequence[str] = ()
) -> float:
    """Score one answer, 0 to 100.

    Args:
        task: Says the metric, and whether only the first line counts.
        prediction: The model's answer.
        answers: Gold answers, at least one.
        classes: All classes of a classification task.
    """
    shown = prediction.lstrip("\n").split("\n")[0] if task.first_line else prediction
    metric = METRICS[task.metric]
    return 100 * max(metric(shown, answer, classes) for answer in answers)


class LongBenchEvaluator(CompleteEvaluator):
    """Reports ``score`` (0 to 100, not rounded) and ``num_samples``.

    Differs from OpenCompass's evaluators, which add up the scores of several gold answers in
    counting, retrieval and classification, where LongBench takes the best.
    """

    def __init__(self, task: str, by_length: bool = False) -> None:
        """Keep what to score.

        Args:
            task: One of `tasks.TASKS`.
            by_length: Report ``score_BUCKET`` and ``num_samples_BUCKET`` besides, for each of
                LongBench-E's buckets that has samples.

        Raises:
            ValueError: For an unknown task; the nearest is named.
        """
        super().__init__()
        reject_unknown("LongBench task", [task], TASKS)
        self.task = TASKS[task]
        self.by_length = by_length

    def score(self, predictions: Sequence[str], test_set: Any) -> dict[str, Any]:
        """Score the answers of a task.

        Args:
            predictions: The model's answers.
            test_set: The samples.

        Returns:
            score, num_samples, with ``by_length`` those of each bucket, and details: prediction,
            answers, length and score of each sample.

        Raises:
            ValueError: If the number of predictions is not that of the samples, or is 0.
        """
        check_complete(predictions, test_set)
        if not predictions:
            raise ValueError("There are no predictions, so there is no score.")
        details = [
            {
                "prediction": prediction,
                "answers": list(sample["answers"]),
                "length": sample["length"],
                "score": score_answer(
                    self.task, prediction, sample["answers"], sample["all_classes"]
                ),
            }
            for prediction, sample in zip(predictions, test_set, strict=True)
        ]
        result: dict[str, Any] = _mean(details, "")
        if self.by_length:
            for bucket in BUCKETS:
                result |= _mean([d for d in details if bucket_of(d["length"]) == bucket], bucket)
        return {**result, "details": details}


def _mean(details: Sequence[dict[str, Any]], bucket: str) -> dict[str, float | int]:
    """Return mean score and number of samples, named after the bucket; nothing for no samples."""
    if not details:
        return {}
    suffix = f"_{bucket}" if bucket else ""
    total = sum(detail["score"] for detail in details)
    return {f"score{suffix}": total / len(details), f"num_samples{suffix}": len(details)}
