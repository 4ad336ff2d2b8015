"""Generates needles: a fact, the question for it, and the value to find.

In NeedleBench's fields and question format, so that NeedleBench's own prompt rules apply. None of
NeedleBench's own facts, places or values occurs here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opencompass_llada.synthetic.grammar import fill

# (fact, question, answer prefix). {key} names the thing asked for, {value} is what is to be found.
# Some prefixes repeat the fact word by word, others reorder it, as NeedleBench's own do.
FAMILIES: dict[str, tuple[str, str, str]] = {
    "password": (
        "The password of the {key} is {value}.",
        "What is the password of the {key}?",
        "The password of the {key} is",
    ),
    "treasure": (
        "Buried under the {key} lies the famous {value}.",
        "What famous thing is buried under the {key}?",
        "The famous thing buried under the {key} is",
    ),
    "winner": (
        "The first winner of the {key} prize was {value}.",
        "Who was the first to win the {key} prize?",
        "The first to win the {key} prize was",
    ),
    "dish": (
        "Served at the {key} is a rare dish called {value}.",
        "Which rare dish is served at the {key}?",
        "The rare dish served at the {key} is called",
    ),
    "captain": (
        "The captain of the ship {key} is {value}.",
        "Who is the captain of the ship {key}?",
        "The captain of the ship {key} is",
    ),
    "code": (
        "One of the special codes for {key} is: {value}.",
        "What is the special code for {key} mentioned in the text?",
        "The special code for {key} mentioned in the text is",
    ),
    "painting": (
        "Hanging in the {key} museum is the lost painting {value}.",
        "Which lost painting hangs in the {key} museum?",
        "The lost painting that hangs in the {key} museum is",
    ),
    "owner": (
        "{value} bought the {key} in a quiet auction.",
        "Who bought the {key}?",
        "The one who bought the {key} is",
    ),
}

KEYS = ["{Name} {place}", "{Quality} {place}", "{Name}", "{Quality} {Name}", "{quality} {thing}"]
VALUES = [
    "{digit}{digit}{digit}{digit}",
    "{digit}{digit}{digit}{digit}{digit}{digit}{digit}",
    "{Name} {Name}",
    "{Quality} {Thing}",
    "{Quality} {Name} {Thing}",
    "{Name} the {Person}",
    "{Name} {Thing} of {Name}",
    "{quality}-{thing}",
    "{Name} {digit}{digit}",
]


@dataclass(frozen=True, kw_only=True)
class Needle:
    """One fact and how it is asked for."""

    family: str
    """A key of `FAMILIES`."""
    fact: str
    """The sentence hidden in the haystack."""
    question: str
    """Without a format hint."""
    answer_prefix: str
    """What a base model is to continue with the value."""
    key: str
    """The thing asked about."""
    value: str
    """What is to be found."""

    def as_needlebench(self) -> dict[str, str | int]:
        """Return a line of NeedleBench's needles.jsonl."""
        return {
            "needle": self.fact,
            "retrieval_question": (
                f"{self.question} Please answer in the format '{self.answer_prefix}________.'"
            ),
            "gold_standard_answer": f"{self.answer_prefix} {self.value}.",
            "arg1": self.key,
            "arg2": self.value,
            "type": list(FAMILIES).index(self.family),
            "language": "English",
        }


def make_needle(rng: random.Random, family: str, values: Sequence[str] = tuple(VALUES)) -> Needle:
    """Make one random needle of a family; the value is of one of the templates."""
    key, value = fill(rng.choice(KEYS), rng), fill(rng.choice(values), rng)
    fact, question, prefix = (
        text.replace("{key}", key).replace("{value}", value) for text in FAMILIES[family]
    )
    return Needle(
        family=family, fact=fact, question=question, answer_prefix=prefix, key=key, value=value
    )


def generate_needles(
    seed: int, num_needles: int, accept: Callable[[Needle], bool] = lambda needle: True
) -> list[Needle]:
    """Generate needles, cycling through the families.

    Args:
        seed: Same seed, same needles; no two have one key.
        num_needles: How many.
        accept: Takes a needle or has it drawn again; holds evaluation needles out of training.
    """
    rng = random.Random(f"needles-{seed}")
    families = list(FAMILIES)
    needles: list[Needle] = []
    keys: set[str] = set()
    while len(needles) < num_needles:
        needle = make_needle(rng, families[len(needles) % len(families)])
        if needle.key not in keys and accept(needle):
            keys.add(needle.key)
            needles.append(needle)
    return needles


def held_out(needle: Needle) -> bool:
    """Tell whether a needle is for evaluation only: one key in eight, by a checksum of its text."""
    return sum(needle.key.encode()) % 8 == 0
