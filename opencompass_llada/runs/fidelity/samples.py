"""A data set's samples as OpenCompass asks them, and its metric for one answer at a time.

Follows what OpenCompass's inference and evaluation tasks do with a data set's config (0.5.4), for
generation without examples or with the retriever's own.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.registry import (
    ICL_EVALUATORS,
    ICL_PROMPT_TEMPLATES,
    ICL_RETRIEVERS,
    TEXT_POSTPROCESSORS,
)
from opencompass.utils import build_dataset_from_cfg


class SampleSet:
    """One data set, limited to some of its samples."""

    def __init__(self, config: Mapping[str, Any], limit: int | None) -> None:
        """Load the data and build its prompts' parts.

        Args:
            config: A data set's config.
            limit: Samples to take, evenly spread over the set; None for all.

        Raises:
            ValueError: If the data set is not for generation.
        """
        self.name: str = config["abbr"]
        self._config = copy.deepcopy(dict(config))
        infer, self._eval = self._config["infer_cfg"], self._config["eval_cfg"]
        self._inferencer = dict(infer["inferencer"])
        kind = self._inferencer["type"]
        if kind is not GenInferencer and str(kind).rsplit(".", 1)[-1] != "GenInferencer":
            raise ValueError(
                f"data set {self.name!r} is asked with {kind}; only data sets whose answers are "
                "generated (GenInferencer) can be compared"
            )
        dataset = build_dataset_from_cfg(self._config)
        self._test = dataset.test
        self._column = dataset.reader.output_column
        total = len(self._test)
        count = total if limit is None else min(limit, total)
        self.places = [index * total // count for index in range(count)]
        retriever = dict(infer["retriever"])
        retriever["dataset"] = dataset
        self._retriever = ICL_RETRIEVERS.build(retriever)
        self._templates = {
            name: ICL_PROMPT_TEMPLATES.build(infer[name])
            for name in ("ice_template", "prompt_template")
            if name in infer
        }

    @property
    def max_out_len(self) -> int | None:
        """Tokens to generate; None for the model's own number."""
        return self._inferencer.get("max_out_len")

    @property
    def stopping_criteria(self) -> Sequence[str]:
        """Stop strings of the data set."""
        return self._inferencer.get("stopping_criteria") or []

    def prompts(self) -> list[Any]:
        """Return the prompts of the chosen samples, before a model's chat template."""
        examples = self._retriever.retrieve()
        ice_template = self._templates.get("ice_template")
        found = []
        for place in self.places:
            ice = self._retriever.generate_ice(examples[place], ice_template=ice_template)
            found.append(
                self._retriever.generate_prompt_for_generate_task(
                    place,
                    ice,
                    gen_field_replace_token="",
                    ice_template=ice_template,
                    prompt_template=self._templates.get("prompt_template"),
                )
            )
        return found

    def units(self) -> list[str]:
        """Return what each chosen sample depends on: its answer, in a data set of a length.

        Data sets of other lengths and depths ask for the same needles, or take the same questions;
        their answers tell which. Empty elsewhere, where the same answer is no sign of it.
        """
        if self._column is None or not {"length", "depth"} & self._config.keys():
            return [""] * len(self.places)
        name = self._config.get("benchmark", "")
        return [f"{name} {self._test[place][self._column]}" for place in self.places]

    def score(self, texts: Sequence[str]) -> list[float]:
        """Return the metric's score of each answer, of its sample alone.

        Args:
            texts: Answers of the chosen samples.

        Raises:
            ValueError: If the metric gives no number for a sample.
        """
        process = self._postprocessor()
        scores = []
        for place, text in zip(self.places, texts, strict=True):
            rows = self._test.select([place])
            references = rows[self._column] if self._column else None
            evaluator = ICL_EVALUATORS.build(copy.deepcopy(self._eval["evaluator"]))
            given = {
                "predictions": [process(text)],
                "references": references,
                "test_set": rows,
                "origin_prompt": [None],
            }
            names = inspect.signature(evaluator.score).parameters
            scores.append(
                _read_score(
                    evaluator.score(**{k: v for k, v in given.items() if k in names}), self.name
                )
            )
        return scores

    def _postprocessor(self) -> Callable[[str], str]:
        options = dict(self._eval.get("pred_postprocessor") or {})
        if not options:
            return lambda text: text
        kind = options.pop("type")
        process = TEXT_POSTPROCESSORS.get(kind) if isinstance(kind, str) else kind
        return lambda text: process(text, **options)


def _read_score(result: Mapping[str, Any], name: str) -> float:
    """Return ``score``, else the first number of a metric's result."""
    numbers = {
        key: value
        for key, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if not numbers:
        raise ValueError(f"the metric of {name!r} gives no number for a sample: {dict(result)}")
    return float(numbers.get("score", next(iter(numbers.values()))))
