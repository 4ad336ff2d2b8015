"""RULER for OpenCompass: the data set of one task at one length, and its evaluator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

from datasets import Dataset
from opencompass.datasets.base import BaseDataset

from opencompass_llada.benchmarks.needle.haystack import HaystackStore
from opencompass_llada.benchmarks.opencompass_bases import CompleteEvaluator, check_complete
from opencompass_llada.benchmarks.ruler.prompts import RulerSpec, parse_spec
from opencompass_llada.benchmarks.ruler.samples import build_samples
from opencompass_llada.benchmarks.ruler.scoring import MATCHES
from opencompass_llada.files import check_user_cache
from opencompass_llada.options import reject_unknown


class RulerDataset(BaseDataset):
    """Keywords are the fields of `tasks.RulerSpec`."""

    #: Keeps tokenizers for all data sets of a process.
    store: ClassVar[HaystackStore] = HaystackStore(max_entries=4)

    @staticmethod
    def load(**options: Any) -> Dataset:
        """Make or read the samples.

        Args:
            **options: Fields of `tasks.RulerSpec`.

        Returns:
            Columns prompt, answer (a list of references) and num_tokens (of the prompt).

        Raises:
            ValueError: For a wrong option, missing data or a length that is too small.
        """
        spec = parse_spec(options)
        samples = build_samples(spec, RulerDataset.store.tokenizer(spec.tokenizer))
        return Dataset.from_dict(
            {
                "prompt": [sample.prompt for sample in samples],
                "answer": [list(sample.answers) for sample in samples],
                "num_tokens": [sample.num_tokens for sample in samples],
            }
        )

    @staticmethod
    def check_options(**options: Any) -> RulerSpec:
        """Check the keywords, before any file is opened."""
        return parse_spec(options)

    @staticmethod
    def source(options: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what its samples are made of: cells that share it are checked together."""
        return tuple(str(options.get(name)) for name in ("path", "essay_file", "tokenizer"))

    @staticmethod
    def check_data(cells: Iterable[Mapping[str, Any]]) -> None:
        """Make a few samples of cells with one source; see `check_cells`."""
        check_user_cache("ruler")
        check_cells(cells)


def check_cells(configs: Iterable[Mapping[str, Any]]) -> None:
    """Make one sample of every task at its smallest length.

    A fault in data, tokenizer or lengths shows this way before any model is loaded.

    Args:
        configs: Data set configs of this class.

    Raises:
        ValueError: As `RulerDataset.load`.
    """
    names = {entry.name for entry in fields(RulerSpec)}
    smallest: dict[str, RulerSpec] = {}
    for config in configs:
        spec = parse_spec({name: value for name, value in config.items() if name in names})
        if spec.task not in smallest or spec.length < smallest[spec.task].length:
            smallest[spec.task] = spec
    for spec in smallest.values():
        tokenizer = RulerDataset.store.tokenizer(spec.tokenizer)
        build_samples(replace(spec, num_samples=min(1, spec.num_samples)), tokenizer)


class RulerEvaluator(CompleteEvaluator):
    """Reports ``score`` (0 to 100, two decimals as in RULER) and ``num_samples``."""

    def __init__(self, match: str = "all") -> None:
        """Keep how answers are scored.

        Args:
            match: ``'all'`` (niah, vt, cwe, fwe) or ``'part'`` (qa).

        Raises:
            ValueError: For another.
        """
        super().__init__()
        reject_unknown("RULER match", [match], MATCHES)
        self.match = match

    def score(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        test_set: Any = None,
    ) -> dict[str, Any]:
        """Score the answers of one data set.

        Args:
            predictions: The model's answers.
            references: For each sample, what its answer must contain.
            test_set: The samples, to check the number of predictions against.

        Returns:
            score, num_samples, and details: prediction, references and score (0 to 100) of each.

        Raises:
            ValueError: If the number of predictions is not that of the samples, or is 0.
        """
        check_complete(predictions, references if test_set is None else test_set)
        if not predictions:
            raise ValueError("There are no predictions, so there is no score.")
        match = MATCHES[self.match]
        details = [
            {
                "prediction": prediction,
                "references": list(expected),
                "score": 100 * match(prediction, expected),
            }
            for prediction, expected in zip(predictions, references, strict=True)
        ]
        shares = [match(p, r) for p, r in zip(predictions, references, strict=True)]
        return {
            "score": round(sum(shares) / len(shares) * 100, 2),
            "num_samples": len(details),
            "details": details,
        }
