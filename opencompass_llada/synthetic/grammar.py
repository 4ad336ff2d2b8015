"""Generates text from the rules of ``grammar.json`` by random expansion."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")
#: Rule -> its expansions; ``{rule}`` in one stands for an expansion of that rule.
RULES: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("grammar.json").read_text(encoding="utf-8")
)


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
