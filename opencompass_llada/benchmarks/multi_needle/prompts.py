"""Writes NeedleBench's multi-needle prompts: needles, questions, and where the needles go.

The chat form is NeedleBench's (``NeedleBenchParallelDataset`` and ``...MultiDataset`` of
OpenCompass 0.5.4), byte for byte; the base-model form, which it lacks, ends as a single needle's.
"""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.data_files import parse_json_line, read_json, read_text, take
from opencompass_llada.benchmarks.needle.prompts import WORDINGS
from opencompass_llada.benchmarks.needle.samples import NeedleBenchNeedle, parse_needle
from opencompass_llada.options import check_value

#: What NeedleBench puts between questions and between answers, in both languages.
JOINT = "、"


@dataclass(frozen=True, kw_only=True)
class MultiWording:
    """What multi-needle prompts of one language have besides `WORDINGS`."""

    reading_advice: str
    """Follows the preface of a retrieval prompt."""
    questions: str
    question_end: str
    sentence_end: str
    """What the quoted sentence with the blank ends with."""
    answer_format: str
    start: str
    """A retrieval prompt with the question first, after the preface."""
    reasoning_advice: str
    """What NeedleBench adds to a reasoning question."""
    reasoning_answer: str
    """How the answer to a reasoning question begins, for base models."""


MULTI_WORDINGS = {
    "English": MultiWording(
        reading_advice="",
        questions="Now, the questions are: {question}",
        question_end="?",
        sentence_end=".",
        answer_format="Please answer in the format of '{format}'",
        start=(
            "\nNow, the questions are: {question}\n\n"
            "The document given to you by the user is {context}"
        ),
        reasoning_advice=(
            "Before answering, please consider what in the document is most relevant to this "
            "question."
        ),
        reasoning_answer=" The answer is",
    ),
    "Chinese": MultiWording(
        reading_advice="请先仔细阅读下面的文档再依次回答最后提出的问题\n",
        questions="现在请问：{question}",
        question_end="？",
        sentence_end="。",
        answer_format="请按照'{format}'的格式回答。",
        start="现在请问：{question}\n\n用户现在给你的文档是{context}\n",
        reasoning_advice="在回答之前，请思考文档中与此问题最相关的内容是什么。",
        reasoning_answer="答案是",
    ),
}


@dataclass(frozen=True, kw_only=True)
class ReasoningNeedles:
    """One record of ``multi_needle_reasoning_*.json``."""

    texts: tuple[str, ...]
    """The sentences to hide, each a step of the derivation."""
    question: str
    answer: str
    """Its words are the keywords."""


def read_retrieval_needles(path: Path, language: str, count: int) -> list[NeedleBenchNeedle]:
    """Choose needles that share neither subject nor keyword, the same ones for the same file.

    Differs from the original in that the lines are shuffled with seed 0: there it is with whatever
    state the process's random numbers are in, so that two runs ask for different needles.
    """
    lines = list(enumerate(io.StringIO(read_text(path)), start=1))  # ends at \n only
    random.Random(0).shuffle(lines)
    chosen: list[NeedleBenchNeedle] = []
    taken: set[tuple[str, str]] = set()
    for number, text in lines:
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        row = parse_json_line(text, where)
        if take(row, "language", where) != language:
            continue
        needle = parse_needle(row, where)
        names = {("subject", take(row, "arg1", where)), ("keyword", needle.keyword)}
        if not names & taken:
            chosen.append(needle)
            taken |= names
        if len(chosen) == count:
            return chosen
    raise ValueError(
        f"{count} depths need as many needles, and {path} holds {len(chosen)} in {language} "
        "that share neither subject nor keyword; give fewer depths."
    )


def read_reasoning_needles(path: Path, num_needles: int) -> list[ReasoningNeedles]:
    """Read the derivations of a given number of steps, in the file's order."""
    rows = check_value(str(path), read_json(path), Sequence[Mapping[str, Any]])
    found = []
    for number, row in enumerate(rows, start=1):
        where = f"{path}, record {number}"
        steps = take(row, "derivation_count", where, int)
        texts = take(row, "derivations", where, Sequence[str])
        question = take(row, "question", where)
        if steps != num_needles:
            continue
        answer = row["answer"]
        if not isinstance(answer, str) or not answer.strip():
            raise ValueError(
                f"{where}: answer={answer!r} must be a text: an empty one stands in every answer. "
                "Correct the record or take it out."
            )
        found.append(ReasoningNeedles(texts=texts, question=question, answer=answer))
    if not found:
        numbers = sorted({row["derivation_count"] for row in rows})
        raise ValueError(
            f"num_needles={num_needles}: {path} holds no derivation of that many steps; use one "
            f"of {', '.join(map(str, numbers))}."
        )
    return found


def write_retrieval_question(
    needles: Sequence[NeedleBenchNeedle], language: str, *, guide: bool
) -> str:
    """Write the questions for several needles, in the order of their depths.

    The chat form (``guide``) asks for sentences to be filled in; the base-model form ends in the
    beginning of the first sentence.
    """
    wording = MULTI_WORDINGS[language]
    questions = JOINT.join(
        needle.question.split(wording.question_end)[0] + wording.question_end for needle in needles
    )
    sentences = [needle.question.split("'")[1].split(wording.sentence_end)[0] for needle in needles]
    advice = WORDINGS[language].advice
    if not guide:
        space = " " if language == "English" else ""
        return questions + space + advice + sentences[0].split("_")[0]
    # NeedleBench puts its advice in front of the hint, with no space after the last question.
    return questions + advice + wording.answer_format.format(format=JOINT.join(sentences))


def write_reasoning_question(question: str, language: str, *, guide: bool) -> str:
    """Write a reasoning question: with NeedleBench's advice (chat), or an answer's beginning."""
    wording = MULTI_WORDINGS[language]
    return question + (wording.reasoning_advice if guide else wording.reasoning_answer)


def write_retrieval_prompt(
    context: str, question: str, language: str, position: str, *, guide: bool
) -> str:
    """Put preface, context and questions together; the chat form ends in a line break as there."""
    wording, single = MULTI_WORDINGS[language], WORDINGS[language]
    preface = single.preface + wording.reading_advice
    if position == "Start":
        return preface + wording.start.replace("{question}", question).replace("{context}", context)
    document = single.document.replace("{context}", context)
    asked = wording.questions.replace("{question}", question)
    return preface + document + asked + ("\n" if guide else "")


def place_chain(
    context: Sequence[int], needles: Sequence[Sequence[int]], depth: float, gap: float
) -> list[int]:
    """Put the first needle at a depth and each next one a gap behind it, percent of the context.

    The original moves a later needle by the length of those before it twice; so does this.
    """
    points: list[int] = []
    for number in range(len(needles)):
        if number == 0:
            at = int(len(context) * (depth / 100))
        else:
            at = int(points[-1] + len(needles[number - 1]) + len(context) * (gap / 100))
        points.append(min(at, len(context) + sum(map(len, needles[:number]))))
    placed = list(context)
    for number, needle in enumerate(needles):
        placed[points[number] : points[number]] = needle
        points = [point + len(needle) for point in points]
    return placed
