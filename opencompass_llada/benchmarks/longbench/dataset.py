"""LongBench and LongBench-E for OpenCompass: one data set a task, and their evaluator.

Makes prompts of rows. Truncation is the model's business (its ``drop_middle``), scores are
`dataset`'s.

The best of several gold answers counts, as in LongBench's ``eval.py``. Averages one task; tasks are
put together by the summarizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from opencompass.datasets.base import BaseDataset

from opencompass_llada.benchmarks.longbench.facts import (
    BUCKETS,
    TASKS,
    LongBenchTask,
    bucket_of,
    list_tasks,
)
from opencompass_llada.benchmarks.longbench.prompts import WORDINGS, write_prompt
from opencompass_llada.benchmarks.longbench.samples import DEFAULT_PATH, LongBenchRow, read_rows
from opencompass_llada.benchmarks.longbench.scoring import METRICS
from opencompass_llada.benchmarks.opencompass_bases import CompleteEvaluator, check_complete
from opencompass_llada.options import build, check_fields, reject_unknown


@dataclass(frozen=True, kw_only=True)
class LongBenchOptions:
    """What a data set config says, checked."""

    task: str
    """One of `tasks.TASKS`."""
    benchmark: str = "longbench"
    """``longbench``, or ``longbench_e``: the set with even lengths, of 13 tasks."""
    path: str = DEFAULT_PATH
    """LongBench's folder: ``asset:NAME``, a folder, or ``opencompass/Longbench``."""
    wording: str = "original"
    """A key of `prompts.WORDINGS`: LongBench's prompts, or OpenCompass's."""

    def __post_init__(self) -> None:
        """Check that there is such a wording, and such a task in the benchmark.

        Raises:
            ValueError: For an unknown name; the nearest is named.
        """
        check_fields(self)
        reject_unknown("LongBench wording", [self.wording], WORDINGS)
        list_tasks(self.benchmark, [self.task])

    @property
    def facts(self) -> LongBenchTask:
        """What is known of the task."""
        return list_tasks(self.benchmark, [self.task])[0]


class LongBenchDataset(BaseDataset):
    """OpenCompass data set of one task; keywords are the fields of `LongBenchOptions`."""

    @staticmethod
    def load(**options: Any) -> Dataset:
        """Make the samples of a task.

        Args:
            **options: Fields of `LongBenchOptions`.

        Returns:
            Columns prompt, answers, all_classes, length.

        Raises:
            ValueError: For a wrong option, missing data or a line that is not a row.
        """
        parsed = build(LongBenchOptions, options, "LongBench data set")
        rows = read_rows(parsed.path, parsed.facts, parsed.benchmark)
        return Dataset.from_list([make_sample(parsed.task, row, parsed.wording) for row in rows])

    @staticmethod
    def check_options(**options: Any) -> LongBenchOptions:
        """Check the keywords, before any file is opened."""
        return build(LongBenchOptions, options, "LongBench data set")

    @staticmethod
    def source(options: Mapping[str, Any]) -> LongBenchOptions:
        """Return what its samples are made of: data sets that share it are checked together."""
        return build(LongBenchOptions, options, "LongBench data set")

    @staticmethod
    def check_data(same: Sequence[Mapping[str, Any]]) -> None:
        """Read the rows of data sets with one source, and forget them."""
        LongBenchDataset.load(**same[0])


def make_sample(task: str, row: LongBenchRow, wording: str) -> dict[str, Any]:
    """Return a row as a sample: its prompt and what its score needs."""
    return {
        "prompt": write_prompt(task, row.context, row.question, wording),
        "answers": list(row.answers),
        "all_classes": list(row.classes),
        "length": row.length,
    }


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
