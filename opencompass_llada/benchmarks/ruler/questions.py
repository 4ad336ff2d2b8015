"""Writes RULER's question answering (qa_squad, qa_hotpotqa): a question's documents among others.

Draws and wording are OpenCompass's ``RulerQaDataset``. Reads the two published file layouts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.data_files import read_json
from opencompass_llada.benchmarks.ruler.prompts import TEMPLATES, QuestionTask, RulerSpec
from opencompass_llada.benchmarks.ruler.writer import RulerSample, Writer

DOCUMENT = "Document {i}:\n{document}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of the data."""

    text: str
    answers: tuple[str, ...]
    """Any of them will do."""
    documents: tuple[int, ...]
    """Numbers of the documents that answer it."""
    related: tuple[int, ...]
    """Numbers of documents on the same subject, taken first to fill up."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """Documents and questions of one file."""

    documents: tuple[str, ...]
    """Sorted, each once."""
    questions: tuple[Question, ...]
    """In the file's order."""


def read_library(path: Path, layout: str) -> Library:
    """Read SQuAD 2.0's dev-v2.0.json (``squad``) or HotpotQA's distractor file (``hotpotqa``).

    Raises:
        ValueError: If it is no JSON, or of another form than the published file.
    """
    data = read_json(path)
    try:
        return _read_squad(data) if layout == "squad" else _read_hotpotqa(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not {layout}'s published file ({type(error).__name__}: {error}). Fetch it "
            "again."
        ) from error


def _read_squad(data: Mapping[str, Any]) -> Library:
    """Take the questions that have an answer."""
    articles = [article["paragraphs"] for article in data["data"]]
    documents = sorted({part["context"] for article in articles for part in article})
    number = {text: index for index, text in enumerate(documents)}
    questions = []
    for article in articles:
        subject = [number[part["context"]] for part in article]
        for part in article:
            own = number[part["context"]]
            related = tuple(index for index in subject if index != own)
            questions += [
                Question(
                    text=row["question"],
                    answers=tuple(answer["text"] for answer in row["answers"]),
                    documents=(own,),
                    related=related,
                )
                for row in part["qas"]
                if not row["is_impossible"]
            ]
    return Library(documents=tuple(documents), questions=tuple(questions))


def _read_hotpotqa(data: Sequence[Mapping[str, Any]]) -> Library:
    def texts(row: Mapping[str, Any]) -> list[str]:
        return [f"{title}\n{''.join(sentences)}" for title, sentences in row["context"]]

    documents = sorted({text for row in data for text in texts(row)})
    number = {text: index for index, text in enumerate(documents)}
    questions = tuple(
        Question(
            text=row["question"],
            answers=(row["answer"],),
            documents=tuple(number[text] for text in texts(row)),
            related=(),
        )
        for row in data
    )
    return Library(documents=tuple(documents), questions=questions)


class QuestionWriter(Writer):
    """Writes samples; an item is a document. Sample i asks question i."""

    most: int

    def __init__(self, spec: RulerSpec, task: QuestionTask, library: Library) -> None:
        """Keep the documents.

        Raises:
            ValueError: If there are fewer questions than samples.
        """
        super().__init__(spec)
        if spec.num_samples > len(library.questions):
            raise ValueError(
                f"num_samples={spec.num_samples} is more than the {len(library.questions)} "
                f"questions of {task.file}; use at most that many."
            )
        self.library = library
        asked = library.questions[: spec.num_samples]
        self.step = 10 if spec.as_published else 1
        self.fewest = max(len(question.documents) for question in asked)
        self.most = len(library.documents)
        self.last_tried = self.most // self.step * self.step

    def draw(self, index: int, num_items: int) -> tuple[Question, list[int]]:
        """Draw the documents of a sample: the question's, related ones, then any."""
        question = self.library.questions[index]
        if num_items >= self.most:
            return question, list(range(self.most))
        own, related = list(question.documents), list(question.related)
        missing = num_items - len(own)
        if missing <= len(related):
            return question, own + self.rng.sample(related, missing)
        taken = {*own, *related}
        others = [number for number in range(self.most) if number not in taken]
        missing = max(0, missing - len(related))
        return question, own + related + self.rng.sample(others, missing)

    def write(self, drawn: tuple[Question, list[int]]) -> RulerSample:
        """Number the documents in a shuffled order and ask."""
        question, numbers = drawn
        documents = [self.library.documents[number] for number in numbers]
        # Differs from the original where all documents are taken: it shuffles its own list then.
        random.Random(self.seed).shuffle(documents)
        context = "\n\n".join(
            DOCUMENT.format(i=number, document=text)
            for number, text in enumerate(documents, start=1)
        )
        prompt = TEMPLATES[QuestionTask].format(context=context, query=question.text)
        return RulerSample(prompt=prompt, answers=question.answers)
