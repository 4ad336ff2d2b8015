"""Writes RULER's needles (niah, eight tasks), variable tracking (vt) and questions (qa, two).

Draws and wording are OpenCompass's ``RulerNiahDataset``, ``RulerVtDataset`` with one chain, and
``RulerQaDataset``.
"""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opencompass_llada.benchmarks.ruler.prompts import (
    SENTENCES,
    TEMPLATES,
    NiahTask,
    QuestionTask,
    RulerSpec,
    TracingTask,
)
from opencompass_llada.benchmarks.ruler.sources import Library, Question
from opencompass_llada.benchmarks.ruler.writer import RulerSample, Writer

NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}."
#: ``round(linspace(0, 100, 40))``: where needles may stand in an essay, percent.
DEPTHS = tuple(round(100 * number / 39) for number in range(40))
NAME_LETTERS = 5
DOCUMENT = "Document {i}:\n{document}"


@dataclass(frozen=True, kw_only=True)
class NeedleDraw:
    """What chance decides in one sample of niah."""

    num_items: int
    keys: list[int]
    """As drawn (see `NiahWriter._name`), like all values."""
    values: list[list[int]]
    """The values of each key."""
    distractors: list[tuple[int, int]]
    """Keys and values of the other needles that make the haystack."""
    places: list[int]
    """Depths in percent (essay) or sentence numbers."""
    asked: list[int]
    """Numbers of the keys asked for."""


