"""Writes the few samples of MRCR that come as code: conversations of generated sentences."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.mrcr.facts import name_subset
from opencompass_llada.benchmarks.published.texts import write_parquet
from opencompass_llada.synthetic.grammar import expand

NUM_SAMPLES = 2
LENGTH = 1024
#: Turns besides those with the needles: about 1,024 of tiny-llada's tokens in all.
NUM_TURNS = 18
_FORMS = ("sentence", "note", "headline", "riddle")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def make_row(rng: random.Random, num_needles: int) -> dict[str, Any]:
    """Return context, question and answers: one of several answers to the same request."""
    topic = expand("thing", rng)
    asked = [f"User: write a {_FORMS[0]} about {topic}"] * num_needles
    others = [
        f"User: write a {rng.choice(_FORMS[1:])} about {topic}"
        for _ in range(max(NUM_TURNS - num_needles, 2))
    ]
    requests = asked + others
    rng.shuffle(requests)
    turns, answers = [], []
    for request in requests:
        answer = expand("sentence", rng)
        turns.append(f"{request}\nAssistant: {answer}")
        if request == asked[0]:
            answers.append(answer)
    number = rng.randrange(num_needles)
    prefix = "".join(rng.choices(string.ascii_letters + string.digits, k=6))
    question = (
        f"User: Prepend {prefix} to the {_ORDINALS[number]} {_FORMS[0]} about {topic}. Do not "
        "include any other text in your response."
    )
    context = "\n".join(turns)
    return {"context": context, "question": question, "answers": [prefix + answers[number]]}


def write(folder: Path) -> None:
    """Write a subset of 1,024 tokens for every number of needles."""
    for num_needles in (2, 4, 8):
        rng = random.Random(f"mrcr-{num_needles}")
        rows = [make_row(rng, num_needles) for _ in range(NUM_SAMPLES)]
        subset = folder / name_subset(f"{num_needles}needle", LENGTH)
        write_parquet(subset / "test-00000-of-00001.parquet", rows)
