"""Makes a few rows of each L-Eval task, in the published layout and small.

They show the way through and measure nothing that the suite measures; no published text is in them.
"""

from __future__ import annotations

import random
from typing import Any

from opencompass_llada.benchmarks.leval.facts import TASKS
from opencompass_llada.synthetic.grammar import draw_held_out, fill, paragraph

Row = dict[str, Any]
#: Documents of a task, and questions of each.
NUM_ROWS = 2
NUM_QUESTIONS = 2
#: Sentences of a document: prompts of some 150 to 450 of tiny-llada's tokens.
_SIZE = 6
_LETTERS = "ABCD"


def list_rows(task: str) -> list[Row]:
    """Return the rows of a task, the same at every call."""
    rng = random.Random(f"leval-{task}")
    return [_make_row(task, rng) for _ in range(NUM_ROWS)]


def _make_row(task: str, rng: random.Random) -> Row:
    kind = TASKS[task].kind
    if kind == "rouge":
        document, pairs = _summary(rng)
    elif task in _MAKERS:
        document, pairs = _MAKERS[task](rng)
    else:
        document, pairs = _facts(rng)
    questions, answers = zip(*pairs, strict=True)
    return {
        "instructions": list(questions), "outputs": list(answers), "input": document,
        "source": task, "evaluation": kind,
    }  # fmt: skip


Made = tuple[str, list[tuple[str, str]]]


def _facts(rng: random.Random) -> Made:
    """Make a document with facts in it, and a question for each."""
    needles = [draw_held_out(rng) for _ in range(NUM_QUESTIONS)]
    texts = [paragraph(rng, 1) for _ in range(_SIZE)]
    for needle in needles:
        texts.insert(rng.randrange(len(texts)), needle.fact)
    return "\n".join(texts), [(needle.question, needle.value) for needle in needles]


def _summary(rng: random.Random) -> Made:
    first = paragraph(rng, 1)
    return f"{first}\n{paragraph(rng, _SIZE)}", [("Please summarize the text.", first)]


def _choices(rng: random.Random, mark: str) -> Made:
    """Ask for one of four values; ``mark`` is how an option's letter is written."""
    document, pairs = _facts(rng)
    asked = []
    for question, answer in pairs:
        values = [answer, *(draw_held_out(rng).value for _ in range(3))]
        rng.shuffle(values)
        options = [f"{mark.format(x)} {y}" for x, y in zip(_LETTERS, values, strict=True)]
        asked.append((question + "\n" + "\n".join(options), values.index(answer)))
    return document, [(text, _LETTERS[place]) for text, place in asked]


def _quality(rng: random.Random) -> Made:
    """Give the right option whole, with its letter in brackets, as QuALITY's rows do."""
    document, pairs = _choices(rng, "({})")
    return document, [
        (question, next(line for line in question.split("\n") if line.startswith(f"({letter})")))
        for question, letter in pairs
    ]


def _coursera(rng: random.Random) -> Made:
    document, pairs = _choices(rng, "{}.")
    several = "Which of these are letters of the alphabet?\nA. a\nB. 1\nC. b\nD. 2"
    return document, [pairs[0], (several, "AC")]


def _examples(rng: random.Random) -> Made:
    def text(first: int, second: int) -> str:
        return f"Question: What is {first} plus {second}?\nLet's think step by step\n"

    sums = [(rng.randrange(10), rng.randrange(10)) for _ in range(_SIZE)]
    shown = [f"{text(*pair)}The answer is {sum(pair)}\n" for pair in sums]
    asked = [(rng.randrange(10), rng.randrange(10)) for _ in range(NUM_QUESTIONS)]
    return "\n".join(shown), [(text(*pair), str(sum(pair))) for pair in asked]


def _code(rng: random.Random) -> Made:
    added = [rng.randrange(10) for _ in range(_SIZE)]
    code = [f"def operation{n}(x):\n    return [x, x + {add}]\n" for n, add in enumerate(added)]
    asked = rng.sample(range(_SIZE), k=NUM_QUESTIONS)
    ending = "What is the final output of the code?\nLet's think step by step\n"
    return "\n".join(code), [
        (f"print(operation{n}({n}))\n{ending}", f"[{n} {n + added[n]}]") for n in asked
    ]


def _fiction(rng: random.Random) -> Made:
    names = [fill("{Name}", rng) for _ in range(2)]
    document = f"{paragraph(rng, 3)}\n{names[0]} lives on the moon.\n{paragraph(rng, 3)}"
    ending = "True or False? Answer this question based on the world described in the document."
    return document, [
        (f"{names[0]} lives on the moon, {ending}", "True [fact: False]"),
        (f"Nobody lives on the moon, {ending}", "False [fact: True]"),
    ]


def _topics(rng: random.Random) -> Made:
    topics = [fill("the {quality} {thing}", rng) for _ in range(3)]
    turns = [
        f" USER: I would like to discuss the topic of {topic}. \n ASSISTANT: {paragraph(rng, 1)} "
        for topic in topics
    ]
    return "\n".join(turns), [
        (f"What is the {which} topic we discussed? Only give me the topic name.", topic)
        for which, topic in zip(("first", "second", "third"), topics, strict=True)
    ]


_MAKERS = {
    "coursera": _coursera,
    "gsm100": _examples,
    "quality": _quality,
    "tpo": lambda rng: _choices(rng, "{}."),
    "codeU": _code,
    "sci_fi": _fiction,
    "topic_retrieval_longchat": _topics,
}
