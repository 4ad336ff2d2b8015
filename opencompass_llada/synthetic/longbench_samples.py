"""The sample set in ``assets/longbench``, in LongBench's and LongBench v2's file formats.

``python -m opencompass_llada.synthetic.longbench_samples FOLDER`` writes the files again, byte for
byte.
"""

from __future__ import annotations

import sys
from pathlib import Path

from opencompass_llada.synthetic.haystack import write_jsonl
from opencompass_llada.synthetic.longbench_rows import MAKERS, make_choice_row, make_row

#: Paragraphs of each row of a task: prompts from about 200 to 800 of tiny-llada's tokens.
NUM_PARAGRAPHS = (2, 4, 6, 8)
V2_FILE = "v2.jsonl"


def write_samples(folder: str | Path) -> Path:
    """Write the sample set.

    Args:
        folder: Created if need be.

    Returns:
        The folder.
    """
    target = Path(folder)
    (target / "data").mkdir(parents=True, exist_ok=True)
    for task in MAKERS:
        rows = [make_row(task, number, size) for number, size in enumerate(NUM_PARAGRAPHS)]
        write_jsonl(target / "data" / f"{task}.jsonl", rows)
    questions = [make_choice_row(number, size) for number, size in enumerate(NUM_PARAGRAPHS * 2)]
    write_jsonl(target / V2_FILE, [dict(row) for row in questions])
    return target


if __name__ == "__main__":
    write_samples(sys.argv[1])
