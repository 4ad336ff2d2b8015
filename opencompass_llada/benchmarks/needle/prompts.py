"""Writes NeedleBench's single-needle prompts, puts needles into a context and fits its length.

The wording is NeedleBench's (``NeedleBenchOriginDataset`` of OpenCompass 0.5.4), byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: A fitted prompt is at most this many tokens shorter than asked for. Joining pieces of text may
#: merge or split tokens at the seams, so that some totals cannot be had.
FIT_TOLERANCE = 8
MAX_FIT_ATTEMPTS = 24


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The fixed text of one language's prompt."""

    preface: str
    document: str
    """Introduces the context; ``{context}`` stands for it."""
    question: str
    """Introduces the question; ``{question}`` stands for it."""
    hint: str
    """How the format hint in the question starts."""
    advice: str
    """What NeedleBench puts in front of the hint."""


WORDINGS = {
    "English": Wording(
        preface=(
            "You are an intelligent AI assistant skilled in answering user questions.\n"
            "Please keep your answers concise and clear. Do not talk about irrelevant topics or "
            "repeat your answers.\n"
        ),
        document="The document given to you by the user is {context}\n\n",
        question="Now, the question is: {question}",
        hint="Please answer in the format",
        advice=(
            "Before answering, please consider what in the document is most relevant to this "
            "question. "
        ),
    ),
    "Chinese": Wording(
        preface=(
            "你是一个善于回答用户问题的智能AI助手\n"
            "请保持你的回答简洁清楚。不要说和下面文档中的无关的话，或重复你的回答\n"
        ),
        document="用户现在给你的文档是{context}\n\n",
        question="现在请问：{question}",
        hint="请按照",
        advice="在回答之前，请思考文档中与此问题最相关的内容是什么。",
    ),
}


def write_question(question: str, language: str, *, guide: bool) -> str:
    """Write a needle's question as a prompt ends.

    With ``guide`` the model is asked to fill in a sentence; without, the prompt ends in that
    sentence's beginning, so that a base model goes on with the answer::

        ... Please answer in the format 'The item on the Emerald Island is________.'   guide
        ... The item on the Emerald Island is                                          no guide
    """
    wording = WORDINGS[language]
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


def write_prompt(context: str, question: str, language: str, position: str) -> str:
    """Put preface, context and question together, with the question at the End or the Start.

    Differs from the original for Chinese and ``'Start'``, where that makes a pair, not a text.
    """
    wording = WORDINGS[language]
    document = wording.document.replace("{context}", context)
    asked = wording.question.replace("{question}", question)
    parts = (document, asked) if position == "End" else (asked, document)
    return wording.preface + "".join(parts)


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


def fit_prompt(
    write: Callable[[int], str], count: Callable[[str], int], *, target: int, most: int
) -> str:
    """Find a prompt of ``target`` tokens or at most `FIT_TOLERANCE` fewer.

    Args:
        write: Makes the prompt with that many context tokens; without any it fits.
        count: Counts a prompt's tokens.
        target: Tokens wanted.
        most: Context tokens at hand.

    Raises:
        ValueError: If ``most`` context tokens do not reach the target.
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