class NiahWriter(Writer):
    """Writes samples; items are words of the essay, or sentences."""

    def __init__(
        self, spec: RulerSpec, task: NiahTask, pairs: Sequence[str], essay: Sequence[str] = ()
    ) -> None:
        """Keep task, adjective-noun pairs and, if the haystack is one, the essays' words."""
        super().__init__(spec)
        self.task = task
        self.pairs = pairs
        self.essay = essay
        self.num_keys = max(task.num_keys, task.num_queries)
        if task.haystack == "essay":
            self.step = self.fewest = 500 if spec.as_published else 10
            self.most = len(essay)
            # The original stops one step after the essays' end.
            self.last_tried = (len(essay) // self.step + 1) * self.step
        else:
            self.step = 25 if spec.as_published else 1
            self.fewest = self.num_keys * task.num_values

    def draw(self, index: int, num_items: int) -> NeedleDraw:
        """Draw keys, values, other needles, places and what is asked for."""
        task, rng = self.task, self.rng
        keys, values = [], []
        for _ in range(self.num_keys):
            keys.append(self._draw_name(task.key_kind))
            values.append([self._draw_name(task.value_kind) for _ in range(task.num_values)])
        num_needles = self.num_keys * task.num_values
        distractors = []
        if task.haystack == "essay":
            places = sorted(rng.sample(DEPTHS, num_needles))
        else:
            if task.haystack == "needle":
                distractors = [
                    (self._draw_name(task.key_kind), self._draw_name(task.value_kind))
                    for _ in range(num_items)
                ]
            places = sorted(rng.sample(range(num_items), num_needles), reverse=True)
        return NeedleDraw(
            num_items=num_items,
            keys=keys,
            values=values,
            distractors=distractors,
            places=places,
            asked=rng.sample(range(self.num_keys), task.num_queries),
        )

    def _draw_name(self, kind: str) -> int:
        """Draw a key or value as a number; `_name` writes it."""
        if kind == "numbers":
            return self.rng.randint(10**6, 10**7 - 1)
        if kind == "words":
            return self.rng.choice(range(len(self.pairs)))
        return self.rng.getrandbits(128)

    def _name(self, kind: str, drawn: int) -> str:
        if kind == "numbers":
            return str(drawn)
        return self.pairs[drawn] if kind == "words" else str(uuid.UUID(int=drawn, version=4))

    def _needle(self, key: int, value: int) -> str:
        names = self._name(self.task.key_kind, key), self._name(self.task.value_kind, value)
        return write_needle(self.task, *names)

    def write(self, drawn: NeedleDraw) -> RulerSample:
        """Hide the needles and ask for some."""
        task = self.task
        needles = [
            self._needle(key, value)
            for key, values in zip(drawn.keys, drawn.values, strict=True)
            for value in values
        ]
        random.Random(self.seed).shuffle(needles)
        if task.haystack == "essay":
            context = self._essay_context(drawn, needles)
        else:
            context = self._sentence_context(drawn, needles)
        queries = [self._name(task.key_kind, drawn.keys[number]) for number in drawn.asked]
        answers = [
            self._name(task.value_kind, value)
            for number in drawn.asked
            for value in drawn.values[number]
        ]
        prompt = question_template(task).format(context=context, query=join_with_and(queries))
        return RulerSample(prompt=prompt, answers=tuple(answers))

    def _essay_context(self, drawn: NeedleDraw, needles: Sequence[str]) -> str:
        """Put needles between sentences; the full stops between sentences are lost, as there."""
        text = " ".join(self.essay[: drawn.num_items])
        sentences = [sentence.strip() for sentence in text.split(". ") if sentence]
        places = [int(len(sentences) * (depth / 100)) for depth in drawn.places]
        parts, last = [], 0
        for place, needle in zip(places, needles, strict=True):
            parts += [" ".join(sentences[last:place]), needle]
            last = place
        return " ".join([*parts, " ".join(sentences[last:])])

    def _sentence_context(self, drawn: NeedleDraw, needles: Sequence[str]) -> str:
        if self.task.haystack == "repeat":
            sentences = [SENTENCES] * drawn.num_items
        else:
            sentences = [self._needle(key, value) for key, value in drawn.distractors]
        for place, needle in zip(drawn.places, needles, strict=True):
            sentences.insert(place, needle)
        return "\n".join(sentences)

    def with_answer(self, sample: RulerSample) -> str:
        """Return the prompt and the answers, without a space between, as OpenCompass counts."""
        return sample.prompt + " ".join(sample.answers)


def write_needle(task: NiahTask, key: str, value: str) -> str:
    """Return the sentence that hides a value."""
    return NEEDLE.format(type_needle_v=task.value_kind, key=key, value=value)


def question_template(task: NiahTask) -> str:
    """Return a task's prompt with ``{context}`` and ``{query}`` left to fill in."""
    template, kind = TEMPLATES["niah"], task.value_kind
    if task.num_queries * task.num_values == 1:
        kind = kind[:-1]
        for plural, singular in (("Some", "A"), ("are all", "is"), ("are", "is")):
            template = template.replace(plural, singular)
    return template.replace("{type_needle_v}", kind)


def join_with_and(names: Sequence[str]) -> str:
    """Join names as RULER does: ``a``; ``a, and b``; ``a, b, and c``."""
    return ", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0]


@dataclass(frozen=True, kw_only=True)
class TracingDraw:
    """What chance decides in one sample of vt."""

    num_items: int
    names: list[str]
    """Variables, in the chain's order."""
    value: int
    """What the first is assigned."""
    places: list[int]
    """Before which of the sentences the assignments stand, ascending."""


class TracingWriter(Writer):
    """Writes samples; an item is one line of repeated sentences."""

    def __init__(self, spec: RulerSpec, task: TracingTask) -> None:
        """Keep the length of the chain and start the second stream of random numbers."""
        super().__init__(spec)
        self.num_hops = task.num_hops
        # The legacy generator: values come from numpy's, and must be those of the original.
        self.value_rng = np.random.RandomState(spec.seed)  # noqa: NPY002
        self.step = 10 if spec.as_published else 1
        self.fewest = task.num_hops + 2  # fewer lines would be cut into sentences there
        # The original draws again and never shortens.
        self.patience = 20 if spec.as_published else 1

    def draw(self, index: int, num_items: int) -> TracingDraw:
        """Draw names, value and places."""
        names = [self._draw_name() for _ in range(self.num_hops + 1)]
        while len(set(names)) < len(names):
            # Differs from the original, which fails here (once in a million samples).
            names = [self._draw_name() for _ in names]
        return TracingDraw(
            num_items=num_items,
            names=names,
            value=int(self.value_rng.randint(10000, 99999)),
            places=sorted(self.rng.sample(range(num_items), len(names))),
        )

    def _draw_name(self) -> str:
        return "".join(self.rng.choices(string.ascii_uppercase, k=NAME_LETTERS))

    def write(self, drawn: TracingDraw) -> RulerSample:
        """Put the chain of assignments between the sentences."""
        names = drawn.names
        chain = [f"VAR {names[0]} = {drawn.value}"]
        chain += [f"VAR {new} = VAR {old} " for old, new in zip(names, names[1:], strict=False)]
        lines = [SENTENCES + "\n"] * drawn.num_items
        for number, (place, assignment) in enumerate(zip(drawn.places, chain, strict=True)):
            lines.insert(place + number, assignment)
        prompt = TEMPLATES["vt"].format(
            context=" ".join(lines).replace(". \n", ".\n"),
            query=str(drawn.value),
            num_v=len(names),
        )
        return RulerSample(prompt=prompt, answers=tuple(names))


class QuestionWriter(Writer):
    """Writes samples; an item is a document. Sample i asks question i."""

    most: int

    def __init__(self, spec: RulerSpec, task: QuestionTask, library: Library) -> None:
        """Keep documents and questions, of which there must be as many as samples."""
        super().__init__(spec)
        self.documents, self.questions = library
        if spec.num_samples > len(self.questions):
            raise ValueError(
                f"num_samples={spec.num_samples} is more than the {len(self.questions)} "
                f"questions of {task.file}; use at most that many."
            )
        asked = self.questions[: spec.num_samples]
        self.step = 10 if spec.as_published else 1
        self.fewest = max(len(question.documents) for question in asked)
        self.most = len(self.documents)
        self.last_tried = self.most // self.step * self.step

    def draw(self, index: int, num_items: int) -> tuple[Question, list[int]]:
        """Draw the documents of a sample: the question's, related ones, then any."""
        question = self.questions[index]
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
        documents = [self.documents[number] for number in numbers]
        # Differs from the original where all documents are taken: it shuffles its own list then.
        random.Random(self.seed).shuffle(documents)
        context = "\n\n".join(
            DOCUMENT.format(i=number, document=text)
            for number, text in enumerate(documents, start=1)
        )
        prompt = TEMPLATES["qa"].format(context=context, query=question.text)
        return RulerSample(prompt=prompt, answers=question.answers)
