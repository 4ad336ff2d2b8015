"""Scores NeedleBench v2's answers by OpenCompass's evaluators, one answer at a time."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from opencompass.datasets.needlebench_v2.atc_elder_only import (
    NeedleBenchATCEvaluator,
    needlebench_atc_postprocess_v2,
)
from opencompass.datasets.needlebench_v2.origin import NeedleBenchOriginEvaluator
from opencompass.datasets.needlebench_v2.parallel import NeedleBenchParallelEvaluator

from opencompass_llada.benchmarks.needlebench_v2.facts import split_task
from opencompass_llada.benchmarks.opencompass_bases import mean
from opencompass_llada.benchmarks.published.dataset import SuiteEvaluator


class TraceSuiteEvaluator(SuiteEvaluator):
    """Reports ``score``: answers whose last box holds the name or number, percent."""

    #: The column whose values have a figure each besides; '' for none.
    by_column = "kind"

    def score_answer(self, prediction: str, sample: Mapping[str, Any]) -> float:
        """Return 100 or 0, by the stock extraction and comparison."""
        shown = needlebench_atc_postprocess_v2(prediction)
        return float(NeedleBenchATCEvaluator().score([shown], [sample["answer"]])["score"])

    def judge(self, prediction: str, reference: Mapping[str, Any]) -> dict[str, Any]:
        """Return prediction, answer, score, and where the needle stood or what kind it was."""
        told = super().judge(prediction, reference)
        return {**told, self.by_column: reference[self.by_column]}

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average over all answers, and over those of each place or kind."""
        figures = super().summarize(details)
        for value in sorted({detail[self.by_column] for detail in details}):
            own = [detail for detail in details if detail[self.by_column] == value]
            figures[f"score_{value}"] = mean(own)
        return figures


class NeedleBenchV2SuiteEvaluator(TraceSuiteEvaluator):
    """Reports ``score``, percent, and the same of each depth or, for reasoning, number of needles.

    Single needles: answers with the keyword. Retrieval: the share of keywords. Reasoning: answers
    whose last box holds the name.
    """

    by_column = "part"

    def score_answer(self, prediction: str, sample: Mapping[str, Any]) -> float:
        """Return the stock evaluator's score of this answer alone."""
        kind, _ = split_task(self.task)
        if kind == "reasoning":
            return super().score_answer(prediction, sample)
        if kind == "single":
            found = NeedleBenchOriginEvaluator().score([prediction], [sample["answer"]])
            return float(found["score"])
        with contextlib.redirect_stdout(io.StringIO()):  # the stock one prints every comparison
            found = NeedleBenchParallelEvaluator().score([prediction], [sample["answer"]])
        return float(found["average_score"])
