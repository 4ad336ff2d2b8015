"""States what is known of NeedleBench's tasks with several needles."""

from __future__ import annotations

from opencompass_llada.benchmarks.benchmark import Benchmark
from opencompass_llada.benchmarks.needle.facts import NEEDLEBENCH_FILES

BENCHMARKS = (
    Benchmark(
        name="needlebench_multi",
        title="needlebench_multi",
        dataset_classes=(),
        metrics=("score", "accuracy"),
        has_more_metrics=True,
        is_percent=False,
        groups=(),
        headline=None,
        is_grid=False,
        source="NeedleBench (arXiv 2407.11963)",
        data=NEEDLEBENCH_FILES,
        plan="opencompass_llada.benchmarks.multi_needle.plan",
    ),
)
