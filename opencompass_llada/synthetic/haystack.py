"""The generated haystack: documents of random sentences that never repeat periodically.

Writes NeedleBench's haystack lines ({"title", "text"}); needles are another module's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from opencompass_llada.files import write_text
from opencompass_llada.synthetic.grammar import expand


def _paragraph(rng: random.Random) -> str:
    return " ".join(expand("sentence", rng) for _ in range(rng.randint(3, 9)))


def generate_documents(seed: int, num_documents: int) -> Iterator[dict[str, str]]:
    """Generate documents of 4 to 12 paragraphs each.

    Args:
        seed: Same seed, same documents.
        num_documents: How many.

    Yields:
        ``{"title": ..., "text": ...}`` as in NeedleBench's haystack files.
    """
    rng = random.Random(f"haystack-{seed}")
    for _ in range(num_documents):
        title = f"The {expand('quality', rng)} {expand('thing', rng)} of {expand('name', rng)}"
        paragraphs = [_paragraph(rng) for _ in range(rng.randint(4, 12))]
        yield {"title": title, "text": "\n".join(paragraphs) + "\n"}


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON lines, UTF-8, one object a line.

    Args:
        path: File to write.
        rows: JSON-serialisable objects.
    """
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, "".join(lines))
