"""States what is known of the short-context benchmarks, which are OpenCompass's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from opencompass_llada.benchmarks.facts import Benchmark, DataFiles

#: Data set id -> folder below the cache and a name in it.
_STOCK_FILES = {
    "opencompass/gsm8k": ("data/gsm8k", "test.jsonl"),
    "opencompass/math": ("data/math", "math.json"),
    "opencompass/humaneval": ("data/humaneval", "human-eval-v2-20210705.jsonl"),
    "opencompass/mbpp": ("data/mbpp", "mbpp.jsonl"),
    "opencompass/mmlu": ("data/mmlu", "test"),
    "opencompass/ai2_arc-dev": ("data/ARC/ARC-c", "ARC-Challenge-Dev.jsonl"),
    "opencompass/hellaswag": ("data/hellaswag", "hellaswag.jsonl"),
    "opencompass/winogrande": ("data/winogrande", "dev.jsonl"),
}


def _needed(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, list[str]]]:
    path = str(dataset.get("path"))
    if path in _STOCK_FILES:
        yield path, [_STOCK_FILES[path][1]]


BENCHMARKS = (
    Benchmark(
        name="short",
        title="Short context",
        dataset_classes=(),  # each data set is a benchmark of its own in reports
        metrics=("score", "accuracy"),
        has_more_metrics=True,
        is_percent=False,
        groups=(),
        headline=None,
        is_grid=False,
        source="LLaDA (arXiv 2502.09992), tables 1 and 2",
        data=DataFiles(
            name="short context",
            folders={path: folder for path, (folder, _) in _STOCK_FILES.items()},
            files=(),
            fetch="",
            needed=_needed,
        ),
    ),
)
