"""LongBench and LongBench-E for OpenCompass: one data set a task.

Makes prompts of rows. Truncation is the model's business (its ``drop_middle``), scores are
`evaluator`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from opencompass.datasets.base import BaseDataset

from opencompass_llada.datasets.longbench.prompts import WORDINGS, write_prompt
from opencompass_llada.datasets.longbench.reading import DEFAULT_PATH, LongBenchRow, read_rows
from opencompass_llada.datasets.longbench.tasks import LongBenchTask, list_tasks
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
