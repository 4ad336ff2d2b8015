"""Makes OpenCompass data sets of LV-Eval's published files, one a task and length, and scores them.

The files are read as they are, or in their archives: OpenCompass loads them with a script that
``datasets`` no longer runs. The wording is OpenCompass's, which is the authors'; it ends in
"Answer:", so that base models get the same.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.data_files import read_json_lines, take
from opencompass_llada.benchmarks.lveval import embedded
from opencompass_llada.benchmarks.lveval.facts import (
    EMBEDDED_LENGTH,
    SUITE,
    TASKS,
    list_files,
    name_length,
)
from opencompass_llada.benchmarks.lveval.scoring import METRICS
from opencompass_llada.benchmarks.published.dataset import (
    SuiteDataset,
    SuiteEvaluator,
    SuiteOptions,
    SuiteSample,
    find_file,
)
from opencompass_llada.benchmarks.published.stock import stock_wording
from opencompass_llada.benchmarks.published.texts import write_json_lines
from opencompass_llada.benchmarks.readers import PromptParts


class LVEvalDataset(SuiteDataset):
    """One task of LV-Eval at one length."""

    suite = SUITE

    @classmethod
    def read_samples(cls, options: SuiteOptions, folder: Path) -> Iterator[SuiteSample]:
        """Read the rows of a file: input, context, answers and, of some tasks, answer_keywords."""
        if options.length is None:
            raise ValueError("LV-Eval's samples are made for a length; give length=, e.g. 16384.")
        file = find_file(SUITE, folder, list_files(options.task, options.length))
        rows = read_json_lines(_open_archive(file, options.task, options.length))
        _, user = stock_wording(f"lveval.{TASKS[options.task].stock}")
        head, _, ending = user.partition("{context}")
        for where, row in rows:
            answers = list(take(row, "answers", where, Sequence[str]))
            if not answers or not any(map(str.isalnum, answers[0])):
                raise ValueError(f"{where}: answers={answers} must begin with an answer of words.")
            keywords = take({"answer_keywords": None, **row}, "answer_keywords", where, str | None)
            question = ending.format(input=take(row, "input", where))
            context = take(row, "context", where)
            yield SuiteSample(
                parts=PromptParts(head=head, context=context, question=question),
                gold=answers[0],
                columns={"answer": answers, "keywords": keywords or ""},
            )

    @classmethod
    def write_embedded(cls, folder: Path) -> None:
        """Write a few rows of every task."""
        for task in TASKS:
            file = folder / list_files(task, EMBEDDED_LENGTH).partition("|")[0]
            write_json_lines(file, embedded.list_rows(task))


def _open_archive(file: Path, task: str, length: int) -> Path | zipfile.Path:
    """Return a file, or where it lies in the archive of its task."""
    if file.suffix != ".zip":
        return file
    name = f"{task}_{name_length(length)}.jsonl"
    try:
        with zipfile.ZipFile(file) as archive:
            inside = next((one for one in archive.namelist() if Path(one).name == name), None)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file} is no zip archive; it is damaged. Fetch it again.") from error
    if inside is None:
        raise ValueError(f"{file} holds no {name}. {SUITE.how_to_get}")
    return zipfile.Path(file, inside)


class LVEvalEvaluator(SuiteEvaluator):
    """Reports ``score`` by OpenCompass's evaluators, which are LV-Eval's metrics."""

    def score_answer(self, prediction: str, sample: Mapping[str, Any]) -> float:
        """Return the score of an answer, 0 to 100."""
        task = TASKS[self.task]
        metric = METRICS[task.metric]
        return metric(prediction, sample["answer"], sample["keywords"], task.language)
