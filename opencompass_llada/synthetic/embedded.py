"""The embedded haystack and needles: what lies in ``assets/needlebench`` and how it was made.

``python -m opencompass_llada.synthetic.embedded FOLDER`` writes the files again, byte for byte.
"""

from __future__ import annotations

import sys
from pathlib import Path

from opencompass_llada.synthetic.haystack import generate_documents, write_jsonl
from opencompass_llada.synthetic.needles import generate_needles, held_out

HAYSTACK_FILE = "synthetic_en.jsonl"
NEEDLE_FILE = "needles.jsonl"
SEED = 0  # training text has other seeds
NUM_DOCUMENTS = 48
NUM_NEEDLES = 40


def write_embedded(folder: str | Path) -> Path:
    """Write haystack and needles in NeedleBench's file format.

    Args:
        folder: Created if need be.

    Returns:
        The folder.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_jsonl(target / HAYSTACK_FILE, list(generate_documents(SEED, NUM_DOCUMENTS)))
    needles = generate_needles(SEED, NUM_NEEDLES, accept=held_out)
    write_jsonl(target / NEEDLE_FILE, [needle.as_needlebench() for needle in needles])
    return target


if __name__ == "__main__":
    write_embedded(sys.argv[1])
