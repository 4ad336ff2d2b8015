"""Writes, solves and scores reading in order: a list of what every k-th section says.

In each section one person chooses one thing; the answer lists what that person chose in every k-th
section, in order. No place of the text holds the answer, and where sections have no numbers they
must be counted from the beginning. The score is the length of the longest common subsequence over
that of the longer list (Bakkelund, "An LCS-based string metric", 2009): order matters, one item
too many or too few costs its own share and not, as a comparison place by place would have it, all
that follows, and a list of everything gets only the share that was asked for, whereas ROUGE-L's F1
gives it up to twice that.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from rapidfuzz.distance import LCSseq

from opencompass_llada.benchmarks.generated.prose import draw_filler, words
from opencompass_llada.benchmarks.generated.task import Question, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a language says it."""

    head: str
    section: str
    """A section's heading."""
    numbered: str
    """A heading with a number."""
    fact: str
    almost: str
    """What the person did not choose."""
    question: str
    join: str
    """What parts sentences."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A level."""

    sections: tuple[int, int]
    """Fewest and most sections; a text without room has fewer, down to `fewest`."""
    fewest: int
    steps: tuple[int, ...]
    """One of them is k: every k-th section is asked for."""
    numbered: bool = False
    """Whether headings have numbers."""
    alike: bool = False
    """Whether filler says what other persons chose, in the same words."""
    almost: float = 0.0
    """Of the filler, the share that says what the person did not choose."""
    shifted: bool = False
    """Whether the first section asked for is any of the first k, and sections are unequal."""


