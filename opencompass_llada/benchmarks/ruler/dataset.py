"""Makes OpenCompass data sets of RULER's tasks at a length, and scores them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from opencompass_llada.benchmarks.needle.samples import HaystackStore
from opencompass_llada.benchmarks.opencompass_bases import CheckedDataset, CompleteEvaluator
from opencompass_llada.benchmarks.ruler.prompts import MATCHES, RulerSpec
from opencompass_llada.benchmarks.ruler.samples import build_samples
from opencompass_llada.files import check_user_cache
from opencompass_llada.options import reject_unknown


class RulerDataset(CheckedDataset):
    """Keywords are the fields of `RulerSpec`."""

    options_class = RulerSpec
    title = "RULER data set"
    source_keys = ("path", "essay_file", "tokenizer")
    #: Holds tokenizers for all data sets of a process.
    store: ClassVar[HaystackStore] = HaystackStore()

    @classmethod
    def make_rows(cls, options: RulerSpec) -> Iterator[dict[str, Any]]:
        """Make or read the samples: prompt, answer (a list of references) and num_tokens of it."""
        for sample in build_samples(options, cls.store.tokenizer(options.tokenizer)):
            answers = list(sample.answers)
            yield {"prompt": sample.prompt, "answer": answers, "num_tokens": sample.num_tokens}

    @classmethod
    def check_data(cls, same: Iterable[Mapping[str, Any]]) -> None:
        """Make one sample of every task at its smallest length, and forget them."""
        check_user_cache("ruler")
        smallest: dict[str, RulerSpec] = {}
        for spec in (cls.check_options(**options) for options in same):
            if spec.task not in smallest or spec.length < smallest[spec.task].length:
                smallest[spec.task] = spec
        for spec in smallest.values():
            few = replace(spec, num_samples=min(1, spec.num_samples))
            build_samples(few, cls.store.tokenizer(spec.tokenizer))


class RulerEvaluator(CompleteEvaluator):
    """Reports ``score``, from 0 to 100 with two decimals as in RULER."""

    def __init__(self, match: str = "all") -> None:
        """Keep how answers are scored: ``'all'`` (niah, vt, cwe, fwe) or ``'part'`` (qa)."""
        super().__init__()
        reject_unknown("RULER match", [match], MATCHES)
        self.match = match

    def judge(self, prediction: str, reference: Sequence[str]) -> dict[str, Any]:
        """Return the prediction, what it must contain, and its score from 0 to 100."""
        share = MATCHES[self.match](prediction, reference)
        return {"prediction": prediction, "references": list(reference), "score": 100 * share}

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average in the original's order of operations, on which its second decimal depends."""
        match = MATCHES[self.match]
        shares = [match(detail["prediction"], detail["references"]) for detail in details]
        return {"score": round(sum(shares) / len(shares) * 100, 2)}
