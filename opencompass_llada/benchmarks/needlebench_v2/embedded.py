"""Writes a haystack, needles and names of NeedleBench v2's layout, all generated."""

from __future__ import annotations

import json
import random
from pathlib import Path

from opencompass_llada.benchmarks.needlebench_v2.facts import LANGUAGES, NAME_FILE, NEEDLE_FILE
from opencompass_llada.benchmarks.published.texts import write_json_lines
from opencompass_llada.synthetic.grammar import expand, generate_documents, generate_needles

NUM_DOCUMENTS = 8
NUM_NEEDLES = 24
NUM_NAMES = 40


def write(folder: Path) -> None:
    """Write the English files."""
    write_json_lines(folder / LANGUAGES["en"][1], generate_documents(2, NUM_DOCUMENTS))
    needles = generate_needles(2, NUM_NEEDLES)
    write_json_lines(folder / NEEDLE_FILE, (needle.as_needlebench() for needle in needles))
    rng = random.Random("needlebench_v2")
    names: dict[str, None] = {}
    while len(names) < NUM_NAMES:
        names.setdefault(f"{expand('name', rng)} {expand('name', rng)}")
    (folder / NAME_FILE).write_text(json.dumps({"English": ",".join(names)}), encoding="utf-8")
