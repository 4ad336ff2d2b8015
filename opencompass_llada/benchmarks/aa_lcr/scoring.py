"""Scores AA-LCR: by OpenCompass's judge, and by words that an answer shares with the gold one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from opencompass_llada.benchmarks.aa_lcr.facts import JUDGE_VARIABLES, SCORED_BY
from opencompass_llada.benchmarks.longbench.scoring import qa_f1_score
from opencompass_llada.benchmarks.opencompass_bases import mean
from opencompass_llada.benchmarks.published.dataset import SuiteEvaluator
from opencompass_llada.options import reject_unknown


class AaLcrSuiteEvaluator(SuiteEvaluator):
    """Reports ``accuracy`` by the judge, and ``containment`` and ``f1`` of words, percent.

    Only accuracy is the published score. ``containment`` is the share of a gold answer's parts
    (separated by semicolons) that stand in the answer, case and white space aside; ``f1`` is
    SQuAD's F1 of words. They need no judge.
    """

    def __init__(
        self, task: str = "", scored_by: str = "judge", judge: Mapping[str, Any] | None = None
    ) -> None:
        """Keep who scores.

        ``judge`` is a model's config; by default the one that the environment names.
        """
        super().__init__(task)
        reject_unknown("scored_by", [scored_by], SCORED_BY)
        self.scored_by, self.judge_cfg = scored_by, dict(judge or {})

    def judge(self, prediction: str, reference: Mapping[str, Any]) -> dict[str, Any]:
        """Return prediction, gold answer, and what words say of them."""
        parts = list(reference["answer"])
        return {
            "prediction": prediction,
            "answer": parts,
            "containment": 100 * contain(prediction, parts),
            "f1": 100 * qa_f1_score(prediction, "; ".join(parts)),
        }

    def summarize(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Average over all answers."""
        return {figure: mean(details, figure) for figure in ("containment", "f1")}

    def score(
        self, predictions: Sequence[str], references: Any = None, test_set: Any = None
    ) -> dict[str, Any]:
        """Return the figures and the details of each answer, with the judge's if it is asked."""
        figures = super().score(predictions, references, test_set)
        if self.scored_by == "overlap":
            return figures
        judged = self._ask_judge(predictions, references, test_set)
        for own, told in zip(figures["details"], judged.pop("details"), strict=True):
            own.update(judge_response=told["judge_response"], judgement=told["judgement"])
        return {
            **{name: value for name, value in judged.items() if name.startswith("accuracy")},
            "num_unknown": judged["unknown_count"],
            **figures,
        }

    def _ask_judge(
        self, predictions: Sequence[str], references: Any, test_set: Any
    ) -> dict[str, Any]:
        """Return what the stock evaluator makes of the judge's answers."""
        from opencompass.configs.datasets.aa_lcr.aa_lcr_gen import AA_LCR_JUDGE_TEMPLATE
        from opencompass.evaluator import GenericLLMEvaluator
        from opencompass.openicl.icl_raw_prompt_template import RawPromptTemplate

        if not self.judge_cfg:
            check_judge()
        stock = GenericLLMEvaluator(
            prompt_template={
                "type": RawPromptTemplate,
                "messages": [{"role": "user", "content": AA_LCR_JUDGE_TEMPLATE}],
            },
            judge_cfg=self.judge_cfg,
            # Empty: the samples are those of this run, not all that the stock class reads.
            dataset_cfg={},
            dict_postprocessor={"type": "aa_lcr_llmjudge_postprocess"},
        )
        stock._out_dir = self._out_dir
        stock._dataset_replica_idx = getattr(self, "_dataset_replica_idx", 0)
        told: dict[str, Any] = stock.score(list(predictions), references, test_set)
        return told


def contain(prediction: str, parts: Sequence[str]) -> float:
    """Return the share of parts that stand in a prediction, 0 to 1, case and white space aside."""
    text = _plain(prediction)
    return sum(_plain(part) in text for part in parts) / len(parts) if parts else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def check_judge() -> None:
    """Raise a ValueError unless the environment names a judge."""
    missing = [name for name in JUDGE_VARIABLES if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"AA-LCR is scored by a judge model, and {' and '.join(missing)} is not set. Set "
            "OC_JUDGE_MODEL, OC_JUDGE_API_KEY and OC_JUDGE_API_BASE (an OpenAI-like server, also "
            "one of your own), or score the words that answers share with the gold ones, which is "
            "not the published score: LLADA_SCORED_BY=overlap."
        )
