"""Makes OpenCompass data sets of InfiniteBench's published files, one a task, and scores them.

The wording for chat models is OpenCompass's, with what its slots leave out filled in: its
Code.Debug shows no options (``{OPTION_A}`` is no column there) and its Math.Find no question. Its
line "You are a helpful assistant." is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.data_files import read_json_lines, take
from opencompass_llada.benchmarks.infinitebench import embedded
from opencompass_llada.benchmarks.infinitebench.facts import SUITE, TASKS
from opencompass_llada.benchmarks.infinitebench.scoring import LETTERS, METRICS
from opencompass_llada.benchmarks.published.dataset import (
    SuiteDataset,
    SuiteEvaluator,
    SuiteOptions,
    SuiteSample,
    find_file,
)
from opencompass_llada.benchmarks.published.stock import score_stock, stock_wording
from opencompass_llada.benchmarks.published.texts import write_json_lines
from opencompass_llada.benchmarks.readers import PromptParts

#: Tasks whose answer is one of four options.
CHOICES = ("longbook_choice_eng", "code_debug")
_HELPFUL = "You are a helpful assistant."


class InfiniteBenchDataset(SuiteDataset):
    """One task of InfiniteBench."""

    suite = SUITE

    @classmethod
    def read_samples(cls, options: SuiteOptions, folder: Path) -> Iterator[SuiteSample]:
        """Read the rows of a task's file: context, input, answer and, for choices, options."""
        file = find_file(SUITE, folder, f"{options.task}.jsonl")
        for where, row in read_json_lines(file):
            yield _read_sample(options.task, row, where, chat=options.prompt == "chat")

    @classmethod
    def write_embedded(cls, folder: Path) -> None:
        """Write four rows of every task."""
        for task in TASKS:
            write_json_lines(folder / f"{task}.jsonl", embedded.list_rows(task))


def _read_sample(task: str, row: Mapping[str, Any], where: str, *, chat: bool) -> SuiteSample:
    context, asked = take(row, "context", where), take(row, "input", where)
    # A base model is not asked to go on after a space.
    shown = asked if chat else asked.rstrip()
    slots = {"input": shown, "question": asked, **_more_slots(task, row, where)}
    answers = _read_answers(task, row, where)
    if chat:
        head, question = _chat_wording(task)
        begins = ""
    else:
        head, question, begins = TASKS[task].base
    return SuiteSample(
        parts=PromptParts(
            head=head.format(**slots), context=context, question=question.format(**slots)
        ),
        begins=begins.format(**slots),
        gold=_write_gold(task, answers),
        columns={"answer": answers},
        chance=TASKS[task].chance,
    )


def _chat_wording(task: str) -> tuple[str, str]:
    """Return what stands before the context and after it, with slots."""
    system, user = stock_wording(f"infinitebench.infinitebench{TASKS[task].stock}")
    before, _, after = user.partition("{context}")
    return ("" if system == _HELPFUL else f"{system}\n\n") + before, after


def _more_slots(task: str, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a task's wording has besides context and question."""
    asked = row["input"]
    if task in CHOICES:
        options = _read_options(row, where)
        named = {f"option_{letter}": text for letter, text in zip(LETTERS, options, strict=True)}
        return {"options": options, **named, **{n.upper(): text for n, text in named.items()}}
    if task == "code_run":
        call = _find(r"func_[0-9]+\(-?[0-9]+\)", asked, where, "a call such as func_1(2)")
        return {"func_call": call, "func": call.partition("(")[0]}
    if task == "math_find":
        found = _find(r"The .+ of", asked, where, "the number that is asked for (The ... of)")
        target = found.lower().removesuffix(" of")
        return {"prefix": f"What is {target} in the following list?"}
    return {}


def _find(pattern: str, asked: str, where: str, what: str) -> str:
    found = re.search(pattern, asked)
    if found is None:
        raise ValueError(f"{where}: input={asked!r} does not hold {what}. Fetch the file again.")
    return found.group()


def _read_options(row: Mapping[str, Any], where: str) -> list[str]:
    options = list(take(row, "options", where, Sequence[str]))
    if len(options) != len(LETTERS):
        raise ValueError(f"{where}: options must be {len(LETTERS)} texts, not {len(options)}.")
    return options


def _read_answers(task: str, row: Mapping[str, Any], where: str) -> list[str]:
    """Return the gold answers as texts; of choices the option and its letter.

    Published answers are a text, a number, a list of either, or a list in a list.
    """
    given = take(row, "answer", where, Any)
    answers = given if isinstance(given, list) else [given]
    if task == "math_calc" and answers and isinstance(answers[0], list):
        answers = answers[0]
    if not answers:
        raise ValueError(f"{where}: answer={given!r} must hold at least one answer.")
    if task not in CHOICES:
        return [str(answer) for answer in answers]
    options = _read_options(row, where)
    if answers[0] not in options:
        raise ValueError(f"{where}: answer={given!r} must be one of the options {options}.")
    return [answers[0], LETTERS[options.index(answers[0])]]


def _write_gold(task: str, answers: Sequence[str]) -> str:
    if task == "math_calc":
        return f"[{', '.join(answers)}]"
    return f"{answers[1]}. {answers[0]}" if task in CHOICES else answers[0]


class InfiniteBenchEvaluator(SuiteEvaluator):
    """Reports ``score`` by InfiniteBench's own rules, and OpenCompass's number of the same answers.

    The two differ: OpenCompass looks for the letter of an option where Code.Run asks for a number,
    compares Zh.QA by words, and takes ROUGE-1 of En.Sum where the authors take ROUGE-Lsum. Of
    Math.Calc it counts the right values, which is no percentage, and is left out.
    """

    def score_answer(self, prediction: str, sample: Mapping[str, Any]) -> float:
        """Return the score of an answer, 0 to 100."""
        return 100 * METRICS[self.task](prediction, sample["answer"])

    def score(
        self, predictions: Sequence[str], references: Any = None, test_set: Any = None
    ) -> dict[str, Any]:
        """Return the figures, OpenCompass's own besides, and the details of each answer."""
        figures = super().score(predictions, references, test_set)
        if self.task == "math_calc":
            return figures
        golds = [_stock_gold(self.task, detail["answer"]) for detail in figures["details"]]
        module = f"infinitebench.infinitebench{TASKS[self.task].stock}"
        return {**figures, **score_stock(module, list(predictions), golds)}


def _stock_gold(task: str, answers: Sequence[str]) -> Any:
    """Return gold answers as OpenCompass's evaluator of the task takes them."""
    if task in CHOICES:
        return answers[1]
    several = ("longbook_qa_eng", "longbook_qa_chn", "longbook_sum_eng", "longdialogue_qa_eng")
    return list(answers) if task in several else answers[0]
