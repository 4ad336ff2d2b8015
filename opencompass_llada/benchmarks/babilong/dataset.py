"""Makes OpenCompass data sets of BABILong, with its own prompts and score.

Wording and score are functions of OpenCompass 0.5.4 (datasets/babilong), which has them of
github.com/booydar/babilong. Files are read as on the hub (RMT-team/babilong).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opencompass.datasets.babilong.babilong_utils import compare_answers
from opencompass.datasets.babilong.prompts import DEFAULT_PROMPTS, get_formatted_input

from opencompass_llada.benchmarks.babilong import embedded
from opencompass_llada.benchmarks.babilong.facts import ANSWERS, SPLITS, SUITE
from opencompass_llada.benchmarks.data_files import read_json_list, take
from opencompass_llada.benchmarks.published.dataset import (
    SuiteDataset,
    SuiteEvaluator,
    SuiteOptions,
    SuiteSample,
    find_file,
)
from opencompass_llada.benchmarks.readers import PromptParts

#: Stands where the context goes while the stock function writes what is around it.
_CONTEXT = "\0"


class BabiLongSuiteDataset(SuiteDataset):
    """A task at a length. The base-model prompt ends as the worked examples begin their answers."""

    suite = SUITE

    @classmethod
    def read_samples(cls, options: SuiteOptions, folder: Path) -> Iterator[SuiteSample]:
        """Read a file: a JSON list of input, question and target."""
        texts, count = DEFAULT_PROMPTS[options.task], ANSWERS.get(options.task)
        if options.length not in SPLITS:
            raise ValueError(
                f"length={options.length}: BABILong's samples are made for lengths; give one of "
                f"{', '.join(map(str, SPLITS))}."
            )
        [names] = SUITE.find_files({"task": options.task, "length": options.length})
        for where, row in read_json_list(find_file(SUITE, folder, names)):
            context, question, target = (
                take(row, name, where) for name in ("input", "question", "target")
            )
            around = get_formatted_input(
                _CONTEXT, question, texts["examples"], texts["instruction"], texts["post_prompt"]
            )
            head, _, ending = around.partition(_CONTEXT)
            yield SuiteSample(
                parts=PromptParts(head=head, context=context.strip(), question=ending),
                begins="\nAnswer:",
                gold=target,
                columns={"answer": [target]},
                chance=100 / count if count else None,
            )

    @classmethod
    def write_embedded(cls, folder: Path) -> None:
        """Write two samples a task at 1k, of generated text."""
        embedded.write(folder)


class BabiLongSuiteEvaluator(SuiteEvaluator):
    """Reports ``score``: answers whose first sentence holds the target, percent.

    OpenCompass's figure but for its rounding. An answer that names every place has all points, so
    that chance is that of one guess.
    """

    def score_answer(self, prediction: str, sample: Mapping[str, Any]) -> float:
        """Return 100 or 0, by the stock comparison."""
        return 100.0 * compare_answers(str(sample["answer"][0]), prediction)
