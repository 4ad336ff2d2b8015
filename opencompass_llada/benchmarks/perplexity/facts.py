"""States what is known of perplexity over context length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.benchmark import Benchmark, DataFiles


def _needed(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, list[str]]]:
    path = str(dataset.get("path"))
    is_own = kind.startswith("opencompass_llada.benchmarks.perplexity.")
    if is_own and path != "generated" and not path.startswith("hub:"):
        yield str(Path(path).parent), [Path(path).name]


BENCHMARKS = (
    Benchmark(
        name="perplexity",
        title="perplexity",
        dataset_classes=(),
        metrics=("perplexity",),
        has_more_metrics=False,
        is_percent=False,
        groups=(),
        headline=None,
        is_grid=False,
        source="LLaDA (arXiv 2502.09992), equation 14",
        data=DataFiles(name="perplexity", folders={}, files=(), fetch="", needed=_needed),
        plan="opencompass_llada.benchmarks.perplexity.plan",
    ),
)
