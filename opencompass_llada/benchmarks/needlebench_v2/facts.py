"""States what is known of NeedleBench v2 (arXiv 2407.11963): its tasks, settings and files.

Settings are those of OpenCompass 0.5.4 (configs/datasets/needlebench_v2): depths, repeats, texts
and room for the wording by language, and for the Ancestral Trace Challenge the numbers of needles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opencompass_llada.benchmarks.benchmark import Group
from opencompass_llada.benchmarks.published.suite import Suite

#: Language -> OpenCompass's name of it, haystack file, and tokens that are kept free.
LANGUAGES = {
    "en": ("English", "PaulGrahamEssays.jsonl", 500),
    "zh": ("Chinese", "zh_finance.jsonl", 200),
}
KINDS = ("single", "retrieval", "reasoning")
DEPTHS = tuple(range(0, 101, 10))
#: Samples a depth; of retrieval, which has all depths in one prompt, samples.
REPEATS = {"single": 10, "retrieval": 25, "reasoning": 10}
REPEATS_TEXT = (
    "NeedleBench v2: samples a depth or a kind of question; default the published 10 or 25"
)
#: Needles of a chain of reasoning, and percent of the context between two of them.
CHAIN_NEEDLES = (2, 3, 4, 5)
CHAIN_GAP = 10
TRACE_NEEDLES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
TRACE_REPEATS = 10
NEEDLE_FILE = "needles.jsonl"
NAME_FILE = "names.json"
#: OpenCompass leaves the answers' length to the model.
ANSWER_TOKENS = {"single": 64, "retrieval": 512, "reasoning": 512}
TRACE_TOKENS = 1024


def split_task(task: str) -> tuple[str, str]:
    """Return kind and language of a task of `SUITE`."""
    kind, _, language = task.partition("_")
    return kind, language


def _find_files(cell: Mapping[str, Any]) -> list[str]:
    kind, language = split_task(cell["task"])
    return [LANGUAGES[language][1], NAME_FILE if kind == "reasoning" else NEEDLE_FILE]


SUITE = Suite(
    name="needlebench_v2",
    title="NeedleBench v2",
    source="NeedleBench (arXiv 2407.11963), v2 of OpenCompass: mean of three tasks",
    tasks={f"{kind}_{language}": ANSWER_TOKENS[kind] for language in LANGUAGES for kind in KINDS},
    path="opencompass/needlebench",
    folder="data/needlebench",
    fetch="hf download opencompass/needlebench --repo-type dataset --local-dir FOLDER",
    find_files=_find_files,
    dataset="needlebench_v2.dataset.NeedleBenchV2SuiteDataset",
    evaluator="needlebench_v2.scoring.NeedleBenchV2SuiteEvaluator",
    any_length=True,
    # Of its folders 4k to 1000k the longest each, in its own thousands.
    lengths=(4000, 8000, 32000, 128000, 200000, 256000, 1000000),
    default_lengths=(4000, 8000, 32000, 128000),
    embedded_lengths=(2048,),
    embedded_tasks=tuple(f"{kind}_en" for kind in KINDS),
    has_more_metrics=True,
    groups=tuple(
        Group(name=name, members=tuple(f"{kind}_{own}" for own in languages for kind in KINDS))
        for name, languages in (
            ("overall", ("en", "zh")),
            ("English", ("en",)),
            ("Chinese", ("zh",)),
        )
    ),
    headline="English",
)
TRACE = replace(
    SUITE,
    name="needlebench_atc",
    title="NeedleBench v2, Ancestral Trace Challenge",
    source="NeedleBench (arXiv 2407.11963), v2 of OpenCompass",
    tasks={f"{needles}needle": TRACE_TOKENS for needles in TRACE_NEEDLES},
    find_files=lambda cell: [NAME_FILE],
    dataset="needlebench_v2.dataset.TraceSuiteDataset",
    evaluator="needlebench_v2.scoring.TraceSuiteEvaluator",
    any_length=False,
    lengths=(),
    default_lengths=(),
    embedded_lengths=(),
    embedded_tasks=("2needle", "4needle"),
    fit="keep",
    groups=None,
    headline=None,
    plan="opencompass_llada.benchmarks.needlebench_v2.trace_plan",
)
BENCHMARKS = (SUITE.benchmark(), TRACE.benchmark())
