"""Scores one answer of an LV-Eval task by OpenCompass's evaluators, as the authors' code would.

The evaluators are given what makes them compute the functions of ``metrics.py`` (infinigence/
LVEval) to the digit: the first answer and the keywords alone, where OpenCompass hands over all
answers and takes the last for keywords if there are none; and texts that are cut into words once
already where the authors cut them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from opencompass_llada.benchmarks.published.stock import score_one

_STOCK = "opencompass.datasets.lveval.evaluators"
#: Prediction, gold answers, keywords (or ''), language -> 0 to 100.
Metric = Callable[[str, Sequence[str], str, str], float]


def f1(prediction: str, answers: Sequence[str], keywords: str, language: str) -> float:
    """F1 over words with the first answer."""
    kind = f"{_STOCK}.LVEvalF1Evaluator"
    return score_one(kind, prediction, [answers[0]], language=language)


def keyword_f1(prediction: str, answers: Sequence[str], keywords: str, language: str) -> float:
    """F1 with the first answer, if enough of its keywords are there: a fifth, two in Chinese.

    Without keywords all of a Chinese answer are its keywords; of an English one nothing is asked.
    Keywords without a word (an article, a mark) count as none; they stop the original.
    """
    kind = f"{_STOCK}.LVEvalOPTF1Evaluator"
    known = keywords if _has_words(keywords, language) else ""
    return score_one(kind, prediction, [answers[0], known], language=language)


def rouge(prediction: str, answers: Sequence[str], keywords: str, language: str) -> float:
    """ROUGE-L's F1 with the first answer, without the words of the suite's blacklist."""
    kind = f"{_STOCK}.LVEvalOPTRougeEvaluator"
    return score_one(kind, _cut(prediction), [_cut(answers[0])], language=language)


#: Name in `facts.TASKS` -> metric.
METRICS: dict[str, Metric] = {"f1": f1, "keyword_f1": keyword_f1, "rouge": rouge}


def _has_words(text: str, language: str) -> bool:
    if language == "zh":
        return any(map(str.isalnum, text))
    from opencompass.datasets.lveval.evaluators import normalize_answer

    return bool(normalize_answer(text))


def _cut(text: str) -> str:
    return " ".join(_jieba().cut(text, cut_all=False))


@cache
def _jieba() -> Any:
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba
