"""Makes OpenCompass data sets of NeedleBench's cells, one a cell, and scores them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from rapidfuzz.distance import Levenshtein

from opencompass_llada.benchmarks.needle.haystack import HaystackStore
from opencompass_llada.benchmarks.needle.samples import NeedleCell, make_samples
from opencompass_llada.benchmarks.needle.solver import solve
from opencompass_llada.benchmarks.opencompass_bases import (
    CheckedDataset,
    CompleteEvaluator,
    mean,
    percent,
)
from opencompass_llada.synthetic.grammar import is_generated

#: What an answer without the keyword gets of its similarity to the needle.
PARTIAL_CREDIT = 0.2


class NeedleBenchDataset(CheckedDataset):
    """A cell of any of NeedleBench's tasks; keywords are the fields of its `options_class`."""

    title = "NeedleBench data set"
    source_keys = ("path", "file_list", "needle_file_name", "tokenizer", "language")
    #: Shared by all cells of a process; bounded.
    store: ClassVar[HaystackStore] = HaystackStore()

    @classmethod
    def count_rows(cls, options: NeedleCell) -> int:
        """Return the repeats of all files."""
        return len(options.file_list) * options.num_repeats_per_file

    @classmethod
    def check_data(cls, same: Sequence[Mapping[str, Any]]) -> None:
        """Make the samples of the shortest cells and one of the longest, and forget them."""
        by_length = sorted(same, key=lambda options: options["length"])
        # Needles and questions differ in length: what fits the first sample need not fit all, and
        # published cells of one length have the same.
        shortest = [one for one in by_length if one["length"] == by_length[0]["length"]]
        if cls.check_options(**by_length[0]).place is None:
            shortest = shortest[:1]
        for options in (*shortest, {**by_length[-1], "num_repeats_per_file": 1}):
            super().check_data([options])


class NeedleBenchSingleDataset(NeedleBenchDataset):
    """Retrieval of a single needle."""

    options_class = NeedleCell

    @classmethod
    def make_rows(cls, options: NeedleCell) -> Iterator[dict[str, str]]:
        """Make the samples; see `make_samples`."""
        return make_samples(options, cls.store)


def score_answer(prediction: str, needle: str, keyword: str) -> dict[str, Any]:
    """Score one answer as NeedleBench does.

    100 if the keyword stands in the prediction; else 0.2 times the similarity of prediction and
    needle, which is 100 * (1 - edit distance / longer length), white space left out of both.
    """
    answered = re.sub(r"\s+", "", prediction)
    hidden = re.sub(r"\s+", "", needle)
    distance = Levenshtein.distance(answered, hidden)
    longer = max(len(answered), len(hidden))
    similarity = 100 * (1 - distance / longer) if longer else 100.0
    correct = keyword in prediction
    return {
        "prediction": prediction,
        "needle": needle.strip(),
        "keyword": keyword,
        "correct": correct,
        "edit_distance": distance,
        "score": 100.0 if correct else PARTIAL_CREDIT * similarity,
    }


class NeedleBenchEvaluator(CompleteEvaluator):
    """Reports NeedleBench's ``score``, and ``accuracy``: answers with the keyword, percent.

    References are NeedleBench's answer column: needle, ``*``, keyword. Chance is known of generated
    needles alone: NeedleBench's have a few keywords each, which a model may have seen.
    """

    chance_figure = "accuracy"

    def chance(self, sample: Mapping[str, Any]) -> float | None:
        """Return 0 for a generated needle, whose value is one of thousands."""
        return 0.0 if is_generated(sample["needle"]) else None

    def solve(self, sample: Mapping[str, Any]) -> str | None:
        """Return the line that is most like the question; see `solver.solve`."""
        return solve(sample["prompt"])

    def judge(self, prediction: str, reference: str) -> dict[str, Any]:
        """Score an answer; see `score_answer`."""
        return score_answer(prediction, *reference.split("*"))

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average over the answers."""
        correct = percent([detail["correct"] for detail in details])
        return {"score": mean(details), "accuracy": correct}
