"""States what is known of RULER: its groups of tasks as two papers average them, and its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from opencompass_llada.benchmarks.benchmark import Benchmark, DataFiles, Group

NIAH_TASKS = (
    *("niah_single_1", "niah_single_2", "niah_single_3"),
    *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery"),
)
QA_TASKS = ("qa_squad", "qa_hotpotqa")
ALL_TASKS = (*NIAH_TASKS, "vt", "cwe", "fwe", *QA_TASKS)

#: LongLLaDA (arXiv 2506.14429, Table 2): the average is over tasks, not over groups. Check: its
#: LLaDA-8B-Base at 4K, (8 x 99.7 + 3 x 65.2 + 2 x 82.5) / 13 = 89.1.
LONGLLADA_GROUPS = (
    Group(name="NIAH", members=NIAH_TASKS),
    Group(name="AGG", members=("vt", "cwe", "fwe")),
    Group(name="QA", members=QA_TASKS),
    Group(name="Avg", members=ALL_TASKS),
)
#: UltraLLaDA (arXiv 2510.10481, Table 3): variable tracking stands apart from aggregation.
ULTRALLADA_GROUPS = (
    Group(name="NIAH", members=NIAH_TASKS),
    Group(name="AGG", members=("cwe", "fwe")),
    Group(name="QA", members=QA_TASKS),
    Group(name="VT", members=("vt",)),
    Group(name="AVG", members=ALL_TASKS),
)
#: Both in one table, under names that say which AGG is meant.
RULER_GROUPS = (
    Group(name="NIAH", members=NIAH_TASKS),
    Group(name="CWE+FWE", members=("cwe", "fwe")),
    Group(name="VT+CWE+FWE", members=("vt", "cwe", "fwe")),
    Group(name="QA", members=QA_TASKS),
    Group(name="13 tasks", members=ALL_TASKS),
)


def _needed(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, list[str]]]:
    if kind.startswith("opencompass_llada.benchmarks.ruler."):
        from opencompass_llada.benchmarks.ruler.prompts import TASKS, data_file_of

        essay_file = str(dataset.get("essay_file", "PaulGrahamEssays.jsonl"))
        if name := data_file_of(TASKS[dataset["task"]], essay_file):
            yield str(dataset.get("path", "data/ruler")), [name]


_FETCH = "from opencompass.utils import get_data_path as get; get('{}', local_mode=True)"

BENCHMARKS = (
    Benchmark(
        name="ruler",
        title="RULER",
        dataset_classes=(),
        metrics=("score",),
        has_more_metrics=False,
        is_percent=True,
        groups=RULER_GROUPS,
        headline="13 tasks",
        is_grid=False,
        source="RULER (arXiv 2404.06654): mean of 13 tasks; VT+CWE+FWE is LongLLaDA's AGG, "
        "CWE+FWE UltraLLaDA's (arXiv 2510.10481)",
        data=DataFiles(
            name="ruler",
            folders={"data/ruler": "data/ruler", "./data/ruler": "data/ruler"},
            files=("PaulGrahamEssays.jsonl", "dev-v2.0.json", "hotpotqa.json"),
            fetch=f'python -c "{_FETCH.format("data/ruler/hotpotqa.json")}"',
            needed=_needed,
        ),
        plan="opencompass_llada.benchmarks.ruler.plan",
    ),
)
