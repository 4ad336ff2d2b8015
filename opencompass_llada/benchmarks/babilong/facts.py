"""States what is known of BABILong (arXiv 2406.10149): its tasks, lengths and files.

Tasks and lengths are those of OpenCompass 0.5.4 (configs/datasets/babilong), but for the length 0k,
which has no text around the facts. Columns are input, question and target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencompass_llada.benchmarks.published.suite import Suite

TASKS = tuple(f"qa{number}" for number in range(1, 11))
#: Tokens -> what files and OpenCompass call the length.
SPLITS = {
    **{1024 * k: f"{k}k" for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)},
    1024 * 1024: "1m",
}
#: The same answer is asked for in all samples of a task, so that a guess of one of so many is right
#: now and then: six places, or yes and no, or these and maybe. Of the other tasks nobody knows.
ANSWERS = {**dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), 6), "qa6": 2, "qa9": 2, "qa10": 3}
#: The authors generate 20 tokens; a block of 32 holds any answer in the format that is asked for.
ANSWER_TOKENS = 32


def _find_files(cell: Mapping[str, Any]) -> list[str]:
    split = SPLITS[cell["length"]]
    # The hub has 1M.json where OpenCompass's own download has 1m.json.
    name = f"{cell['task']}/{split}.json"
    return [f"{name}|{cell['task']}/{split.replace('m', 'M')}.json" if "m" in split else name]


SUITE = Suite(
    name="babilong",
    title="BABILong",
    source="BABILong (arXiv 2406.10149): mean of ten tasks, as OpenCompass has it",
    tasks=dict.fromkeys(TASKS, ANSWER_TOKENS),
    path="opencompass/babilong",
    folder="data/babilong/data",
    fetch="hf download RMT-team/babilong --repo-type dataset --include 'data/*' "
    "--local-dir FOLDER/..",
    find_files=_find_files,
    dataset="babilong.dataset.BabiLongSuiteDataset",
    evaluator="babilong.dataset.BabiLongSuiteEvaluator",
    lengths=tuple(SPLITS),
    default_lengths=tuple(length for length in SPLITS if length <= 131072),
    embedded_lengths=(1024,),
)
BENCHMARKS = (SUITE.benchmark(),)
