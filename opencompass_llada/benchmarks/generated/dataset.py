"""Makes OpenCompass data sets of generated suites, and scores them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from opencompass_llada.benchmarks.counting import CountingTokenizer, load_counting_tokenizer
from opencompass_llada.benchmarks.generated.samples import CACHE, SuiteSpec, build_samples
from opencompass_llada.benchmarks.generated.task import Question, find_task
from opencompass_llada.benchmarks.opencompass_bases import (
    CheckedDataset,
    CompleteEvaluator,
    mean,
    percent,
)
from opencompass_llada.benchmarks.readers import PromptParts
from opencompass_llada.files import check_user_cache


@lru_cache(maxsize=4)
def _load(name: str) -> CountingTokenizer:
    return load_counting_tokenizer(name)


class GeneratedDataset(CheckedDataset):
    """Keywords are the fields of `SuiteSpec`."""

    options_class = SuiteSpec
    title = "generated data set"
    source_keys = ("benchmark", "tokenizer", "language")

    @classmethod
    def make_rows(cls, options: SuiteSpec) -> Iterator[dict[str, Any]]:
        """Make or read the samples: prompt, answer (a list of references) and chance."""
        for question in build_samples(options, _load(options.tokenizer)):
            prompt = options.read(_parts_of(question), _load, options.tokenizer, chat=options.chat)
            answers = list(question.answers)
            yield {"prompt": prompt, "answer": answers, "chance": question.chance}

    @classmethod
    def count_rows(cls, options: SuiteSpec) -> int:
        """Return the number that was asked for."""
        return options.num_samples

    @classmethod
    def check_data(cls, same: Iterable[Mapping[str, Any]]) -> None:
        """Make a sample of every level and reader at its smallest length, and forget them."""
        check_user_cache(CACHE)
        smallest: dict[tuple[int, str], SuiteSpec] = {}
        for spec in (cls.check_options(**options) for options in same):
            key = (spec.level, spec.reader)
            if key not in smallest or spec.length < smallest[key].length:
                smallest[key] = spec
        for spec in smallest.values():
            list(cls.make_rows(replace(spec, num_samples=1)))


def _parts_of(question: Question) -> PromptParts:
    return PromptParts(head=question.head, context=question.context, question=question.question)


class GeneratedEvaluator(CompleteEvaluator):
    """Reports a suite's ``score``, 0 to 100, and ``exact``: answers with all of it, percent."""

    def __init__(self, suite: str) -> None:
        """Find the suite by the name of its folder."""
        super().__init__()
        self.suite = find_task(suite)

    def judge(self, prediction: str, reference: Sequence[str]) -> dict[str, Any]:
        """Return the prediction, what is right, and its score."""
        score = self.suite.score(prediction, tuple(reference))
        return {"prediction": prediction, "references": list(reference), "score": score}

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average over the answers."""
        exact = percent([detail["score"] == 100 for detail in details])
        return {"score": mean(details), "exact": exact}

    def chance(self, sample: Mapping[str, Any]) -> float:
        """Return what the best guess without the context is expected to score."""
        return float(sample["chance"])

    def solve(self, sample: Mapping[str, Any]) -> str:
        """Return the answer of the suite's own program, which reads the prompt alone."""
        return self.suite.solve(sample["prompt"])
