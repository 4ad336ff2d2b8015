"""Writes embedded samples: text around their facts, by the package's own grammar, and files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.synthetic.grammar import expand


def scatter(rng: random.Random, facts: Sequence[str], num_sentences: int) -> str:
    """Return random sentences with facts between them, in their order, at random places."""
    places = sorted(rng.randrange(num_sentences + 1) for _ in facts)
    sentences = [expand("sentence", rng) for _ in range(num_sentences)]
    for place, fact in reversed(list(zip(places, facts, strict=True))):
        sentences.insert(place, fact)
    return " ".join(sentences)


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a parquet file, with the folders above it."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a file of an object a line, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
