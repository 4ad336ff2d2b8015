"""Writes, solves and scores needles that share no word with the question.

NoLiMa (arXiv 2502.05167) finds that models fall behind at length where question and needle have no
word in common, and more so where other sentences repeat the question's words. Its needles are
linked to the question by what a model knows of the world. Here the text itself gives the link:
"Yuko lives next to the Brelko tower." answers "Who has been to Dorvo?" since "The Brelko tower
stands in Dorvo.", or, with two hops, in a town that belongs to it. All names are made up, so that
nothing can have been trained on. The score is NoLiMa's.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.generated.prose import (
    count_names,
    draw_filler,
    draw_names,
    words,
)
from opencompass_llada.benchmarks.generated.task import Question, Vocabulary

#: More chains of names than this are in no text; longer ones have filler sentences instead.
MOST_CHAINS = 4000


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a language says it; of several wordings the first is that of the lower levels."""

    head: str
    facts: tuple[str, ...]
    """Who lives at which tower."""
    towns: tuple[str, ...]
    """Which town has a tower."""
    lands: tuple[str, ...]
    """Which land has a town."""
    literal: tuple[str, ...]
    """Sentences with the question's words that answer nothing."""
    question: str
    role: str
    """A person who has no name, at the beginning of a sentence."""
    lead: str
    """What stands in front of the answer where persons have no names."""
    join: str
    """What parts sentences."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A level."""

    hops: int
    """Sentences between question and fact."""
    others: int
    """Most other chains of person, tower, town (and land)."""
    literal: int = 0
    """Most sentences with the question's words."""
    dead_ends: int = 0
    """Most further towns of the land asked for, at whose tower nobody lives."""
    named: bool = True
    """Whether persons have names instead of being the baker or the nurse."""
    reworded: bool = False
    """Whether each sentence has one of several wordings."""


def _read_wordings() -> dict[str, Wording]:
    text = Path(__file__).with_name("wordings.json").read_text(encoding="utf-8")
    wordings: dict[str, dict[str, Any]] = json.loads(text)
    for own in wordings.values():
        own.update({name: tuple(own[name]) for name in ("facts", "towns", "lands", "literal")})
    return {language: Wording(**own) for language, own in wordings.items()}


WORDINGS = _read_wordings()
SPECS = {
    1: Spec(hops=1, others=2, named=False),
    2: Spec(hops=1, others=5),
    3: Spec(hops=2, others=7, literal=1),
    4: Spec(hops=2, others=15, literal=4, reworded=True),
    5: Spec(hops=2, others=MOST_CHAINS, literal=8, dead_ends=2, reworded=True),
}
_LEVELS = {
    1: "one hop, three persons without names, in filler text",
    2: "one hop, six named persons, in filler text",
    3: "two hops, eight persons, a sentence with the question's words",
    4: "two hops, sixteen persons, each sentence in one of several wordings, four literal matches",
    5: "two hops, no filler but other persons, dead ends, eight literal matches",
}
#: From level 2 on the fact lies in this share of the text from its beginning.
_LAST_FACT = 0.7
_SLOT = re.compile(r"\{\w+\}")
_QUESTIONS = {
    "en": re.compile(r"\nQuestion: Who has been to (\w+)\?\nAnswer:"),
    "zh": re.compile(r"\n问：谁去过(\w+)？\n答："),
}


