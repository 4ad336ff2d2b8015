"""Makes OpenCompass data sets of MRCR v2, with its own score.

Prompt and score are OpenCompass 0.5.4's (datasets/mrcr.py), which has the score of
google-deepmind/eval_hub; the stock class is given the rows that it would load from the hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass.datasets import mrcr as stock

from opencompass_llada.benchmarks.data_files import MissingDataError, read_parquet, take
from opencompass_llada.benchmarks.mrcr import embedded
from opencompass_llada.benchmarks.mrcr.facts import SUITE, name_subset
from opencompass_llada.benchmarks.published.dataset import (
    SuiteDataset,
    SuiteEvaluator,
    SuiteOptions,
    SuiteSample,
    find_file,
    standing_in,
)
from opencompass_llada.benchmarks.readers import PromptParts


class MrcrSuiteDataset(SuiteDataset):
    """A number of needles at a length.

    The base-model prompt goes on into a turn of the assistant, which begins with the letters that
    the question asks to put in front.
    """

    suite = SUITE

    @classmethod
    def read_samples(cls, options: SuiteOptions, folder: Path) -> Iterator[SuiteSample]:
        """Read the parquet files of a subset."""
        if options.length is None:
            raise ValueError("MRCR's subsets have lengths; give length=, e.g. 8192.")
        subset = name_subset(options.task, options.length)
        rows = list(_read_rows(find_file(SUITE, folder, subset)))
        with standing_in(stock, load_dataset=lambda *_, **__: rows):
            samples = stock.MRCRDataset.load(str(folder), subset)
        for sample in samples:
            gold = json.loads(sample["gold"])
            prefix = gold["prefix"]
            yield SuiteSample(
                parts=PromptParts(
                    head="", context=sample["context"], question=f"\n{sample['question']}"
                ),
                begins=f"\nAssistant: {prefix}".rstrip(),
                given=prefix,
                gold=gold["answer"],
                columns={"answer": sample["gold"]},
            )

    @classmethod
    def write_embedded(cls, folder: Path) -> None:
        """Write two conversations a number of needles, of generated sentences."""
        embedded.write(folder)


def _read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a subset's files, checked."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise MissingDataError(f"{folder} holds no parquet files. {SUITE.how_to_get}", SUITE.name)
    for file in files:
        for where, row in read_parquet(file):
            answers = take(row, "answers", where, Sequence[str])
            if not answers:
                raise ValueError(f"{where}: answers must hold one text at least.")
            texts = {name: take(row, name, where) for name in ("context", "question")}
            yield {**texts, "answers": answers}


class MrcrSuiteEvaluator(SuiteEvaluator):
    """Reports ``score``: similarity of answer and gold (difflib's ratio), percent.

    0 for an answer that does not begin with the letters asked for. OpenCompass's figure, one answer
    at a time.
    """

    def score_answer(self, prediction: str, sample: Mapping[str, Any]) -> float:
        """Return the stock evaluator's score of this answer alone."""
        figures = stock.MRCREvaluator().score([prediction], [sample["answer"]])
        return float(figures["score"])
