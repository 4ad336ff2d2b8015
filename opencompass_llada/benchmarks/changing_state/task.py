"""Writes, solves and scores questions on what holds at the end of many changes.

A text is a list of changes in one of three forms: variables that are set, people who take things,
and a talk whose last word on each place counts. A change sets an entity's value, copies another's
as it is then, or swaps two. The value asked for passes through as many changes as the level says,
one in each equal part of the text, and other entities change all the time: what stands at the end
of the text, or was said first or last of an entity that is asked about, is not the answer.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from opencompass_llada.benchmarks.generated.prose import spread, words
from opencompass_llada.benchmarks.generated.task import Question, Vocabulary

#: A change: its kind, the entity, and the value or the other entity.
Change = tuple[str, str, str]
FORMS = ("variables", "inventory", "dialogue")
KINDS = ("set", "copy", "swap")
#: Level -> fewest and most changes that the value passes through, the first of which sets it.
STEPS = {1: (1, 1), 2: (2, 2), 3: (3, 3), 4: (4, 6), 5: (8, 16)}
_LEVELS = {
    1: "the last of several values",
    2: "a value copied once from another entity, as it was then",
    3: "a value that was copied or swapped twice",
    4: "a value that was copied or swapped three to five times",
    5: "a value that was copied or swapped seven to fifteen times",
}
#: Level -> weights of `KINDS` among other changes.
_MIXTURES = {1: (1, 0, 0), 2: (3, 2, 0), 3: (3, 1, 1), 4: (3, 1, 1), 5: (2, 1, 2)}
_NUMBERS = tuple(map(str, range(10, 100)))
#: Changes of a text for each of its entities, and most entities.
_CHANGES_AN_ENTITY = 4
_MOST_ENTITIES = 32
_ANSWER = re.compile(r"Answer:|答案：", re.IGNORECASE)


@lru_cache(maxsize=1)
def _wordings() -> dict[str, dict[str, dict[str, str]]]:
    path = Path(__file__).with_name("wordings.json")
    found: dict[str, dict[str, dict[str, str]]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _words_of(rule: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    return vocabulary.allowed(_NUMBERS) if rule == "number" else words(rule, vocabulary)


@dataclass(frozen=True, kw_only=True)
class ChangingState:
    """The suite; see `generated.task.GeneratedTask`."""

    name: str = "changing_state"
    levels: Mapping[int, str] = field(default_factory=lambda: _LEVELS)

    def generation_length(self, level: int) -> int:
        """Return tokens of any answer: one word, its full stop, and the end."""
        return 8

    def smallest(self, level: int) -> int:
        """Return the fewest changes: those that the value passes through, and three others."""
        return max(6, STEPS[level][0] + 3)

    def write(self, rng: random.Random, level: int, size: int, vocabulary: Vocabulary) -> Question:
        """Write ``size`` changes, those of the answer included, and ask for one entity's value."""
        form = rng.choice(FORMS)
        wording = _wordings()[vocabulary.language][form]
        names = _words_of(wording["entity"], vocabulary)
        values = _words_of(wording["value"], vocabulary)
        num_entities = min(max(4, size // _CHANGES_AN_ENTITY), _MOST_ENTITIES)
        entities = rng.sample(names, num_entities)
        fewest, most = STEPS[level]
        steps = rng.randint(fewest, max(fewest, min(most, size // 2)))
        answer, asked = rng.choice(values), rng.choice(entities)
        changes = _Changes(rng, entities, values, level)
        lines = changes.make(asked, answer, steps, size)
        speakers = words("person", vocabulary) if form == "dialogue" else ("",)
        templates = {kind: wording[kind] for kind in KINDS}
        context = "".join(
            _write_line(templates[kind], first, second, speakers, rng)
            for kind, first, second in lines
        )
        return Question(
            head=wording["head"],
            context=context,
            question=wording["question"].format(a=asked),
            answers=(answer,),
            chance=100 / len(values),
        )

    def solve(self, prompt: str) -> str:
        """Go through the changes; '' where the value is not to be known from them."""
        for language, forms in _wordings().items():
            for wording in forms.values():
                asked = _as_pattern(wording["question"]).search(prompt)
                if asked is not None:
                    value = _follow(prompt, wording).get(asked["a"])
                    space = " " if language == "en" else ""
                    return "" if value is None else space + value
        return ""

    def guess(self, rng: random.Random, level: int, question: str, vocabulary: Vocabulary) -> str:
        """Return any of the values that the question's form has."""
        forms = _wordings()[vocabulary.language].values()
        wording = next(own for own in forms if _as_pattern(own["question"]).search(question))
        return rng.choice(_words_of(wording["value"], vocabulary))

    def more_questions(self, rng: random.Random, question: Question, count: int) -> list[str]:
        """Return questions for other entities whose value the text gives."""
        forms = (own for language in _wordings().values() for own in language.values())
        wording = next(own for own in forms if own["head"] == question.head)
        state = _follow(question.context, wording)
        asked = [wording["question"].format(a=name) for name, value in state.items() if value]
        asked = [text for text in asked if text != question.question]
        return rng.sample(asked, min(count, len(asked)))

    def score(self, prediction: str, answers: tuple[str, ...]) -> float:
        """Return 100 if the answer's first line names a reference and no other value of its form.

        A number is wrong beside another number, not beside the variable's name. What stands before
        the last ``Answer:`` does not count; of several references one is enough.
        """
        lines = _ANSWER.split(prediction)[-1].strip().splitlines()
        right = lines and any(_find_values(lines[0], answer) == {answer} for answer in answers)
        return 100.0 if right else 0.0


class _Changes:
    """Makes the changes of one text."""

    def __init__(
        self, rng: random.Random, entities: Sequence[str], values: Sequence[str], level: int
    ) -> None:
        self._rng, self._entities, self._values = rng, entities, values
        self._mixture = [sum(_MIXTURES[level][: kind + 1]) for kind in range(len(KINDS))]
        self._swaps = _MIXTURES[level][KINDS.index("swap")] > 0
        self._known: set[str] = set()  # entities that have a value so far

    def make(self, asked: str, answer: str, steps: int, size: int) -> Iterator[Change]:
        """Yield the changes, in one of each equal part a step of the answer, which ends up asked.

        From its first step on nothing else changes the entity that has the answer.
        """
        places = set(spread(self._rng, steps, size))
        holders = self._draw_holders(asked, steps)
        holder: str | None = None
        for place in range(size):
            if place not in places:
                yield self._other(holder)
                continue
            before, holder = holder, next(holders)
            if before is None:
                yield self._keep("set", holder, answer)
                continue
            can_swap = self._swaps and holder in self._known
            kind = "swap" if can_swap and self._rng.random() < 0.5 else "copy"
            yield self._keep(kind, holder, before)

    def _draw_holders(self, asked: str, steps: int) -> Iterator[str]:
        """Return the entities that the answer passes to, the one asked about last."""
        holders = [asked]
        while len(holders) < steps:
            holders.append(self._draw_but(holders[-1]))
        return reversed(holders)

    def _other(self, holder: str | None) -> Change:
        """Return a change of an entity that does not have the answer."""
        first = self._draw_but(holder)
        draw = self._rng.random() * self._mixture[-1]
        kind = KINDS[sum(draw >= end for end in self._mixture[:-1])]
        second = self._draw_but(first) if kind != "set" else ""
        if kind == "swap" and (second == holder or first not in self._known):
            kind = "copy"
        if kind == "set" or second not in self._known:
            return self._keep(
                "set", first, self._values[int(self._rng.random() * len(self._values))]
            )
        return self._keep(kind, first, second)

    def _draw_but(self, other: str | None) -> str:
        while (drawn := self._entities[int(self._rng.random() * len(self._entities))]) == other:
            pass
        return drawn

    def _keep(self, kind: str, first: str, second: str) -> Change:
        self._known.add(first)
        return kind, first, second


def _write_line(
    template: str, first: str, second: str, speakers: Sequence[str], rng: random.Random
) -> str:
    speaker = speakers[int(rng.random() * len(speakers))] if len(speakers) > 1 else ""
    return template.format(a=first, b=second, v=second, s=speaker) + "\n"


@lru_cache(maxsize=32)
def _as_pattern(template: str) -> re.Pattern[str]:
    """Return what finds the text of a template, with a group for each of its slots."""
    escaped = re.escape(template.strip("\n"))
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\w+)", escaped))


def _follow(prompt: str, wording: Mapping[str, str]) -> dict[str, str | None]:
    """Return the value of every entity after all changes of a text, None where it is not known."""
    patterns = [(kind, _as_pattern(wording[kind])) for kind in ("copy", "swap", "set")]
    state: dict[str, str | None] = {}
    for line in prompt.splitlines():
        for kind, pattern in patterns:
            if found := pattern.fullmatch(line):
                if kind == "set":
                    state[found["a"]] = found["v"]
                elif kind == "copy":
                    state[found["a"]] = state.get(found["b"])
                else:
                    first, second = found["a"], found["b"]
                    state[first], state[second] = state.get(second), state.get(first)
                break
    return state


@lru_cache(maxsize=1)
def _all_values() -> tuple[frozenset[str], ...]:
    """Return the values of each form, of both languages."""
    rules = {
        (language, wording["value"])
        for language, forms in _wordings().items()
        for wording in forms.values()
    }
    return tuple(
        frozenset(_words_of(rule, Vocabulary(language=language)))
        for language, rule in sorted(rules)
    )


def _find_values(text: str, answer: str) -> set[str]:
    """Return the values in a text that have an answer's form.

    English ones and numbers are words of it, Chinese ones may stand anywhere.
    """
    values = {value for pool in _all_values() if answer in pool for value in pool}
    found = values & set(re.findall(r"[a-z]+|\d+", text.lower()))
    return found | {value for value in values if not value.isascii() and value in text}


TASK = ChangingState()
