"""Writes the text around embedded samples' facts, with the package's own grammar."""

from __future__ import annotations

import random
from collections.abc import Sequence

from opencompass_llada.synthetic.grammar import expand


def scatter(rng: random.Random, facts: Sequence[str], num_sentences: int) -> str:
    """Return random sentences with facts between them, in their order, at random places."""
    places = sorted(rng.randrange(num_sentences + 1) for _ in facts)
    sentences = [expand("sentence", rng) for _ in range(num_sentences)]
    for place, fact in reversed(list(zip(places, facts, strict=True))):
        sentences.insert(place, fact)
    return " ".join(sentences)
