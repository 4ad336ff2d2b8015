"""NeedleBench's multi-needle prompts: needles, questions, wording, and where the needles go.

The chat form is NeedleBench's (``NeedleBenchParallelDataset`` for retrieval, ``...MultiDataset``
for reasoning, of OpenCompass 0.5.4), byte for byte. The base-model form, which NeedleBench lacks,
is ours: as for a single needle, the prompt ends in the beginning of the answer.
"""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.json_files import parse_json_line, read_json, read_text, take
from opencompass_llada.benchmarks.needle.haystack import check_keyword
from opencompass_llada.benchmarks.needle.prompts import WORDINGS
from opencompass_llada.options import check_value

#: What NeedleBench puts between questions and between answers, in both languages.
JOINT = "、"


@dataclass(frozen=True, kw_only=True)
class MultiWording:
    """What multi-needle prompts of one language have besides `WORDINGS`."""

    reading_advice: str
    """Follows the preface of a retrieval prompt."""
    questions: str
    """Introduces the questions of a retrieval prompt; ``{question}`` stands for them."""
    question_end: str
    """What a question ends with."""
    sentence_end: str
    """What the quoted sentence with the blank ends with."""
    answer_format: str
    """Asks for a format; ``{format}`` stands for the sentences with blanks."""
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
class RetrievalNeedle:
    """One line of ``needles.jsonl``, as several are asked for at once."""

    text: str
    """The sentence to hide, without line breaks around it."""
    question: str
    """The question with its format hint."""
    keyword: str
    """What the answer must contain."""


@dataclass(frozen=True, kw_only=True)
class ReasoningNeedles:
    """One record of ``multi_needle_reasoning_*.json``."""

    texts: tuple[str, ...]
    """The sentences to hide, each a step of the derivation."""
    question: str
    """Asks for what follows from all of them."""
    answer: str
    """The answer, whose words are the keywords."""


def read_retrieval_needles(path: Path, language: str, count: int) -> list[RetrievalNeedle]:
    """Choose needles that share neither subject nor keyword, the same ones for the same file.

    Differs from the original in that the lines are shuffled with seed 0: there it is with whatever
    state the process's random numbers are in, so that two runs ask for different needles.

    Raises:
        ValueError: If the file holds fewer, or one that cannot be scored; names file and line.
    """
    lines = list(enumerate(io.StringIO(read_text(path)), start=1))  # ends at \n only
    random.Random(0).shuffle(lines)
    chosen: list[Mapping[str, Any]] = []
    for number, text in lines:
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        row = parse_json_line(text, where)
        if take(row, "language", where) != language:
            continue
        check_keyword(row, where)
        for name in ("arg1", "arg2", "needle", "retrieval_question"):
            take(row, name, where)
        is_new = all(row[name] != other[name] for other in chosen for name in ("arg1", "arg2"))
        if is_new:
            chosen.append(row)
        if len(chosen) == count:
            break
    if len(chosen) < count:
        raise ValueError(
            f"{count} depths need as many needles, and {path} holds {len(chosen)} in {language} "
            "that share neither subject nor keyword; give fewer depths."
        )
    return [
        RetrievalNeedle(text=row["needle"], question=row["retrieval_question"], keyword=row["arg2"])
        for row in chosen
    ]


def read_reasoning_needles(path: Path, num_needles: int) -> list[ReasoningNeedles]:
    """Read the derivations of a given number of steps, in the file's order.

    Raises:
        ValueError: If there are none; names the numbers that there are. If an answer is empty.
    """
    rows = check_value(str(path), read_json(path), Sequence[Mapping[str, Any]])
    for number, row in enumerate(rows):
        where = f"{path}, record {number + 1}"
        take(row, "derivation_count", where, int)
        take(row, "derivations", where, Sequence[str])
        take(row, "question", where)
    found = [row for row in rows if row.get("derivation_count") == num_needles]
    if not found:
        numbers = sorted({row["derivation_count"] for row in rows})
        raise ValueError(
            f"num_needles={num_needles}: {path} holds no derivation of that many steps; use one "
            f"of {', '.join(map(str, numbers))}."
        )
    for row in found:
        if not isinstance(row["answer"], str) or not row["answer"].strip():
            raise ValueError(
                f"{path}, record {rows.index(row) + 1}: answer={row['answer']!r} must be a text: "
                "an empty one stands in every answer. Mend the record or take it out."
            )
    return [
        ReasoningNeedles(
            texts=tuple(row["derivations"]), question=row["question"], answer=row["answer"]
        )
        for row in found
    ]


def write_retrieval_question(
    needles: Sequence[RetrievalNeedle], language: str, *, guide: bool
) -> str:
    """Write the questions for several needles and, by ``guide``, what follows them.

    Args:
        needles: In the order of their depths.
        language: A key of `MULTI_WORDINGS`.
        guide: The chat form, which asks for sentences to be filled in (True), or the base-model
            form, which ends in the beginning of the first sentence (False).
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
    if guide:
        return question + wording.reasoning_advice
    return question + wording.reasoning_answer


def write_retrieval_prompt(
    context: str, question: str, language: str, position: str, *, guide: bool
) -> str:
    """Put preface, context and questions together.

    Args:
        context: The haystack with its needles.
        question: From `write_retrieval_question`.
        language: A key of `MULTI_WORDINGS`.
        position: ``'End'`` for the question after the context, ``'Start'`` for before it.
        guide: The chat form, which ends in a line break after the question as the original does.
    """
    wording, single = MULTI_WORDINGS[language], WORDINGS[language]
    preface = single.preface + wording.reading_advice
    if position == "Start":
        return preface + wording.start.replace("{question}", question).replace("{context}", context)
    document = single.document.replace("{context}", context)
    asked = wording.questions.replace("{question}", question)
    return preface + document + asked + ("\n" if guide else "")


def place_parallel(
    context: Sequence[int], needles: Sequence[Sequence[int]], depths: Sequence[float]
) -> list[int]:
    """Put each needle at its own depth, percent of the context without needles.

    Args:
        context: Tokens of the haystack.
        needles: Tokens of each needle.
        depths: As many, ascending.
    """
    placed, inserted = list(context), 0
    for needle, depth in zip(needles, depths, strict=True):
        at = min(int(len(context) * (depth / 100)) + inserted, len(placed))
        placed[at:at] = needle
        inserted += len(needle)
    return placed


def place_chain(
    context: Sequence[int], needles: Sequence[Sequence[int]], depth: float, gap: float
) -> list[int]:
    """Put the first needle at a depth and each next one some way behind it.

    The original moves a later needle by the length of those before it twice; so does this.

    Args:
        context: Tokens of the haystack.
        needles: Tokens of each needle.
        depth: Percent of the context, of the first needle.
        gap: Percent of the context between two needles.
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
