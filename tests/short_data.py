"""OpenCompass's data folder of the short-context benchmarks, with own-written rows, for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from opencompass_llada.assets import resolve_asset

HUMANEVAL_ROW = {
    "task_id": "HumanEval/0",
    "prompt": 'def one() -> int:\n    """Return one."""\n',
    "entry_point": "one",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
    "canonical_solution": "    return 1\n",
}
MBPP_ROW = {
    "text": "Write a function that returns one.",
    "code": "def one():\n    return 1",
    "task_id": 1,
    "test_list": ["assert one() == 1"],
}


def write_short_data(folder: Path) -> Path:
    """Add the sample set and some rows of each code benchmark to a data folder; return it."""
    shutil.copytree(resolve_asset("asset:short"), folder, dirs_exist_ok=True)
    for name, file, rows in (
        ("humaneval", "human-eval-v2-20210705.jsonl", [HUMANEVAL_ROW]),
        ("mbpp", "mbpp.jsonl", [MBPP_ROW] * 12),
    ):
        (folder / name).mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name / file).write_text(text)
    return folder
