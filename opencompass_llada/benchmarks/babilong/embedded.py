"""Writes the few samples of BABILong that come as code: own facts, generated text around them.

Stories are of bAbI's kinds (arXiv 1502.05698), one function a task, each with a question and its
target; none is of its data.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from opencompass_llada.benchmarks.published.texts import scatter

NUM_SAMPLES = 2
#: Sentences of text around the facts: about 1,024 of tiny-llada's tokens, instructions included.
NUM_SENTENCES = 16

_PEOPLE = ("Anna", "Boris", "Clara", "David")
_PLACES = ("kitchen", "garden", "office", "hallway", "bedroom", "bathroom")
_THINGS = ("lamp", "apple", "letter", "bottle")
_NUMBERS = ("none", "one", "two", "three")
_SIDES = {"north": "south", "south": "north", "east": "west", "west": "east"}
#: Facts in their order, question and target.
Story = tuple[list[str], str, str]


def _walk(rng: random.Random) -> Story:
    who = rng.sample(_PEOPLE, 2)
    places = rng.sample(_PLACES, 3)
    facts = [f"{who[0]} went to the {place}." for place in places[:2]]
    facts.insert(rng.randrange(3), f"{who[1]} moved to the {places[2]}.")
    return facts, f"Where is {who[0]}?", places[1]


def _carry(rng: random.Random) -> Story:
    who, thing = rng.choice(_PEOPLE), rng.choice(_THINGS)
    first, last = rng.sample(_PLACES, 2)
    facts = [
        f"{who} went to the {first}.",
        f"{who} took the {thing}.",
        f"{who} went to the {last}.",
    ]
    return facts, f"Where is the {thing}?", last


def _before(rng: random.Random) -> Story:
    facts, asked, last = _carry(rng)
    thing = asked.removeprefix("Where is the ").rstrip("?")
    first = facts[0].rpartition(" ")[2].rstrip(".")
    return facts, f"Where was the {thing} before the {last}?", first


def _sides(rng: random.Random) -> Story:
    first, second = rng.sample(_PLACES, 2)
    side = rng.choice([*_SIDES])
    return [f"The {first} is {side} of the {second}."], f"What is {side} of the {second}?", first


def _give(rng: random.Random) -> Story:
    giver, taker = rng.sample(_PEOPLE, 2)
    thing = rng.choice(_THINGS)
    facts = [f"{giver} took the {thing}.", f"{giver} gave the {thing} to {taker}."]
    return facts, f"Who did {giver} give the {thing} to?", taker


def _yes_or_no(rng: random.Random) -> Story:
    facts, asked, place = _walk(rng)
    who = asked.removeprefix("Where is ").rstrip("?")
    other = rng.choice([place, *(set(_PLACES) - {place})])
    return facts, f"Is {who} in the {other}?", "yes" if other == place else "no"


def _count(rng: random.Random) -> Story:
    who, number = rng.choice(_PEOPLE), rng.randrange(4)
    facts = [f"{who} took the {thing}." for thing in rng.sample(_THINGS, number)]
    facts.append(f"{who} went to the {rng.choice(_PLACES)}.")
    return facts, f"How many objects is {who} carrying?", _NUMBERS[number]


def _list(rng: random.Random) -> Story:
    who, things = rng.choice(_PEOPLE), rng.sample(_THINGS, 2)
    facts = [f"{who} took the {thing}." for thing in things]
    return facts, f"What is {who} carrying?", ",".join(things)


def _negation(rng: random.Random) -> Story:
    who, place = rng.choice(_PEOPLE), rng.choice(_PLACES)
    there = rng.random() < 0.5
    fact = f"{who} is in the {place}." if there else f"{who} is no longer in the {place}."
    return [fact], f"Is {who} in the {place}?", "yes" if there else "no"


def _either(rng: random.Random) -> Story:
    who = rng.choice(_PEOPLE)
    first, second = rng.sample(_PLACES, 2)
    return (
        [f"{who} is either in the {first} or the {second}."],
        f"Is {who} in the {first}?",
        "maybe",
    )


STORIES: dict[str, Callable[[random.Random], Story]] = {
    **{"qa1": _walk, "qa2": _carry, "qa3": _before, "qa4": _sides, "qa5": _give},
    **{"qa6": _yes_or_no, "qa7": _count, "qa8": _list, "qa9": _negation, "qa10": _either},
}


def write(folder: Path) -> None:
    """Write ``TASK/1k.json`` of every task."""
    for task, tell in STORIES.items():
        rng = random.Random(f"babilong-{task}")
        rows = []
        for _ in range(NUM_SAMPLES):
            facts, question, target = tell(rng)
            context = scatter(rng, facts, NUM_SENTENCES)
            rows.append({"input": context, "question": question, "target": target})
        (folder / task).mkdir(parents=True, exist_ok=True)
        (folder / task / "1k.json").write_text(json.dumps(rows), encoding="utf-8")
