"""States what is known of MRCR v2 (arXiv 2409.12640; google-deepmind/eval_hub): tasks and files.

Subsets are those of OpenCompass 0.5.4 (configs/datasets/mrcr), which reads giulio98/MRCR_v2_common
from the hub: a folder of parquet files a subset, columns context, question and answers. Its
subsets ``upto_128K`` are not here, as they mix lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencompass_llada.benchmarks.published.suite import Suite

#: Answers are whole essays, poems and the like. OpenCompass leaves their length to the model.
ANSWER_TOKENS = 1024


def name_subset(task: str, length: int) -> str:
    """Return the folder of a task's samples of at most ``length`` tokens, and more than half."""
    return f"{task}_in_{length // 2}_{length}"


def _find_files(cell: Mapping[str, Any]) -> list[str]:
    return [name_subset(cell["task"], cell["length"])]


LENGTHS = tuple(1024 * k for k in (8, 16, 32, 64, 128, 256, 512, 1024))
SUITE = Suite(
    name="mrcr",
    title="MRCR v2",
    source="MRCR (arXiv 2409.12640), v2 of google-deepmind/eval_hub",
    tasks=dict.fromkeys(("2needle", "4needle", "8needle"), ANSWER_TOKENS),
    path="data/mrcr_v2",
    folder="data/mrcr_v2",
    fetch="hf download giulio98/MRCR_v2_common --repo-type dataset --local-dir FOLDER",
    find_files=_find_files,
    dataset="mrcr.dataset.MrcrSuiteDataset",
    evaluator="mrcr.dataset.MrcrSuiteEvaluator",
    lengths=LENGTHS,
    default_lengths=tuple(length for length in LENGTHS if length <= 131072),
    embedded_lengths=(1024,),
)
BENCHMARKS = (SUITE.benchmark(),)
