"""States what is known of LongBench: its 21 tasks, their prompts and averages, answers' lengths.

From THUDM/LongBench (arXiv 2308.14508): metrics and the rule of the first line from ``eval.py``,
the chat rule and LongBench-E's tasks from ``pred.py``, prompts from ``dataset2prompt.json``, which
lies beside this file, lengths from ``dataset2maxlen.json``, numbers of samples from ``task.md``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.benchmark import Benchmark, DataFiles, Group
from opencompass_llada.options import reject_unknown

#: Task -> prompt with ``{context}`` and ``{input}``.
PROMPTS: dict[str, str] = json.loads(
    Path(__file__).with_name("dataset2prompt.json").read_text(encoding="utf-8")
)
#: Wording -> task -> prompt. OpenCompass's configs, which LongLLaDA and UltraLLaDA ran, differ for
#: two tasks: qasper has the prompt of the multi-document tasks, multi_news ends in a line break.
WORDINGS: dict[str, dict[str, str]] = {
    "original": PROMPTS,
    "opencompass": {
        **PROMPTS,
        "qasper": PROMPTS["hotpotqa"],
        "multi_news": PROMPTS["multi_news"] + "\n",
    },
}
#: Category -> its name in LongBench's paper; the keys stand in LongLLaDA's Table 1.
CATEGORIES = {
    "SD": "single-document QA",
    "MD": "multi-document QA",
    "Sum": "summarization",
    "ICL": "few-shot learning",
    "Syn": "synthetic tasks",
    "Code": "code completion",
}
#: LongBench-E's buckets: name -> (lowest, first beyond) of a row's ``length``, in words for
#: English and characters for Chinese.
BUCKETS: dict[str, tuple[int, float]] = {
    "0-4k": (0, 4000),
    "4-8k": (4000, 8000),
    "8k+": (8000, float("inf")),
}


@dataclass(frozen=True)
class LongBenchTask:
    """One task."""

    category: str
    """A key of `CATEGORIES`."""
    name: str
    """As in file names and the rows' ``dataset``."""
    language: str
    """``en``, ``zh`` or ``code``."""
    metric: str
    """A key of `metrics.METRICS`."""
    max_new_tokens: int
    """The original's length of an answer."""
    num_samples: int
    """Published samples."""
    bucket_samples: tuple[int, ...] = ()
    """Published samples of each of `BUCKETS` in LongBench-E; empty where it is not part of it."""

    @property
    def first_line(self) -> bool:
        """Whether only the answer's first line counts."""
        return self.category == "ICL"

    @property
    def chat(self) -> bool:
        """Whether a chat model's template goes around the prompt."""
        return self.category not in ("ICL", "Code")


TASKS: dict[str, LongBenchTask] = {
    task.name: task
    for task in (
        LongBenchTask("SD", "narrativeqa", "en", "qa_f1", 128, 200),
        LongBenchTask("SD", "qasper", "en", "qa_f1", 128, 200, (100, 100, 24)),
        LongBenchTask("SD", "multifieldqa_en", "en", "qa_f1", 64, 150, (67, 70, 13)),
        LongBenchTask("SD", "multifieldqa_zh", "zh", "qa_f1_zh", 64, 200),
        LongBenchTask("MD", "hotpotqa", "en", "qa_f1", 32, 200, (100, 100, 100)),
        LongBenchTask("MD", "2wikimqa", "en", "qa_f1", 32, 200, (100, 100, 100)),
        LongBenchTask("MD", "musique", "en", "qa_f1", 32, 200),
        LongBenchTask("MD", "dureader", "zh", "rouge_zh", 128, 200),
        LongBenchTask("Sum", "gov_report", "en", "rouge", 512, 200, (100, 100, 100)),
        LongBenchTask("Sum", "qmsum", "en", "rouge", 512, 200),
        LongBenchTask("Sum", "multi_news", "en", "rouge", 512, 200, (100, 100, 94)),
        LongBenchTask("Sum", "vcsum", "zh", "rouge_zh", 512, 200),
        LongBenchTask("ICL", "trec", "en", "classification", 64, 200, (100, 100, 100)),
        LongBenchTask("ICL", "triviaqa", "en", "qa_f1", 32, 200, (100, 100, 100)),
        LongBenchTask("ICL", "samsum", "en", "rouge", 128, 200, (100, 100, 100)),
        LongBenchTask("ICL", "lsht", "zh", "classification", 64, 200),
        LongBenchTask("Syn", "passage_count", "en", "count", 32, 200, (100, 100, 100)),
        LongBenchTask("Syn", "passage_retrieval_en", "en", "retrieval", 32, 200, (100, 100, 100)),
        LongBenchTask("Syn", "passage_retrieval_zh", "zh", "retrieval_zh", 32, 200),
        LongBenchTask("Code", "lcc", "code", "code_similarity", 64, 500, (100, 100, 100)),
        LongBenchTask("Code", "repobench-p", "code", "code_similarity", 64, 500, (100, 100, 100)),
    )
}
LONGBENCH_E_TASKS = tuple(task.name for task in TASKS.values() if task.bucket_samples)