WORDINGS = {
    "en": Wording(
        head="Read the sections in order.\n",
        section="\nSection:",
        numbered="\nSection {number}:",
        fact="The {person} chose the {thing}.",
        almost="The {person} did not choose the {thing}.",
        question=(
            "\n\nQuestion: Beginning with section {first}, what did the {person} choose in every "
            "{step} section? List it in order.\nAnswer:"
        ),
        join=" ",
    ),
    "zh": Wording(
        head="按顺序读各节。\n",
        section="\n一节：",
        numbered="\n第{number}节：",
        fact="{person}选了{thing}。",
        almost="{person}没有选{thing}。",
        question="\n\n问：从第{first}节起，每{step}节{person}选了什么？按顺序列出。\n答：",
        join="",
    ),
}
SPECS = {
    1: Spec(sections=(4, 5), fewest=4, steps=(2,), numbered=True),
    2: Spec(sections=(6, 9), fewest=4, steps=(2,)),
    3: Spec(sections=(9, 14), fewest=6, steps=(3,), alike=True),
    4: Spec(sections=(16, 24), fewest=7, steps=(4, 5), alike=True, almost=0.1),
    5: Spec(sections=(36, 47), fewest=9, steps=(6, 7), alike=True, almost=0.1, shifted=True),
}
_LEVELS = {
    1: "every 2nd of four or five numbered sections, in filler text",
    2: "every 2nd of six to nine sections without numbers, in filler text",
    3: "every 3rd of nine to fourteen, filler of the same form about other persons",
    4: "every 4th or 5th of sixteen to twenty-four, with what was not chosen",
    5: "every 6th or 7th of thirty-six to forty-seven unequal ones, from any of the first on",
}
_QUESTIONS = {
    "en": re.compile(
        r"\nQuestion: Beginning with section (?P<first>\d+), what did the (?P<person>\w+) choose "
        r"in every (?P<step>\d+)"
    ),
    "zh": re.compile(r"\n问：从第(?P<first>\d+)节起，每(?P<step>\d+)节(?P<person>\w+)选了什么"),
}
_HEADINGS = {
    "en": re.compile(r"^Section(?: \d+)?:", re.MULTILINE),
    "zh": re.compile(r"^(?:第\d+节|一节)：", re.MULTILINE),
}
_BETWEEN_ITEMS = re.compile(r"[,，、;；]")
#: A list's number or dash, and an article, in front of an item.
_BEFORE_ITEM = re.compile(r"^(?:\(?\d+[.):：、]\s*|[-*•]\s+)?(?:the |an? |and )*", re.IGNORECASE)
#: Draws of a list that a guess's score is the mean of.
_NUM_DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class SectionLists:
    """The suite; see `generated.task.GeneratedTask`."""

    name: str = "section_lists"
    levels: Mapping[int, str] = field(default_factory=lambda: _LEVELS)

    def generation_length(self, level: int) -> int:
        """Return tokens of the longest list: six and a comma for a Chinese word, three else."""
        spec = SPECS[level]
        step = min(spec.steps)
        most = len(range(1 if spec.shifted else step, spec.sections[1] + 1, step))
        return 8 * -(-(7 * most + 2) // 8)

    def smallest(self, level: int) -> int:
        """Return no filler at all."""
        return 1

    def write(self, rng: random.Random, level: int, size: int, vocabulary: Vocabulary) -> Question:
        """Write sections with ``size`` filler sentences; few of them have fewer sections."""
        spec, wording = SPECS[level], WORDINGS[vocabulary.language]
        step = rng.choice(spec.steps)
        first = rng.randint(1, step) if spec.shifted else step
        most = min(spec.sections[1], spec.fewest + size // 2)
        num_sections = rng.randint(min(spec.sections[0], most), most)
        person = rng.choice(words("person", vocabulary))
        things = rng.sample(words("thing", vocabulary), num_sections)
        filler = _draw_filler(rng, size, spec, person, vocabulary)
        ends = _cut(rng, size, num_sections, spec.shifted)
        parts, start = [], 0
        for number, (thing, end) in enumerate(zip(things, ends, strict=True), start=1):
            sentences = filler[start:end]
            fact = wording.fact.format(person=person, thing=thing)
            sentences.insert(rng.randint(0, len(sentences)), fact)
            heading = wording.numbered if spec.numbered else wording.section
            parts.append(wording.join.join([heading.format(number=number), *sentences]))
            start = end
        answers = things[first - 1 :: step]
        return Question(
            head=wording.head,
            context="".join(parts),
            question=_ask(vocabulary.language, first, step, person),
            answers=(_write_list(answers, vocabulary.language).strip(),),
            chance=_guess_score(level, len(answers), len(words("thing", vocabulary))),
        )

    def solve(self, prompt: str) -> str:
        """Find what the person chose in each section, counted from the first that is seen.

        Where headings have numbers, those count.
        """
        language = "zh" if WORDINGS["zh"].head.strip() in prompt else "en"
        asked = list(_QUESTIONS[language].finditer(prompt))
        if not asked:
            return ""
        first, step = int(asked[-1]["first"]), int(asked[-1]["step"])
        fact = WORDINGS[language].fact.format(person=asked[-1]["person"], thing="\0")
        pattern = re.compile(re.escape(fact).replace("\0", r"(\w+)"))
        text = prompt[: asked[-1].start()]
        headings = list(_HEADINGS[language].finditer(text))
        found = []
        bounds = [heading.start() for heading in headings] + [len(text)]
        for place, heading in enumerate(headings):
            written = re.search(r"\d+", heading[0])
            number = int(written[0]) if written else place + 1
            match = pattern.search(text, *bounds[place : place + 2])
            if match and number >= first and (number - first) % step == 0:
                found.append(match[1])
        return _write_list(found, language)

    def guess(self, rng: random.Random, level: int, question: str, vocabulary: Vocabulary) -> str:
        """Return a list of different things, as long as a usual answer."""
        things = rng.sample(words("thing", vocabulary), _guess_length(level))
        return _write_list(things, vocabulary.language)

    def more_questions(self, rng: random.Random, question: Question, count: int) -> list[str]:
        """Return questions for every 2nd or 3rd section from any section on."""
        language = next(name for name, own in WORDINGS.items() if own.head == question.head)
        person = next(_QUESTIONS[language].finditer(question.question))["person"]
        firsts = range(1, len(_HEADINGS[language].findall(question.context)) + 1)
        asked = [_ask(language, first, step, person) for step in (2, 3) for first in firsts]
        asked = [text for text in asked if text != question.question]
        return rng.sample(asked, min(count, len(asked)))

    def score(self, prediction: str, answers: tuple[str, ...]) -> float:
        """Return the common subsequence's share of the longer list, in percent, by `LCSseq`.

        Of several references the best counts; an empty list has 0.
        """
        found = read_list(prediction)
        if not found:
            return 0.0
        return max(
            (100 * LCSseq.normalized_similarity(found, read_list(answer)) for answer in answers),
            default=0.0,
        )


def read_list(text: str) -> list[str]:
    """Return the items of an answer, in lower case.

    They are those of the first line if it has several, parted by commas; else each line up to the
    first empty one is an item. Articles, numbers in front and full stops are dropped.
    """
    lines = re.split(r"\n\s*\n", text.strip())[0].splitlines()
    parts = [_BETWEEN_ITEMS.split(line) for line in lines]
    items = parts[0] if parts and len(parts[0]) > 1 else [item for line in parts for item in line]
    bare = (_BEFORE_ITEM.sub("", item.strip()).strip(" .。*'\"`").lower() for item in items)
    return [item for item in bare if item]


def _ask(language: str, first: int, step: int, person: str) -> str:
    shown = _ordinal(step) if language == "en" else str(step)
    return WORDINGS[language].question.format(first=first, person=person, step=shown)


def _write_list(items: Sequence[str], language: str) -> str:
    if language == "zh":
        return ",".join(items)
    return " " + ", ".join(items) if items else ""


def _draw_filler(
    rng: random.Random, count: int, spec: Spec, person: str, vocabulary: Vocabulary
) -> list[str]:
    """Draw sentences that say nothing of what the person chose."""
    if not spec.alike:
        return draw_filler(rng, count, vocabulary)
    wording = WORDINGS[vocabulary.language]
    others = [own for own in words("person", vocabulary) if own != person]
    things = rng.choices(words("thing", vocabulary), k=count)
    return [
        wording.almost.format(person=person, thing=thing)
        if rng.random() < spec.almost
        else wording.fact.format(person=own, thing=thing)
        for own, thing in zip(rng.choices(others, k=count), things, strict=True)
    ]


def _cut(rng: random.Random, size: int, num_sections: int, unequal: bool) -> list[int]:
    """Return where each section's filler ends."""
    if unequal:
        return [*sorted(rng.randint(0, size) for _ in range(num_sections - 1)), size]
    return [part * size // num_sections for part in range(1, num_sections + 1)]


def _guess_length(level: int) -> int:
    """Return the number of items of a usual answer."""
    spec = SPECS[level]
    return max(1, sum(spec.sections) // (2 * max(spec.steps)))


@lru_cache(maxsize=256)
def _guess_score(level: int, num_answers: int, num_things: int) -> float:
    """Return the mean score of `SectionLists.guess` for lists of so many answers, in percent.

    Its standard error is about a tenth of a point.
    """
    rng = random.Random(f"section_lists {num_answers} {num_things}")
    length, truth = _guess_length(level), range(num_answers)
    draws = (rng.sample(range(num_things), length) for _ in range(_NUM_DRAWS))
    return 100 * sum(LCSseq.normalized_similarity(own, truth) for own in draws) / _NUM_DRAWS


def _ordinal(number: int) -> str:
    """Return 2nd, 3rd, 4th, ..."""
    return f"{number}{ {2: 'nd', 3: 'rd'}.get(number, 'th') }"


TASK = SectionLists()
