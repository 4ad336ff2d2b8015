"""Writes NeedleBench's prompts, puts needles into a context and fits its length.

The first wording is NeedleBench's, byte for byte (``NeedleBenchOriginDataset``,
``...ParallelDataset`` and ``...MultiDataset`` of OpenCompass 0.5.4). The base-model form of several
needles, which it lacks, ends as a single needle's does. Independent draws have three wordings more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opencompass_llada.benchmarks.readers import PromptParts

#: A fitted prompt is at most this many tokens shorter than asked for. Joining pieces of text may
#: merge or split tokens at the seams, so that some totals cannot be had.
FIT_TOLERANCE = 8
MAX_FIT_ATTEMPTS = 24
#: What NeedleBench puts between questions and between answers, in both languages.
JOINT = "、"


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The fixed text of one language's prompts."""

    preface: str
    single: Mapping[str, str]
    """What follows, by the question's place: ``End`` or ``Start`` of the prompt. Differs from the
    original for Chinese and ``Start``, where that makes a pair, not a text."""
    several: Mapping[str, str]
    """The same where several needles are asked for."""
    hint: str
    """How the format hint in the question starts."""
    advice: str
    """What NeedleBench puts in front of the hint."""
    question_end: str
    sentence_end: str
    """What the quoted sentence with the blank ends with."""
    answer_format: str
    """The hint where several needles are asked for."""
    base_space: str
    """What stands between the questions for several needles and the advice, for base models."""
    reasoning_answer: str
    """How the answer to a reasoning question begins, for base models."""


_TEXTS = json.loads(Path(__file__).with_name("wordings.json").read_text(encoding="utf-8"))
#: Language -> NeedleBench's wording and, for independent draws, ours, which say it in other words.
WORDINGS = {
    language: tuple(Wording(**texts, **around) for around in _TEXTS["around"][language])
    for language, texts in _TEXTS["fixed"].items()
}
NUM_WORDINGS = min(map(len, WORDINGS.values()))


def write_question(question: str, language: str, *, guide: bool, number: int = 0) -> str:
    """Write a needle's question as a prompt ends.

    With ``guide`` the model is asked to fill in a sentence; without, the prompt ends in that
    sentence's beginning, so that a base model goes on with the answer::

        ... Please answer in the format 'The item on the Emerald Island is________.'   guide
        ... The item on the Emerald Island is                                          no guide

    ``number`` is that of the language's wording, here and below; 0 is NeedleBench's.
    """
    wording = WORDINGS[language][number]
    before, hint, after = question.partition(wording.hint)
    if not hint:
        raise ValueError(
            f"The {language} question {question!r} does not hold {wording.hint!r}, which "
            "NeedleBench's questions state their format with."
        )
    if guide:
        return before + wording.advice + hint + after
    blank = re.match(r"\s*'([^']*?)_+", after)
    if not blank:
        raise ValueError(
            f"The question {question!r} has no quoted sentence with a blank (____) after "
            f"{wording.hint!r}, so no answer prefix can be made for a base model."
        )
    return before + wording.advice + blank.group(1)


def write_several_questions(
    questions: Sequence[str], language: str, *, guide: bool, number: int = 0
) -> str:
    """Write the questions for several needles, in the order of their depths.

    The chat form (``guide``) asks for sentences to be filled in; the base-model form ends in the
    beginning of the first sentence.
    """
    wording = WORDINGS[language][number]
    asked = JOINT.join(
        question.split(wording.question_end)[0] + wording.question_end for question in questions
    )
    sentences = [question.split("'")[1].split(wording.sentence_end)[0] for question in questions]
    if not guide:
        return asked + wording.base_space + wording.advice + sentences[0].split("_")[0]
    # NeedleBench puts its advice in front of the hint, with no space after the last question.
    return asked + wording.advice + wording.answer_format.format(format=JOINT.join(sentences))


def write_reasoning_question(question: str, language: str, *, guide: bool, number: int = 0) -> str:
    """Write a reasoning question: with NeedleBench's advice (chat), or an answer's beginning."""
    wording = WORDINGS[language][number]
    return question + (wording.advice.strip() if guide else wording.reasoning_answer)


def write_prompt(
    context: str,
    question: str,
    language: str,
    position: str,
    *,
    several: bool = False,
    number: int = 0,
) -> str:
    """Put preface, context and question together, with the question at the End or the Start."""
    return write_parts(context, question, language, position, several=several, number=number).whole


def write_parts(
    context: str,
    question: str,
    language: str,
    position: str,
    *,
    several: bool = False,
    number: int = 0,
) -> PromptParts:
    """Return the parts of `write_prompt`'s prompt."""
    wording = WORDINGS[language][number]
    template = (wording.several if several else wording.single)[position]
    before, behind = (part.format(question=question) for part in template.split("{context}"))
    return PromptParts(head=wording.preface + before, context=context, question=behind)


def place_needles(
    context: Sequence[int], needles: Sequence[Sequence[int]], depths: Sequence[float]
) -> list[int]:
    """Put the tokens of each needle into the context's, at its own depth.

    Depths ascend; percent of the context without needles, 0 (before everything) to 100.
    """
    placed, inserted = list(context), 0
    for needle, depth in zip(needles, depths, strict=True):
        at = int(len(context) * (depth / 100)) + inserted
        placed[at:at] = needle
        inserted += len(needle)
    return placed


def place_chain(
    context: Sequence[int], needles: Sequence[Sequence[int]], depth: float, gap: float
) -> list[int]:
    """Put the first needle at a depth and each next one a gap behind it, percent of the context.

    The original moves a later needle by the length of those before it twice; so does this.
    """
    placed, inserted = list(context), 0
    at = int(len(context) * (depth / 100))
    for needle in needles:
        at = min(at, len(context) + inserted)
        placed[at + inserted : at + inserted] = needle
        inserted += len(needle)
        at = int(at + len(needle) + len(context) * (gap / 100))
    return placed


def fit_prompt(
    write: Callable[[int], str], count: Callable[[str], int], *, target: int, most: int
) -> str:
    """Find a prompt of ``target`` tokens or at most `FIT_TOLERANCE` fewer.

    ``write`` makes the prompt with so many context tokens, of which there are ``most``; without any
    it fits. Raises a ValueError if all of them do not reach the target.
    """
    best = write(0)
    best_total, best_context = count(best), 0
    tried = {0}
    context = target - best_total
    for _ in range(MAX_FIT_ATTEMPTS):
        context = min(max(context, 0), most)
        if context in tried:
            # The totals jump over the target: look for the last one below it, step by step.
            context = best_context + 1
            if context in tried or context > most:
                break
        tried.add(context)
        prompt = write(context)
        total = count(prompt)
        if best_total < total <= target:
            best, best_total, best_context = prompt, total, context
        if total == target:
            break
        context += target - total
    if target - best_total > FIT_TOLERANCE:
        raise ValueError(
            f"a prompt of {target} tokens cannot be made: the closest is {best_total} tokens with "
            f"{best_context} of the haystack's {most} tokens; use a longer haystack or a smaller "
            "length."
        )
    return best
