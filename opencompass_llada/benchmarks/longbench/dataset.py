"""Makes OpenCompass data sets of LongBench and LongBench-E, one a task, and scores them.

Truncation is the model's business (its ``drop_middle``). The best of several gold answers counts,
as in LongBench's ``eval.py``. Tasks are put together by the summarizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencompass_llada.benchmarks.longbench.facts import (
    BUCKETS,
    TASKS,
    LongBenchTask,
    bucket_of,
    list_tasks,
)
from opencompass_llada.benchmarks.longbench.prompts import WORDINGS, write_prompt
from opencompass_llada.benchmarks.longbench.samples import DEFAULT_PATH, read_rows
from opencompass_llada.benchmarks.longbench.scoring import METRICS
from opencompass_llada.benchmarks.opencompass_bases import (
    CheckedDataset,
    CompleteEvaluator,
    mean,
)
from opencompass_llada.options import check_fields, reject_unknown


@dataclass(frozen=True, kw_only=True)
class LongBenchOptions:
    """What a data set config says, checked."""

    task: str
    """A key of `facts.TASKS`."""
    benchmark: str = "longbench"
    """``longbench``, or ``longbench_e``: the set with even lengths, of 13 tasks."""
    path: str = DEFAULT_PATH
    """LongBench's folder: ``asset:NAME``, a folder, or ``opencompass/Longbench``."""
    wording: str = "original"
    """A key of `prompts.WORDINGS`: LongBench's prompts, or OpenCompass's."""

    def __post_init__(self) -> None:
        """Check the names; a ValueError gives the nearest."""
        check_fields(self)
        reject_unknown("LongBench wording", [self.wording], WORDINGS)
        list_tasks(self.benchmark, [self.task])


class LongBenchDataset(CheckedDataset):
    """OpenCompass data set of one task; keywords are the fields of `LongBenchOptions`."""

    options_class = LongBenchOptions
    title = "LongBench data set"

    @classmethod
    def make_rows(cls, options: LongBenchOptions) -> Iterator[dict[str, Any]]:
        """Make the samples: prompt, answers, all_classes, length."""
        for row in read_rows(options.path, TASKS[options.task], options.benchmark):
            yield {
                "prompt": write_prompt(options.task, row.context, row.question, options.wording),
                "answers": list(row.answers),
                "all_classes": list(row.classes),
                "length": row.length,
            }


def score_answer(
    task: LongBenchTask, prediction: str, answers: Sequence[str], classes: Sequence[str] = ()
) -> float:
    """Score one answer, 0 to 100, by the best of its gold answers.

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
    """Reports ``score``, from 0 to 100, not rounded.

    Differs from OpenCompass's evaluators, which add up the scores of several gold answers in
    counting, retrieval and classification, where LongBench takes the best.
    """

    judges_by_sample = True

    def __init__(self, task: str, by_length: bool = False) -> None:
        """Keep what to score.

        Args:
            task: A key of `facts.TASKS`.
            by_length: Report ``score_BUCKET`` and ``num_samples_BUCKET`` besides, for each of
                LongBench-E's buckets that has samples.

        Raises:
            ValueError: For an unknown task; the nearest is named.
        """
        super().__init__()
        reject_unknown("LongBench task", [task], TASKS)
        self.task = TASKS[task]
        self.by_length = by_length

    def judge(self, prediction: str, reference: Mapping[str, Any]) -> dict[str, Any]:
        """Return prediction, answers, length and score of a sample."""
        answers, classes = reference["answers"], reference["all_classes"]
        return {
            "prediction": prediction,
            "answers": list(answers),
            "length": reference["length"],
            "score": score_answer(self.task, prediction, answers, classes),
        }

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average over all answers and, if that is asked for, over each bucket that has some."""
        figures = {"score": mean(details), "num_samples": len(details)}
        for bucket in BUCKETS if self.by_length else ():
            within = [detail for detail in details if bucket_of(detail["length"]) == bucket]
            if within:
                figures[f"score_{bucket}"] = mean(within)
                figures[f"num_samples_{bucket}"] = len(within)
        return figures
