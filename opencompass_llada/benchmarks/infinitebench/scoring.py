"""Scores one answer of an InfiniteBench task by the suite's own rules, from 0 to 1.

The rules are those of ``compute_scores.py`` (OpenBMB/InfiniteBench). Where an evaluator of
OpenCompass does the same, it is asked. Differs from the original for answers that stop it with an
error (a number with a point where a whole one is expected): they score 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from opencompass_llada.benchmarks.longbench.scoring import qa_f1_score
from opencompass_llada.benchmarks.published.stock import score_one

Metric = Callable[[str, Sequence[str]], float]
LETTERS = "ABCD"
_STOCK = "opencompass.datasets.infinitebench"
#: What stands before the letter in an answer of a sentence, in the original's order.
_CODE_PREFIXES = ("answer is:", "is:", "answer:", "correct option is:")
_CHOICE_PREFIXES = ("answer is:", "answer:", "answer is", "option is")
_NUMBER = re.compile(r"\d+\.\d+|\d+")


def first_integer(prediction: str, answers: Sequence[str]) -> float:
    """1 if the first run of digits is the answer's, digit by digit."""
    found = re.search(r"[0-9]+", prediction)
    return float(found is not None and found.group() == answers[0])


def first_number(prediction: str, answers: Sequence[str]) -> float:
    """1 if the first number, with or without a point, is the answer."""
    found = _NUMBER.search(prediction)
    return float(found is not None and float(found.group()) == float(answers[0]))


def last_integer(prediction: str, answers: Sequence[str]) -> float:
    """1 if the last word, without points, colons and quotes, is the answer's whole number."""
    words = _without(prediction, "\n.`'\":").split()
    with suppress(ValueError):
        return float(bool(words) and int(words[-1]) == int(answers[0]))
    return 0.0


def named_key(prediction: str, answers: Sequence[str]) -> float:
    """1 if one of the words is the value; by OpenCompass's evaluator."""
    return score_one(f"{_STOCK}.InfiniteBenchretrievekvEvaluator", prediction, answers[0]) / 100


def named_character(prediction: str, answers: Sequence[str]) -> float:
    """1 if one of the words is the character's first name; by OpenCompass's evaluator."""
    return score_one(f"{_STOCK}.InfiniteBenchendiaEvaluator", prediction, list(answers)) / 100


def leading_values(prediction: str, answers: Sequence[str]) -> float:
    """Share of the values that are right up to the first that is not.

    By OpenCompass's evaluator, which counts them and leaves out the division by their number.
    """
    values = [int(value) for value in answers]
    right = score_one(f"{_STOCK}.InfiniteBenchmathcalcEvaluator", prediction, values) / 100
    return right / len(values)


def chosen_function(prediction: str, answers: Sequence[str]) -> float:
    """1 if the answer begins with the letter and a point or colon, or names it after a phrase.

    ``answers`` are the function's name and its letter. A letter alone does not count: so it is in
    the original.
    """
    name, letter = answers
    text = prediction.strip()
    if text[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    for part in ("\n", "`", "'", '"', "-", "*", "Option", "option"):
        text = text.replace(part, " ")
    after = _after_prefix(re.sub(" {2,}", " ", text), _CODE_PREFIXES)
    return float(after is not None and after.startswith((letter, name)))


def chosen_option(prediction: str, answers: Sequence[str]) -> float:
    """1 for the right letter: the first one, after a phrase, or the first word that is one.

    ``answers`` are the option's text and its letter; the text alone counts, too.
    """
    text = prediction.strip()
    if not text:
        return 0.0
    if text[0] in LETTERS:
        return float(text[0] in answers)
    if text in answers:
        return 1.0
    text = re.sub(" {2,}", " ", _without(text, "\n\"'.,?!{}"))
    after = _after_prefix(text, _CHOICE_PREFIXES)
    if after is not None:
        return float(after.startswith(tuple(answers)))
    return float(next((word in answers for word in text.split() if word in LETTERS), False))


def book_answer(prediction: str, answers: Sequence[str]) -> float:
    """F1 over words with the best of the gold answers."""
    return max(qa_f1_score(prediction, answer) for answer in answers)


def chinese_book_answer(prediction: str, answers: Sequence[str]) -> float:
    """F1 over characters with the best of the gold answers.

    By OpenCompass's evaluator, which cuts words with jieba: it is given characters with spaces
    between them, and so cuts between all.
    """
    shown, *golds = (" ".join(text) for text in (prediction, *answers))
    evaluator = "opencompass.datasets.longbench.evaluators.LongBenchF1Evaluator"
    return score_one(evaluator, shown, golds, language="zh") / 100


def summary(prediction: str, answers: Sequence[str]) -> float:
    """ROUGE-Lsum's F1 by the package ``rouge_score``, with the best of the gold answers."""
    return float(_rouge().score_multi(list(answers), prediction)["rougeLsum"].fmeasure)


#: Task -> metric.
METRICS: dict[str, Metric] = {
    "passkey": first_integer,
    "number_string": first_integer,
    "kv_retrieval": named_key,
    "longbook_sum_eng": summary,
    "longbook_qa_eng": book_answer,
    "longbook_choice_eng": chosen_option,
    "longbook_qa_chn": chinese_book_answer,
    "longdialogue_qa_eng": named_character,
    "code_debug": chosen_function,
    "code_run": last_integer,
    "math_calc": leading_values,
    "math_find": first_number,
}


def _without(text: str, characters: str) -> str:
    """Put a space in place of each of these characters."""
    return text.translate(dict.fromkeys(map(ord, characters), " "))


def _after_prefix(text: str, prefixes: Sequence[str]) -> str | None:
    """Return what follows the first of the phrases that is found, and one character more.

    None where none is found; '' where the text ends in it.
    """
    for prefix in prefixes:
        place = text.find(prefix)
        if place >= 0:
            return text[place + len(prefix) + 1 :]
    return None


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeLsum"], use_stemmer=False)
