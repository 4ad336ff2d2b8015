"""Holds bases of benchmarks' OpenCompass classes: data sets, evaluators, inferencers, prompts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from opencompass.datasets.base import BaseDataset
from opencompass.openicl import BaseEvaluator
from opencompass.openicl.icl_inferencer.icl_base_inferencer import (
    BaseInferencer,
    GenInferencerOutputHandler,
)
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.utils.prompt import PromptList

from opencompass_llada.options import build
from opencompass_llada.prompting.encode import VerbatimText

#: Samples of a data set that chance and solver are asked: they cost little, and are not sampled.
MOST_BOUND = 100


class CheckedDataset(BaseDataset):
    """A data set whose keywords are the fields of a dataclass, and that is checked before a run."""

    options_class: ClassVar[type[Any]]
    title: ClassVar[str]
    """What messages call it."""
    table_keys: ClassVar[tuple[str, ...]] = ()
    """Further keywords, which result tables read and the samples do not depend on."""
    source_keys: ClassVar[tuple[str, ...]] = ()
    """The keywords that say what its samples are made of; () for all."""

    @classmethod
    def make_rows(cls, options: Any) -> Iterable[Mapping[str, Any]]:
        """Make the samples, one mapping of columns each, of an instance of `options_class`."""
        raise NotImplementedError

    @classmethod
    def load(cls, **options: Any) -> Dataset:
        """Make the data set of a config's keywords; another reader's says so in a column."""
        checked = cls.check_options(**options)
        reader = getattr(checked, "reader", "full")
        more = {} if reader == "full" else {"reader": reader}
        return Dataset.from_list([{**row, **more} for row in cls.make_rows(checked)])

    @classmethod
    def check_options(cls, **options: Any) -> Any:
        """Check the keywords, before any file is opened; returns an `options_class`."""
        return build(cls.options_class, options, cls.title, also=(*cls.table_keys, "setting"))

    @classmethod
    def count_rows(cls, options: Any) -> int | None:
        """Return how many samples `make_rows` makes; None where only making them tells."""
        return None

    @classmethod
    def source(cls, options: Mapping[str, Any]) -> Hashable:
        """Return what its samples are made of: data sets that share it are checked together."""
        if not cls.source_keys:
            return cls.check_options(**options)
        return tuple(str(options.get(name)) for name in cls.source_keys)

    @classmethod
    def check_data(cls, same: Sequence[Mapping[str, Any]]) -> None:
        """Make or read samples of data sets with one source, and forget them."""
        for _ in cls.make_rows(cls.check_options(**same[0])):
            pass


class CompleteEvaluator(BaseEvaluator):
    """Scores the answers of a data set, and raises where a sample has no prediction.

    Some of OpenCompass's own take the references from the prediction file, and so average what is
    left when a shard is lost. A subclass writes `judge` and `summarize`, or `score` itself.
    """

    judges_by_sample: ClassVar[bool] = False
    """Whether `judge` is given the whole sample, or only its reference."""
    ceiling: str = "exact solver"
    """What `solve` is: this, which reads the prompt alone, or ``gold answer``, which is scored as
    an answer."""
    most_bound: int = MOST_BOUND
    """Samples that they are asked of a data set; fewer where scoring one takes long."""
    chance_figure: ClassVar[str] = "score"
    """The figure of `summarize` that `chance` is the expectation of."""

    def chance(self, sample: Mapping[str, Any]) -> float | None:
        """Return the score, 0 to 100, that is expected of the best guess without the context.

        None where nobody knows. It is of `chance_figure`.
        """
        return None

    def solve(self, sample: Mapping[str, Any]) -> str | None:
        """Return the answer of a program that reads ``sample['prompt']``; None where it cannot."""
        return None

    def judge(self, prediction: str, reference: Any) -> dict[str, Any]:
        """Return the details of one answer."""
        raise NotImplementedError

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the figures of one answer or more."""
        raise NotImplementedError

    def evaluate(self, k: Any, n: int, original_dataset: Any, **score_kwargs: Any) -> Any:
        """Check that every sample was predicted, then score (see `score`)."""
        check_complete(score_kwargs["predictions"], original_dataset)
        return super().evaluate(k, n, original_dataset, **score_kwargs)

    def score(
        self, predictions: Sequence[str], references: Any = None, test_set: Any = None
    ) -> dict[str, Any]:
        """Return the figures, num_samples, and the details of each answer.

        References are the answer column; a test set says how many samples there are.
        """
        check_complete(predictions, references if test_set is None else test_set)
        expected = test_set if self.judges_by_sample else references
        pairs = zip(predictions, expected, strict=True)
        details = [self.judge(prediction, one) for prediction, one in pairs]
        figures = {**self.summarize(details), "num_samples": len(details)}
        if test_set is not None and (bounds := self.find_bounds(references, test_set)):
            figures["bounds"] = bounds
        return {**figures, "details": details}

    def find_bounds(self, references: Any, test_set: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what chance and the solver score on the first samples, `most_bound` of them.

        Figures by name, 0 to 100: under ``chance`` its mean, and under the name of `ceiling` what
        `summarize` makes of the solver's answers, each where all samples have one; nothing for
        samples that another reader than ``full`` is shown.
        """
        samples = list(islice(test_set, self.most_bound))
        if any("reader" in sample for sample in samples):
            return {}
        bounds: dict[str, Any] = {}
        chances = [chance for chance in map(self.chance, samples) if chance is not None]
        if len(chances) == len(samples):
            bounds["chance"] = {self.chance_figure: sum(chances) / len(samples)}
        answers = [answer for answer in map(self.solve, samples) if answer is not None]
        if len(answers) == len(samples):
            expected = samples if self.judges_by_sample else references[: len(samples)]
            details = list(map(self.judge, answers, expected))
            bounds[self.ceiling] = self.summarize(details)
        return {**bounds, "num_samples": len(samples)} if bounds else {}


def check_complete(predictions: Sequence[str], samples: Any) -> None:
    """Raise a ValueError unless there are predictions, one a sample."""
    if len(predictions) != len(samples):
        raise ValueError(
            f"There are {len(predictions)} predictions for {len(samples)} samples: a shard of the "
            "predictions is missing or left over, and a score of the rest would be wrong. Run "
            "inference again with -r <the run's folder>; it makes only what is missing."
        )
    if not predictions:
        raise ValueError("There are no predictions, so there is no score.")


def percent(hits: Sequence[bool]) -> float:
    """Return the share of hits in percent."""
    return 100 * sum(hits) / len(hits)


def mean(details: Sequence[Mapping[str, Any]], figure: str = "score") -> float:
    """Return the mean of a figure of the answers."""
    return sum(detail[figure] for detail in details) / len(details)


#: What OpenCompass's task passes to every inferencer and a `ScoringInferencer` has no use for.
_HOST_KEYWORDS = ("max_out_len", "min_out_len", "max_seq_len", "dump_res_length",
                  "dump_only_message_path", "output_json_filepath",
                  "output_json_filename")  # fmt: skip


class ScoringInferencer(BaseInferencer):
    """Writes one record a sample to the prediction file; a run that was cut off goes on.

    Its keywords are the fields of a dataclass, which are checked before a model loads.
    """

    options_class: ClassVar[type[Any]]
    samples_a_write = 1
    """Samples between two writes of the file that a run resumes from."""

    def __init__(self, model: Any, max_seq_len: int | None = None, **options: Any) -> None:
        """Check the options; the limit is in tokens."""
        self.options = self.check_options(**options)
        size = self.options.batch_size or 1
        super().__init__(model=model, max_seq_len=max_seq_len, batch_size=size)

    @classmethod
    def check_options(cls, **options: Any) -> Any:
        """Return the keywords, checked, as an `options_class`."""
        return build(cls.options_class, options, cls.__name__, also=_HOST_KEYWORDS)

    def prepare(
        self, retriever: Any, templates: Mapping[str, Any]
    ) -> tuple[int, Callable[[int], dict[str, Any]]]:
        """Return the number of samples, and what makes the record of one with its prediction."""
        raise NotImplementedError

    def inference(
        self,
        retriever: Any,
        ice_template: Any = None,
        prompt_template: Any = None,
        output_json_filepath: str | None = None,
        output_json_filename: str | None = None,
    ) -> list[Any]:
        """Make the records that are missing, write the file and return the predictions of all."""
        templates = {"ice_template": ice_template, "prompt_template": prompt_template}
        num_samples, make_record = self.prepare(retriever, templates)
        target = Path(output_json_filepath or self.output_json_filepath)
        name = str(output_json_filename or self.output_json_filename)
        unfinished = f"tmp_{Path(name).with_suffix('.jsonl')}"
        handler = GenInferencerOutputHandler()
        done = len(handler.restore_from_jsonl(str(target), unfinished))
        for index in range(done, num_samples):
            handler.results_dict[str(index)] = make_record(index)
            if (index + 1) % self.samples_a_write == 0:
                handler.write_to_jsonl(str(target), unfinished)
        target.mkdir(parents=True, exist_ok=True)
        handler.write_to_json(str(target), name)
        (target / unfinished).unlink(missing_ok=True)
        return [record["prediction"] for record in handler.results_dict.values()]


class LiteralPromptTemplate(PromptTemplate):
    """Puts a sample's prompt in as it is: ``prompt_template=dict(type=LiteralPromptTemplate)``.

    OpenCompass's own fills ``{column}`` also inside what it has just put in: a program with
    ``{idx}`` in it would reach the model with the sample's number in its place.
    """

    def __init__(self, column: str = "prompt", chat: bool = True) -> None:
        """Name the column with the whole prompt.

        With ``chat`` it is a user's turn, around which a model's chat template (its chat or
        meta_template) goes; else plain text, which every model gets as it is.
        """
        super().__init__(template="{" + column + "}")
        self.column = column
        self.chat = chat

    def generate_item(
        self, entry: Mapping[str, Any], *unused: Any, **also_unused: Any
    ) -> PromptList | str:
        """Return a sample's prompt; OpenCompass's other arguments have nothing to fill."""
        text = str(entry[self.column])
        if not self.chat:
            return VerbatimText(text)
        turn = dict(role="HUMAN", prompt=text)
        begin, end = dict(section="round", pos="begin"), dict(section="round", pos="end")
        return PromptList([begin, turn, end])
