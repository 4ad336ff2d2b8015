"""Makes OpenCompass data sets of L-Eval's published files, one a task, and scores them.

The files are read as they are: OpenCompass loads them with a script that ``datasets`` no longer
runs. A row is a document with several questions; each question is a sample. Documents whose answers
are for people or a model to judge (``evaluation`` LLM or human) are left out, as in the authors'
numbers. Differs from the authors' code, which cuts the end off a document that is too long (of a
code base the beginning): here the middle goes, as in the other suites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.data_files import read_json_lines, take
from opencompass_llada.benchmarks.leval import embedded
from opencompass_llada.benchmarks.leval.facts import FORMS, SUITE, TASKS, list_files
from opencompass_llada.benchmarks.leval.scoring import METRICS, read_choice
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

#: What the rows of a document say of how its answers are scored.
KINDS = ("exam", "f1", "rouge")
JUDGED = ("LLM", "human")
#: Science fiction is asked twice: of the document, and of the world as it is, without document.
_OF_DOCUMENT = "based on the world described in the document."
_OF_WORLD = "based on the real-world knowledge and facts up until your last training"


class LEvalDataset(SuiteDataset):
    """One task of L-Eval."""

    suite = SUITE

    @classmethod
    def read_samples(cls, options: SuiteOptions, folder: Path) -> Iterator[SuiteSample]:
        """Read the rows of a task's file: input, instructions, outputs, evaluation."""
        file = find_file(SUITE, folder, list_files(options.task))
        chat = options.prompt == "chat"
        for where, row in read_json_lines(file):
            document, pairs = _read_row(row, where)
            for question, gold in pairs:
                if options.task == "sci_fi":
                    yield from _fiction_samples(document, question, gold, where, chat=chat)
                else:
                    parts, begins = _write_parts(options.task, document, question, gold, chat=chat)
                    yield _make_sample(options.task, parts, begins, gold)

    @classmethod
    def write_embedded(cls, folder: Path) -> None:
        """Write two rows of every task."""
        for task in TASKS:
            rows = embedded.list_rows(task)
            write_json_lines(folder / list_files(task).partition("|")[0], rows)


def _read_row(row: Mapping[str, Any], where: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a document and its questions, each with its answer; none where people judge."""
    questions = list(take(row, "instructions", where, Sequence[str]))
    golds = list(take(row, "outputs", where, Sequence[str]))
    kind = take(row, "evaluation", where)
    if kind not in (*KINDS, *JUDGED):
        raise ValueError(f"{where}: evaluation={kind!r} must be {', '.join((*KINDS, *JUDGED))}.")
    if len(questions) != len(golds) or not all(gold.strip() for gold in golds):
        raise ValueError(
            f"{where}: {len(questions)} instructions need as many outputs, none of them empty, not "
            f"{len(golds)}; the row is damaged. Fetch the file again."
        )
    pairs = [] if kind in JUDGED else list(zip(questions, golds, strict=True))
    return take(row, "input", where), pairs


def _write_parts(
    task: str, document: str, question: str, gold: str, *, chat: bool
) -> tuple[PromptParts, str]:
    """Return a prompt's parts and the beginning of a base model's answer."""
    slots = {"question": question if chat else question.rstrip(), "length": len(gold.split())}
    facts = TASKS[task]
    if chat and facts.stock:
        system, user = stock_wording(f"leval.{facts.stock}")
        before, _, after = user.partition("{context}")
        parts = PromptParts(
            head=f"{system}\n\n{before}", context=document, question=after.format(**slots)
        )
        return parts, ""
    form = FORMS[facts.form]
    parts = PromptParts(
        head=f"{facts.instruction}\n\n{form.before}",
        context=document,
        question=form.after.format(**slots),
    )
    return parts, "" if chat else form.begins


def _fiction_samples(
    document: str, question: str, gold: str, where: str, *, chat: bool
) -> Iterator[SuiteSample]:
    """Make two samples of a question: loyal to the document, and true of the world."""
    loyal, found, fact = gold.partition("[fact:")
    golds = [loyal.strip(), fact.strip().removesuffix("]").strip()]
    if not found or any(one.lower() not in ("true", "false") for one in golds):
        raise ValueError(f"{where}: output {gold!r} must read 'True [fact: False]' or the like.")
    parts, begins = _write_parts("sci_fi", document, question, gold, chat=chat)
    yield _make_sample("sci_fi", parts, begins, golds[0])
    asked = question.rstrip().replace(_OF_DOCUMENT, _OF_WORLD)
    parts = PromptParts(head="", context="", question=asked)
    yield _make_sample("sci_fi", parts, "" if chat else FORMS["exam"].begins, golds[1])


def _make_sample(task: str, parts: PromptParts, begins: str, gold: str) -> SuiteSample:
    facts = TASKS[task]
    chance = facts.chance
    if facts.metric == "several_choices":
        # A letter guessed: all of it where one is right, a quarter of it if it is among several.
        num_right = len(read_choice(gold))
        chance = 25.0 if num_right == 1 else 25.0 * num_right / 4
    shown = f"The answer is {gold}" if facts.metric == "worked_number" else gold
    return SuiteSample(
        parts=parts, begins=begins, gold=shown, columns={"answer": gold}, chance=chance
    )


class LEvalEvaluator(SuiteEvaluator):
    """Reports ``score`` by L-Eval's own rules, and OpenCompass's number of the same answers.

    The two differ: OpenCompass compares the letter with the whole text of QuALITY's right option,
    gives Coursera's incomplete choices nothing, and takes ROUGE-1 of questions whose answers the
    authors compare by F1, and of summaries, where it is ROUGE-L here.
    """

    def score_answer(self, prediction: str, sample: Mapping[str, Any]) -> float:
        """Return the score of an answer, 0 to 100."""
        return 100 * METRICS[TASKS[self.task].metric](prediction, sample["answer"])

    def score(
        self, predictions: Sequence[str], references: Any = None, test_set: Any = None
    ) -> dict[str, Any]:
        """Return the figures, OpenCompass's own besides, and the details of each answer."""
        figures = super().score(predictions, references, test_set)
        stock = TASKS[self.task].stock
        if stock is None:
            return figures
        golds = [detail["answer"] for detail in figures["details"]]
        return {**figures, **score_stock(f"leval.{stock}", list(predictions), golds)}
