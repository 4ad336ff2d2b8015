"""States what is known of NeedleBench: one needle in a haystack, or several, and its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from opencompass_llada.benchmarks.benchmark import ANY_METRIC, GRID_GROUP, Benchmark, DataFiles

#: Stands for a needle file's name where the package makes the needles itself.
GENERATED = "generated"
_OWN = ("opencompass_llada.benchmarks.needle.", "opencompass_llada.benchmarks.multi_needle.")


def _needed(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, list[str]]]:
    if ".needlebench" in kind.rpartition(".")[0] or kind.startswith(_OWN):
        names = [*dataset.get("file_list", []), dataset.get("needle_file_name")]
        yield str(dataset.get("path")), [str(name) for name in names if name and name != GENERATED]


NEEDLEBENCH_FILES = DataFiles(
    name="needlebench",
    folders={"opencompass/needlebench": "data/needlebench"},
    files=("needles.jsonl", "en_un_asr.jsonl", "PaulGrahamEssays.jsonl", "zh_all.jsonl",
           "multi_needle_reasoning_en.json", "multi_needle_reasoning_zh.json"),
    fetch="hf download opencompass/needlebench --repo-type dataset --local-dir FOLDER",
    needed=_needed,
)  # fmt: skip

BENCHMARKS = (
    Benchmark(
        name="niah",
        title="Needle in a haystack",
        dataset_classes=(
            "opencompass_llada.benchmarks.needle.dataset.NeedleBenchSingleDataset",
            "opencompass.datasets.needlebench.origin.NeedleBenchOriginDataset",
            "opencompass.datasets.needlebench_v2.origin.NeedleBenchOriginDataset",
        ),
        metrics=("accuracy", "score"),
        has_more_metrics=False,
        is_percent=True,
        groups=(),
        headline=GRID_GROUP,
        is_grid=True,
        source="LongLLaDA (arXiv 2506.14429), figures 1 to 3: mean over depths",
        data=NEEDLEBENCH_FILES,
        plan="opencompass_llada.benchmarks.needle.plan",
    ),
    replace(
        ANY_METRIC,
        name="needlebench_multi",
        title="needlebench_multi",
        source="NeedleBench (arXiv 2407.11963)",
        data=NEEDLEBENCH_FILES,
        plan="opencompass_llada.benchmarks.multi_needle.plan",
    ),
)
