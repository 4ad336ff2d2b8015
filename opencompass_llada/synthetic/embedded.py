"""Writes the data that is shipped in ``assets``: a haystack with needles, and LongBench's samples.

``python -m opencompass_llada.synthetic.embedded ASSETS`` writes the files again, byte for byte. Of
LongBench there is one task a category, with contexts small enough for a tiny model.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.files import write_text
from opencompass_llada.synthetic.grammar import (
    QUESTION_TYPES,
    draw_held_out,
    fill,
    generate_documents,
    generate_needles,
    make_needle,
    paragraph,
)

HAYSTACK_FILE = "synthetic_en.jsonl"
NEEDLE_FILE = "needles.jsonl"
V2_FILE = "v2.jsonl"
SEED = 0  # training text has other seeds
NUM_DOCUMENTS = 48
NUM_NEEDLES = 40
#: Paragraphs of each row of a LongBench task: prompts from about 200 to 800 of tiny-llada's tokens.
NUM_PARAGRAPHS = (2, 4, 6, 8)
#: What a row's question and answer are: context, question, gold answers, classes.
Parts = tuple[str, str, list[str], list[str] | None]


def _shuffled(rng: random.Random, texts: Sequence[str]) -> list[str]:
    order = list(texts)
    rng.shuffle(order)
    return order


def _number(label: str, texts: Sequence[str]) -> list[str]:
    return [label.format(number) + text for number, text in enumerate(texts, start=1)]


def multifieldqa_en(rng: random.Random, num_paragraphs: int) -> Parts:
    """Make a document with a fact in it, and the question for the fact."""
    needle = draw_held_out(rng)
    texts = [paragraph(rng, 3) for _ in range(num_paragraphs)]
    place = rng.randrange(num_paragraphs)
    texts[place] += " " + needle.fact
    return "\n".join(texts), needle.question, [needle.value], None


def hotpotqa(rng: random.Random, num_paragraphs: int) -> Parts:
    """Make two passages that must be put together, and others."""
    thing, place, owner = (fill(slot, rng) for slot in ("{quality} {thing}", "{Name}", "{Name}"))
    texts = [paragraph(rng, 2) for _ in range(num_paragraphs)]
    texts[0] += f" The {thing} is kept in the castle of {place}."
    texts[1] += f" The castle of {place} belongs to {owner}."
    passages = _number("Passage {}:\n", _shuffled(rng, texts))
    question = f"Who owns the castle that the {thing} is kept in?"
    return "\n".join(passages), question, [owner], None


def qmsum(rng: random.Random, num_paragraphs: int) -> Parts:
    """Make a meeting, and ask what one speaker said."""
    speakers = list({fill("{Name}", rng): None for _ in range(12)})[:4]
    turns = [(rng.choice(speakers[1:]), paragraph(rng, 2)) for _ in range(num_paragraphs)]
    said = paragraph(rng, 2)
    turns.insert(rng.randrange(num_paragraphs), (speakers[0], said))
    transcript = "\n".join(f"{speaker}: {text}" for speaker, text in turns)
    return transcript, f"Summarize what {speakers[0]} said.", [said], None


def trec(rng: random.Random, num_paragraphs: int) -> Parts:
    """Ask for the type of a question, after examples."""

    def example(kind: str) -> str:
        return f"Question: {fill(QUESTION_TYPES[kind], rng)}\nType:"

    kinds = list(QUESTION_TYPES)
    examples = [f"{example(kind)} {kind}" for kind in kinds * -(-3 * num_paragraphs // len(kinds))]
    asked = rng.choice(kinds)
    return "\n".join(_shuffled(rng, examples)), example(asked), [asked], kinds


def passage_retrieval_en(rng: random.Random, num_paragraphs: int) -> Parts:
    """Ask which paragraph a sentence is from."""
    texts = [paragraph(rng, 3) for _ in range(num_paragraphs)]
    place = rng.randrange(num_paragraphs)
    context = "\n\n".join(_number("Paragraph {}: ", texts))
    return context, texts[place].split(". ")[0] + ".", [f"Paragraph {place + 1}"], None


def lcc(rng: random.Random, num_paragraphs: int) -> Parts:
    """Make a program whose last line is missing, and stands in it once before."""
    names = [fill("{place}", rng) for _ in range(4)]
    template = "def open_{0}(key):\n    {0} = find(key)\n    return {0}\n"
    blocks = [template.format(rng.choice(names)) for _ in range(2 * num_paragraphs + 1)]
    program, answer = "\n".join(blocks).rstrip("\n").rsplit("\n", 1)
    return f"{program}\n", "", [answer], None


#: Task -> what makes a row of it.
MAKERS: dict[str, Callable[[random.Random, int], Parts]] = {
    maker.__name__: maker
    for maker in (multifieldqa_en, hotpotqa, qmsum, trec, passage_retrieval_en, lcc)
}


def make_row(task: str, number: int, num_paragraphs: int) -> dict[str, object]:
    """Make a row of a task with LongBench's fields; the same number gives the same row."""
    rng = random.Random(f"longbench-{task}-{number}")
    context, question, answers, classes = MAKERS[task](rng, num_paragraphs)
    return {
        "input": question,
        "context": context,
        "answers": answers,
        "length": sum(len(text.split()) for text in (question, context, *answers)),
        "dataset": task,
        "language": "python" if task == "lcc" else "en",
        "all_classes": classes,
        "_id": f"{task}-{number}",
    }


def make_choice_row(number: int, num_paragraphs: int) -> dict[str, str]:
    """Make a row in LongBench v2's format: a fact, and four values to choose from.

    Odd numbers are called hard: their wrong choices stand in the text, too.
    """
    rng = random.Random(f"longbench-v2-{number}")
    needle = draw_held_out(rng)
    facts = {needle.value: needle.fact}
    while len(facts) < 4:
        other = make_needle(rng, needle.family)
        if other.key != needle.key:
            facts.setdefault(other.value, other.fact)
    hard = number % 2 == 1
    texts = [paragraph(rng, 3) for _ in range(num_paragraphs)]
    for fact in facts.values() if hard else [needle.fact]:
        texts[rng.randrange(num_paragraphs)] += " " + fact
    choices = _shuffled(rng, list(facts))
    return {
        "_id": f"v2-{number}",
        "domain": "Single-Document QA",
        "sub_domain": "Generated",
        "difficulty": "hard" if hard else "easy",
        "length": "short",
        "question": needle.question,
        **{f"choice_{letter}": text for letter, text in zip("ABCD", choices, strict=True)},
        "answer": "ABCD"[choices.index(needle.value)],
        "context": "\n".join(texts),
    }


def write_embedded(folder: Path) -> None:
    """Write haystack and needles in NeedleBench's file format."""
    needles = generate_needles(SEED, NUM_NEEDLES)
    _write_lines(folder / HAYSTACK_FILE, generate_documents(SEED, NUM_DOCUMENTS))
    _write_lines(folder / NEEDLE_FILE, (needle.as_needlebench() for needle in needles))


def write_samples(folder: Path) -> None:
    """Write samples in LongBench's and LongBench v2's file formats."""
    for task in MAKERS:
        rows = [make_row(task, number, size) for number, size in enumerate(NUM_PARAGRAPHS)]
        _write_lines(folder / "data" / f"{task}.jsonl", rows)
    questions = [make_choice_row(number, size) for number, size in enumerate(NUM_PARAGRAPHS * 2)]
    _write_lines(folder / V2_FILE, questions)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    write_embedded(Path(sys.argv[1]) / "needlebench")
    write_samples(Path(sys.argv[1]) / "longbench")
