"""Scores one answer against one gold answer by LongBench's metrics, from 0 to 1.

Each returns what the function for the same in LongBench's ``metrics.py`` (THUDM/LongBench)
returns, but for ROUGE of very long texts (see `rouge_score`).
"""

from __future__ import annotations

import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

Metric = Callable[[str, str, Sequence[str]], float]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕"
    "〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_CHINESE_PUNCTUATION = str.maketrans("", "", string.punctuation + _CHINESE_PUNCTUATION)


def qa_f1_score(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """F1 over words, without case, punctuation and articles (SQuAD's)."""
    return _f1(_english_words(prediction), _english_words(answer))


def qa_f1_zh_score(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """F1 over the words that jieba finds, without punctuation."""
    return _f1(_chinese_words(prediction), _chinese_words(answer))


def rouge_score(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """ROUGE-L's F1 by the ``rouge`` package; 0 where a text has no word.

    Differs from the original for texts of together about 950 words in one sentence, as Chinese
    ones are to it: there ``rouge`` exceeds Python's recursion limit, and the original takes that
    error, like any other, for a score of 0. Here the limit is raised.
    """
    from rouge import Rouge

    limit = sys.getrecursionlimit()
    # ``rouge`` recurses once a word.
    sys.setrecursionlimit(limit + len(prediction.split()) + len(answer.split()))
    try:
        scores = Rouge(metrics=["rouge-l"]).get_scores([prediction], [answer], avg=True)
    except ValueError:  # "Hypothesis is empty", "Reference is empty"
        return 0.0
    finally:
        sys.setrecursionlimit(limit)
    return float(scores["rouge-l"]["f"])


def rouge_zh_score(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """ROUGE-L's F1 over the words that jieba finds."""
    return rouge_score(" ".join(_segment(prediction)), " ".join(_segment(answer)))


def classification_score(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """1 over the number of classes named in the prediction, if the answer is one of them.

    A class whose name is part of the answer's does not count as named. The original removes such
    classes from a list while it goes through it, so that the one after each removed class is
    passed over and stays; this is kept. Its similarity search for predictions that name no class
    is never reached there, so they score 0.
    """
    named = [name for name in classes if name in prediction]
    for name in named:
        if name in answer and name != answer:
            named.remove(name)  # noqa: B909
    return 1.0 / len(named) if answer in named else 0.0


def retrieval_score(
    prediction: str, answer: str, classes: Sequence[str] = (), *, pattern: str = r"Paragraph (\d+)"
) -> float:
    """Share of the prediction's numbers that are the gold paragraph's ("Paragraph 12")."""
    match = re.search(pattern, answer)
    if match is None:
        raise ValueError(
            f"The gold answer {answer!r} of a retrieval task names no paragraph ({pattern}); "
            "the data file is not LongBench's."
        )
    return count_score(prediction, match.group(1))


def count_score(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Share of the prediction's numbers that are the gold number."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def code_similarity_score(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Similarity in whole percent of the first line that is code to the gold line.

    A line with a backquote, ``#`` or ``//`` is not taken for code. The similarity is 1 minus the
    insertions and deletions over both lengths (fuzzywuzzy's ``ratio`` with python-Levenshtein,
    which OpenCompass installs).
    """
    from rapidfuzz import fuzz

    lines = prediction.lstrip("\n").split("\n")
    code = next((line for line in lines if not re.search(r"`|#|//", line)), "")
    return round(fuzz.ratio(code, answer)) / 100


#: Name in `facts.TASKS` -> metric.
METRICS: dict[str, Metric] = {
    "qa_f1": qa_f1_score,
    "qa_f1_zh": qa_f1_zh_score,
    "rouge": rouge_score,
    "rouge_zh": rouge_zh_score,
    "classification": classification_score,
    "retrieval": retrieval_score,
    "retrieval_zh": partial(retrieval_score, pattern=r"段落(\d+)"),
    "count": count_score,
    "code_similarity": code_similarity_score,
}


def _english_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _chinese_words(text: str) -> list[str]:
    words = (
        "".join(word.lower().translate(_NO_CHINESE_PUNCTUATION).split()) for word in _segment(text)
    )
    return [word for word in words if word]


def _segment(text: str) -> list[str]:
    """Cut Chinese text into words; loads jieba's dictionary the first time, about a second."""
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    return list(jieba.cut(text, cut_all=False))


def _f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of two lists of words as multisets; 0 if either is empty."""
    num_common = sum((Counter(prediction) & Counter(answer)).values())
    if not num_common:
        return 0.0
    precision, recall = num_common / len(prediction), num_common / len(answer)
    return 2 * precision * recall / (precision + recall)
