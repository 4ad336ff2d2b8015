"""Generates text and needles from the templates of ``grammar.json`` and ``needles.json``.

A needle is a fact, the question for it, and the value to find. Fields and question format are
NeedleBench's; none of its own facts, places or values occurs here.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")
#: Rule -> its expansions; ``{rule}`` in one stands for an expansion of that rule.
RULES: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("grammar.json").read_text(encoding="utf-8")
)
_TEMPLATES = json.loads(Path(__file__).with_name("needles.json").read_text(encoding="utf-8"))
#: Family -> fact, question and answer prefix. {key} names the thing asked for, {value} is what is
#: to be found. Some prefixes repeat the fact word by word, others reorder it, as NeedleBench's do.
FAMILIES: dict[str, tuple[str, str, str]] = _TEMPLATES["families"]
KEYS: list[str] = _TEMPLATES["keys"]
VALUES: list[str] = _TEMPLATES["values"]
_FACTS = [
    re.compile(".+".join(map(re.escape, re.split(r"\{key\}|\{value\}", fact))))
    for fact, _, _ in FAMILIES.values()
]
#: Class of a question, as in trec -> question.
QUESTION_TYPES: dict[str, str] = _TEMPLATES["question_types"]


def expand(rule: str, rng: random.Random) -> str:
    """Expand a key of `RULES` at random; a capital first letter capitalises the expansion."""
    text = fill(rng.choice(RULES[rule[0].lower() + rule[1:]]), rng)
    text = _ARTICLE.sub(r"\1n ", text)
    return text[0].upper() + text[1:] if rule[0].isupper() else text


def fill(template: str, rng: random.Random) -> str:
    """Expand every ``{rule}`` slot of a template, left to right."""
    return _SLOT.sub(lambda match: expand(match.group(1), rng), template)


def paragraph(rng: random.Random, num_sentences: int) -> str:
    """Return random sentences."""
    return " ".join(expand("sentence", rng) for _ in range(num_sentences))


def generate_documents(seed: int, num_documents: int) -> Iterator[dict[str, str]]:
    """Yield ``{"title": ..., "text": ...}`` rows of 4 to 12 paragraphs, as in NeedleBench's files.

    The same seed gives the same documents; their sentences never repeat in a cycle.
    """
    rng = random.Random(f"haystack-{seed}")
    for _ in range(num_documents):
        title = f"The {expand('quality', rng)} {expand('thing', rng)} of {expand('name', rng)}"
        paragraphs = [paragraph(rng, rng.randint(3, 9)) for _ in range(rng.randint(4, 12))]
        yield {"title": title, "text": "\n".join(paragraphs) + "\n"}


@dataclass(frozen=True, kw_only=True)
class Needle:
    """One fact and how it is asked for."""

    family: str
    fact: str
    question: str
    """Without a format hint."""
    answer_prefix: str
    """What a base model is to continue with the value."""
    key: str
    value: str

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
    """Make one random needle of a family, its value of one of the templates."""
    key, value = fill(rng.choice(KEYS), rng), fill(rng.choice(values), rng)
    fact, question, prefix = (
        text.replace("{key}", key).replace("{value}", value) for text in FAMILIES[family]
    )
    return Needle(
        family=family, fact=fact, question=question, answer_prefix=prefix, key=key, value=value
    )


def generate_needles(seed: int, num_needles: int) -> list[Needle]:
    """Generate needles of different keys, cycling through the families; only `held_out` ones."""
    rng = random.Random(f"needles-{seed}")
    families = list(FAMILIES)
    needles: dict[str, Needle] = {}
    while len(needles) < num_needles:
        needle = make_needle(rng, families[len(needles) % len(families)])
        if held_out(needle):
            needles.setdefault(needle.key, needle)
    return list(needles.values())


def draw_held_out(rng: random.Random) -> Needle:
    """Draw a needle of any family that the shipped models' training did not hold."""
    while True:
        needle = make_needle(rng, rng.choice(list(FAMILIES)))
        if held_out(needle):
            return needle


def is_generated(fact: str) -> bool:
    """Tell whether a sentence is a needle of one of the families, whose values nobody guesses."""
    return any(pattern.fullmatch(fact.strip()) for pattern in _FACTS)


def held_out(needle: Needle) -> bool:
    """Tell whether a needle is for evaluation only: one key in eight, by a checksum of its text."""
    return sum(needle.key.encode()) % 8 == 0
