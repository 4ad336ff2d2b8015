"""Scores one answer of an L-Eval task by the suite's own rules, from 0 to 1.

The rules are those of ``Evaluation/auto_eval.py``, ``em.py``, ``f1.py`` and ``rouge.py``
(OpenLMLab/LEval), with their quirks: an answer that names no option counts as A, a part of several
right options as a quarter.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from opencompass_llada.benchmarks.longbench.scoring import qa_f1_score

Metric = Callable[[str, str], float]
LETTERS = "ABCD"
#: What an incomplete choice of several right options counts.
PART_OF_CHOICE = 0.25
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(prediction: str, gold: str) -> float:
    """Compare letters of options, else numbers, else look for the gold answer in the prediction."""
    wanted, given = _plain(gold), _plain(prediction)
    if set(wanted) <= set(LETTERS):
        return 1.0 if given == wanted else PART_OF_CHOICE * (set(given) <= set(wanted))
    with suppress(ValueError):
        return float(float(prediction) == float(gold))
    return float(_squeeze(gold) in _squeeze(prediction))


def single_choice(prediction: str, gold: str) -> float:
    """Compare the first letter of A to D in the prediction, of whatever word."""
    if not prediction.strip():
        return 0.0
    chosen = next((letter for letter in prediction if letter in LETTERS), "A")
    return exact_match(prediction if prediction in LETTERS else chosen, read_choice(gold))


def several_choices(prediction: str, gold: str) -> float:
    """Compare the set of letters that a prediction names."""
    if not prediction.strip():
        return 0.0
    chosen = prediction if prediction in LETTERS else _named_letters(prediction)
    return exact_match(chosen, read_choice(gold))


def read_choice(gold: str) -> str:
    """Return the letters of a gold answer, such as ``(B) Their subconscious ...``."""
    return re.sub("[^A-D]", "", gold.split()[0]) or "A"


def _named_letters(prediction: str) -> str:
    leading = re.match("[A-D]*", prediction)
    letters = leading.group() if leading else ""
    if len(letters) > 1:
        return "".join(sorted(set(letters)))
    rest = prediction[len(letters) :].partition("Question")[0]
    letters += "".join(re.findall(r"\s*[A-Z](?=[\s.)])", rest))
    letters = "".join(sorted(set(re.sub("[^A-D]", "", letters))))
    if letters:
        return letters
    found = re.search("[A-D]+", rest)
    return found.group() if found else "A"


def worked_number(prediction: str, gold: str) -> float:
    """Compare the number after "The answer is", else the last one of the first paragraph."""
    return exact_match(_read_number(prediction), _read_number(gold))


def _read_number(text: str) -> str:
    found = re.search(r"The answer is (\S+)", text)
    if found:
        word = found.group(1)
    else:
        words = reversed(text.partition("\n\n")[0].split(" "))
        word = next((word for word in words if any(map(str.isdigit, word))), "")
    return "".join(filter(str.isdigit, word.partition(".")[0]))


def program_output(prediction: str, gold: str) -> float:
    """Look for the gold output in the last words, or in those after "the final output"."""
    size = len(gold.split()) + 3
    shown = _plain_output(prediction)
    for filler in ("will be", "of the code", "is", "would be", "the value of", "the result of",
                   "printed"):  # fmt: skip
        shown = shown.replace(filler, "")
    before, found, after = shown.rpartition("the final output")
    words = re.split(r"\s+", after if found else shown)
    return exact_match(" ".join(words[:size] if found else words[-size:]), _plain_output(gold))


def _plain_output(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    for old, new in ((",", ""), ("'", ""), ("\\", ""), (".0", ""), ("] [", "]["), ("[ [", "[["),
                     ("] ]", "]]")):  # fmt: skip
        text = text.replace(old, new)
    return text


def true_or_false(prediction: str, gold: str) -> float:
    """Compare the first word that holds "true" or "false"."""
    for word in prediction.lower().split():
        if "true" in word or "false" in word:
            return float(("true" if "true" in word else "false") == gold.lower())
    return 0.0


def rouge_l(prediction: str, gold: str) -> float:
    """ROUGE-L's F1 by the package ``rouge_score``."""
    return float(_rouge().score(gold, prediction)["rougeL"].fmeasure)


#: Name in `facts.TASKS` -> metric.
METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "single_choice": single_choice,
    "several_choices": several_choices,
    "worked_number": worked_number,
    "program_output": program_output,
    "true_or_false": true_or_false,
    "f1": qa_f1_score,
    "rouge": rouge_l,
}


def _plain(text: str) -> str:
    """Take out punctuation and articles; capitals stay."""
    return " ".join(_ARTICLES.sub(" ", text.translate(_NO_PUNCTUATION)).split())


def _squeeze(text: str) -> str:
    return text.lower().replace(" ", "")


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)