@dataclass(frozen=True, kw_only=True)
class LinkedNeedles:
    """The suite; see `generated.task.GeneratedTask`."""

    name: str = "linked_needles"
    levels: Mapping[int, str] = field(default_factory=lambda: _LEVELS)

    def generation_length(self, level: int) -> int:
        """Return tokens of a name and an end: an English name has at most six, a Chinese nine."""
        return 8 if level == 1 else 16

    def smallest(self, level: int) -> int:
        """Return the sentences of one other chain."""
        return SPECS[level].hops + 1

    def write(self, rng: random.Random, level: int, size: int, vocabulary: Vocabulary) -> Question:
        """Write a text with ``size`` sentences that are not needed."""
        spec, wording = SPECS[level], WORDINGS[vocabulary.language]
        length = spec.hops + 1
        num_literal = min(spec.literal, (size - length) // 4)
        num_dead = min(spec.dead_ends, (size - length - num_literal) // (4 * spec.hops))
        left = size - num_literal - num_dead * spec.hops
        num_chains = 1 + min(spec.others, left // length)
        names = _draw_cast(rng, spec, num_chains, num_literal, num_dead, vocabulary)
        asked = names["land" if spec.hops == 2 else "town"][0]
        answer = names["person"][0]
        say = _Speaker(rng, wording, spec)
        needed = list(say.chain(names, 0))
        others = [text for own in range(1, num_chains) for text in say.chain(names, own)]
        others += [text for own in range(num_dead) for text in say.dead_end(names, own, asked)]
        # At the end of the list of persons are those that the literal matches are about.
        others += [say.literal(names["person"][-own - 1], asked) for own in range(num_literal)]
        others += draw_filler(rng, size - len(others), vocabulary)
        rng.shuffle(others)
        sentences = _hide(rng, needed, others, 1.0 if level == 1 else _LAST_FACT)
        ending = "" if spec.named else wording.lead
        return Question(
            head=wording.head,
            context=wording.join.join(sentences),
            question=wording.question.format(place=asked) + ending,
            answers=(answer,),
            chance=100 / _count_persons(spec, vocabulary),
        )

    def solve(self, prompt: str) -> str:
        """Go from the place asked about to its towers and who lives there.

        Where no way leads to a person, it is the first whose own place the text does not tell.
        """
        language = "zh" if WORDINGS["zh"].head.strip() in prompt else "en"
        asked = list(_QUESTIONS[language].finditer(prompt))
        if not asked:
            return ""
        text, goal = prompt[: asked[-1].start()], asked[-1][1]
        person_of, town_of, land_of = _read_links(text, language)
        unknown = []
        for tower, person in person_of.items():
            town = town_of.get(tower)
            if goal in (town, land_of.get(town or "")):
                return _lead(language) + person
            if town is None or (land_of and town not in land_of):
                unknown.append(person)
        found = unknown or list(person_of.values())
        return _lead(language) + found[0] if found else ""

    def guess(self, rng: random.Random, level: int, question: str, vocabulary: Vocabulary) -> str:
        """Return any name."""
        spec = SPECS[level]
        if not spec.named:
            return _lead(vocabulary.language) + rng.choice(list_roles(vocabulary))
        return _lead(vocabulary.language) + draw_names(rng, {"person": 1}, vocabulary)["person"][0]

    def more_questions(self, rng: random.Random, question: Question, count: int) -> list[str]:
        """Return questions for the other towns whose towers have a person."""
        language = next(name for name, own in WORDINGS.items() if own.head == question.head)
        wording = WORDINGS[language]
        person_of, town_of, _ = _read_links(question.context, language)
        ending = wording.lead if question.question.endswith(wording.lead) else ""
        towns = [town for tower, town in town_of.items() if tower in person_of]
        asked = [wording.question.format(place=town) + ending for town in towns]
        asked = [text for text in asked if text != question.question]
        return rng.sample(asked, min(count, len(asked)))

    def score(self, prediction: str, answers: tuple[str, ...]) -> float:
        """Return 100 where the answer contains a reference, else 0.

        Source: metric ``contains`` of NoLiMa's published evaluation (adobe-research/NoLiMa,
        evaluation/, ``_evaluate_response``), which takes an empty reference for contained; here it
        never is. No name of a text contains the one asked for.
        """
        return 100.0 * any(answer and answer in prediction for answer in answers)


class _Speaker:
    """Says what is so, in the wordings of a level."""

    def __init__(self, rng: random.Random, wording: Wording, spec: Spec) -> None:
        self._rng, self._wording, self._spec = rng, wording, spec

    def _pick(self, wordings: Sequence[str]) -> str:
        return self._rng.choice(wordings) if self._spec.reworded else wordings[0]

    def chain(self, names: Mapping[str, Sequence[str]], own: int) -> Iterator[str]:
        """Yield the fact of a chain and its links."""
        wording, person, tower, town = (
            self._wording,
            *(names[kind][own] for kind in ("person", "tower", "town")),
        )
        shown = person if self._spec.named else wording.role.format(person=person)
        yield self._pick(wording.facts).format(person=shown, tower=tower)
        yield self._pick(wording.towns).format(tower=tower, town=town)
        if self._spec.hops == 2:
            yield self._pick(wording.lands).format(town=town, land=names["land"][own])

    def dead_end(self, names: Mapping[str, Sequence[str]], own: int, land: str) -> Iterator[str]:
        """Yield the links of another town of the land, whose names are the last of their kinds."""
        tower, town = (names[kind][-own - 1] for kind in ("tower", "town"))
        yield self._pick(self._wording.towns).format(tower=tower, town=town)
        yield self._pick(self._wording.lands).format(town=town, land=land)

    def literal(self, person: str, place: str) -> str:
        """Return a sentence with the question's words."""
        return self._rng.choice(self._wording.literal).format(person=person, place=place)


def _draw_cast(
    rng: random.Random,
    spec: Spec,
    num_chains: int,
    num_literal: int,
    num_dead: int,
    vocabulary: Vocabulary,
) -> dict[str, list[str]]:
    """Draw all names; the first of each kind are the chain asked for.

    No other name contains that person's.
    """
    counts = {"tower": num_chains + num_dead, "town": num_chains + num_dead}
    if spec.hops == 2:
        counts["land"] = num_chains
    if spec.named:
        counts["person"] = num_chains + num_literal
    names = draw_names(rng, counts, vocabulary)
    if not spec.named:
        names["person"] = rng.sample(list_roles(vocabulary), num_chains)
        return names
    everyone = " ".join(name for kind in names.values() for name in kind)
    persons = names["person"]
    first = next(own for own, name in enumerate(persons) if everyone.count(name) == 1)
    persons[0], persons[first] = persons[first], persons[0]
    return names


@lru_cache(maxsize=8)
def list_roles(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return persons without names, none of which is contained in another as porter in reporter."""
    persons = words("person", vocabulary)
    return tuple(
        own for own in persons if not any(own in other for other in persons if other != own)
    )


def _hide(
    rng: random.Random, needed: Sequence[str], others: Sequence[str], last_fact: float
) -> list[str]:
    """Place the fact, the first of what is needed, and the links among other sentences."""
    total = len(needed) + len(others)
    fact = rng.randrange(max(1, int(last_fact * total)))
    links = rng.sample([place for place in range(total) if place != fact], len(needed) - 1)
    at = dict(zip([fact, *links], needed, strict=True))
    rest = iter(others)
    return [at[place] if place in at else next(rest) for place in range(total)]


def _lead(language: str) -> str:
    return " " if language == "en" else ""


def _count_persons(spec: Spec, vocabulary: Vocabulary) -> int:
    return count_names("person", vocabulary) if spec.named else len(list_roles(vocabulary))


@lru_cache(maxsize=8)
def _patterns(language: str, kind: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return what finds the names in each wording of a kind, and the longest text that it holds.

    Looking for that text first takes a twentieth of the time.
    """
    found = []
    for wording in getattr(WORDINGS[language], kind):
        text = wording.rstrip(".。")
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(text))
        found.append((max(_SLOT.split(text), key=len), re.compile(rf"\b{pattern}")))
    return tuple(found)


def _read_links(text: str, language: str) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return tower -> person, tower -> town and town -> land of a text."""
    sentences = text.split("." if language == "en" else "。")

    def read(kind: str, key: str, value: str) -> dict[str, str]:
        found = {}
        for part, pattern in _patterns(language, kind):
            for sentence in sentences:
                if part in sentence and (match := pattern.search(sentence)):
                    found[match[key]] = match[value]
        return found

    return (
        read("facts", "tower", "person"),
        read("towns", "tower", "town"),
        read("lands", "town", "land"),
    )


TASK = LinkedNeedles()
