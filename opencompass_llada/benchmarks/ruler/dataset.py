"""Makes OpenCompass data sets of RULER's tasks at a length, and scores them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from opencompass_llada.benchmarks.needle.samples import HaystackStore
from opencompass_llada.benchmarks.opencompass_bases import CheckedDataset, CompleteEvaluator
from opencompass_llada.benchmarks.readers import split_prompt
from opencompass_llada.benchmarks.ruler.prompts import MATCHES, RulerSpec
from opencompass_llada.benchmarks.ruler.samples import build_samples
from opencompass_llada.benchmarks.ruler.solver import solve
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
        tokenizer = cls.store.tokenizer(options.tokenizer)
        for sample in build_samples(options, tokenizer):
            prompt, num_tokens = sample.prompt, sample.num_tokens
            if options.reader != "full":
                parts = split_prompt(prompt, sample.part_lengths)
                prompt = options.read(
                    parts, cls.store.tokenizer, options.tokenizer, chat=options.chat
                )
                num_tokens = tokenizer.count(prompt, as_turn=options.chat)
            yield {"prompt": prompt, "answer": list(sample.answers), "num_tokens": num_tokens}

    @classmethod
    def count_rows(cls, options: RulerSpec) -> int:
        """Return the number that was asked for."""
        return options.num_samples

    @classmethod
    def check_data(cls, same: Iterable[Mapping[str, Any]]) -> None:
        """Make one sample of every task at its smallest length, and forget them."""
        check_user_cache("ruler")
        smallest: dict[str, RulerSpec] = {}
        for spec in (cls.check_options(**options) for options in same):
            if spec.task not in smallest or spec.length < smallest[spec.task].length:
                smallest[spec.task] = spec
        for spec in smallest.values():
            for _ in cls.make_rows(replace(spec, num_samples=min(1, spec.num_samples))):
                pass


class RulerEvaluator(CompleteEvaluator):
    """Reports ``score``, from 0 to 100 with two decimals as in RULER.

    Chance is 0 but for questions on documents, which a model may know the answers of.
    """

    def __init__(self, match: str = "all") -> None:
        """Keep how answers are scored: ``'all'`` (niah, vt, cwe, fwe) or ``'part'`` (qa)."""
        super().__init__()
        reject_unknown("RULER match", [match], MATCHES)
        self.match = match
        if match == "part":
            self.ceiling = "gold answer"

    def chance(self, sample: Mapping[str, Any]) -> float | None:
        """Return 0: numbers, uuids and coded words are drawn from thousands, common words too."""
        return 0.0 if self.match == "all" else None

    def solve(self, sample: Mapping[str, Any]) -> str | None:
        """Return what `solver.solve` reads out of the prompt; of qa the first gold answer."""
        return str(sample["answer"][0]) if self.match == "part" else solve(sample["prompt"])

    def judge(self, prediction: str, reference: Sequence[str]) -> dict[str, Any]:
        """Return the prediction, what it must contain, and its score from 0 to 100."""
        share = MATCHES[self.match](prediction, reference)
        return {"prediction": prediction, "references": list(reference), "score": 100 * share}

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average in the original's order of operations, on which its second decimal depends."""
        match = MATCHES[self.match]
        shares = [match(detail["prediction"], detail["references"]) for detail in details]
        return {"score": round(sum(shares) / len(shares) * 100, 2)}
