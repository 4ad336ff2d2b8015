"""Writes the data that is shipped in ``assets``: a haystack with needles, and LongBench's samples.

``python -m opencompass_llada.synthetic.embedded ASSETS`` writes the files again, byte for byte.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from opencompass_llada.files import write_text
from opencompass_llada.synthetic.grammar import generate_documents
from opencompass_llada.synthetic.longbench_rows import MAKERS, make_choice_row, make_row
from opencompass_llada.synthetic.needles import generate_needles, held_out

HAYSTACK_FILE = "synthetic_en.jsonl"
NEEDLE_FILE = "needles.jsonl"
V2_FILE = "v2.jsonl"
SEED = 0  # training text has other seeds
NUM_DOCUMENTS = 48
NUM_NEEDLES = 40
#: Paragraphs of each row of a LongBench task: prompts from about 200 to 800 of tiny-llada's tokens.
NUM_PARAGRAPHS = (2, 4, 6, 8)


def write_embedded(folder: str | Path) -> Path:
    """Write haystack and needles in NeedleBench's file format; returns the folder."""
    target = Path(folder)
    _write_lines(target / HAYSTACK_FILE, generate_documents(SEED, NUM_DOCUMENTS))
    needles = generate_needles(SEED, NUM_NEEDLES, accept=held_out)
    _write_lines(target / NEEDLE_FILE, (needle.as_needlebench() for needle in needles))
    return target


def write_samples(folder: str | Path) -> Path:
    """Write samples in LongBench's and LongBench v2's file formats; returns the folder."""
    target = Path(folder)
    for task in MAKERS:
        rows = [make_row(task, number, size) for number, size in enumerate(NUM_PARAGRAPHS)]
        _write_lines(target / "data" / f"{task}.jsonl", rows)
    questions = [make_choice_row(number, size) for number, size in enumerate(NUM_PARAGRAPHS * 2)]
    _write_lines(target / V2_FILE, questions)
    return target


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    write_embedded(Path(sys.argv[1]) / "needlebench")
    write_samples(Path(sys.argv[1]) / "longbench")