def list_tasks(benchmark: str, names: Sequence[str] | None = None) -> list[LongBenchTask]:
    """Return the tasks of ``longbench`` or ``longbench_e`` in LongBench's order, or those named."""
    reject_unknown("LongBench benchmark", [benchmark], ("longbench", "longbench_e"))
    known = list(TASKS) if benchmark == "longbench" else list(LONGBENCH_E_TASKS)
    reject_unknown(f"{benchmark} task", names or (), known)
    return [TASKS[name] for name in known if not names or name in names]


def bucket_of(length: int) -> str:
    """Return the LongBench-E bucket that a row's length falls into."""
    return next(name for name, (low, end) in BUCKETS.items() if low <= length < end)


def category_groups(
    benchmark: str = "longbench", names: Sequence[str] | None = None
) -> tuple[Group, ...]:
    """Return the averages of all tasks, or of those named.

    A category is the mean of its tasks, as in LongBench's and LongLLaDA's tables. ``Avg`` is the
    mean of all tasks, which comes nearest to LongLLaDA's Avg column; ``Weighted`` weighs tasks by
    their samples, as UltraLLaDA's total does.
    """
    tasks = list_tasks(benchmark, names)
    everything = tuple(task.name for task in tasks)
    by_category = {
        category: tuple(task.name for task in tasks if task.category == category)
        for category in CATEGORIES
    }
    return (
        *(Group(name=name, members=members) for name, members in by_category.items() if members),
        Group(name="Avg", members=everything),
        Group(name="Weighted", members=everything, weighting="samples"),
    )


def _repositories(task: LongBenchTask) -> int:
    """Round up to the wrappers' block length; qasper has another length in OpenCompass."""
    length = {"qasper": 32}.get(task.name, task.max_new_tokens)
    return -(-length // 64) * 64


#: LongBench v2: tokens of an answer, and the parts that its samples are told apart by.
V2_MAX_NEW_TOKENS = 128
V2_DIFFICULTIES = ("easy", "hard")
V2_LENGTHS = ("short", "medium", "long")

#: Name -> the length of a task's answers.
#:
#: - ``original``: LongBench's dataset2maxlen.
#: - ``longllada``: 512 for the summaries, 64 for all others (arXiv 2506.14429, section 4).
#: - ``ultrallada``: 512 for all, as its model config says.
#: - ``repositories``: what both papers' published code runs. Their configs take OpenCompass's data
#:   sets, whose lengths win over a model's, and their wrappers round them up to a whole block.
#: - ``short``: for the sample set and tiny models.
OUTPUT_LENGTHS: dict[str, Callable[[LongBenchTask], int]] = {
    "original": lambda task: task.max_new_tokens,
    "longllada": lambda task: 512 if task.category == "Sum" else 64,
    "ultrallada": lambda task: 512,
    "repositories": _repositories,
    "short": lambda task: 64 if task.category == "Sum" else 32,
}


def output_length(setting: str, task_name: str) -> int:
    """Return the number of tokens of a task's answers by a setting of `OUTPUT_LENGTHS`."""
    reject_unknown("output length setting", [setting], OUTPUT_LENGTHS)
    return OUTPUT_LENGTHS[setting](TASKS[task_name])


def _needed(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, list[str]]]:
    if kind.startswith("opencompass_llada.benchmarks.longbench.dataset."):
        suffix = "_e" if dataset.get("benchmark") == "longbench_e" else ""
        file = f"data/{dataset['task']}{suffix}.jsonl"
        yield str(dataset.get("path", "opencompass/Longbench")), [f"{file}|data.zip"]


def _needed_by_v2(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, list[str]]]:
    if kind.startswith("opencompass_llada.benchmarks.longbench.v2."):
        path = Path(str(dataset.get("path", "opencompass/longbenchv2")))
        is_file = path.suffix in (".json", ".jsonl")
        folder, file = (path.parent, path.name) if is_file else (path, "data.json")
        yield str(folder), [file]


LONGBENCH = Benchmark(
    name="longbench",
    title="LongBench",
    dataset_classes=(),
    metrics=("score",),
    has_more_metrics=False,
    is_percent=True,
    groups=category_groups("longbench"),
    headline="Avg",
    is_grid=False,
    source="LongBench (arXiv 2308.14508): six categories; Weighted is UltraLLaDA's total",
    data=DataFiles(
        name="longbench",
        folders={"opencompass/Longbench": "data/Longbench"},
        files=("data/hotpotqa.jsonl|data.zip", "data/lcc.jsonl|data.zip"),
        fetch="hf download THUDM/LongBench data.zip --repo-type dataset --local-dir FOLDER",
        needed=_needed,
    ),
    plan="opencompass_llada.benchmarks.longbench.plan",
)
BENCHMARKS = (
    LONGBENCH,
    replace(
        LONGBENCH,
        name="longbench_e",
        title="LongBench-E",
        has_more_metrics=True,
        groups=category_groups("longbench_e"),
        source="LongBench (arXiv 2308.14508)",
    ),
    replace(
        LONGBENCH,
        name="longbench_v2",
        title="LongBench v2",
        metrics=("accuracy",),
        has_more_metrics=True,
        groups=(),
        headline=None,
        source="LongBench v2 (arXiv 2412.15204)",
        data=DataFiles(
            name="longbench_v2",
            folders={"opencompass/longbenchv2": "data/longbenchv2"},
            files=("data.json",),
            fetch="hf download THUDM/LongBench-v2 data.json --repo-type dataset --local-dir FOLDER",
            needed=_needed_by_v2,
        ),
    ),
)
