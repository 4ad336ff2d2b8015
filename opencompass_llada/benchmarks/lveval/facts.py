"""States what is known of LV-Eval: its eleven tasks, lengths, averages and files.

From infinigence/LVEval (arXiv 2402.05136): lengths of answers and metrics from ``config.py``,
groups from the README's tables. A length counts words of English and characters of Chinese, so that
a model's tokens are more; ``fit`` cuts prompts to so many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.benchmarks.benchmark import Group
from opencompass_llada.benchmarks.published.suite import Suite


@dataclass(frozen=True, kw_only=True)
class LVEvalTask:
    """One task."""

    hops: str
    """``Single-hop`` or ``Multi-hop``."""
    language: str
    """``en`` or ``zh``."""
    metric: str
    """A key of `scoring.METRICS`."""
    answer_length: int
    """Tokens of an answer."""
    stock: str
    """OpenCompass's config, below ``opencompass.configs.datasets.lveval``."""


def _task(hops: str, language: str, metric: str, stock: str, answer_length: int = 64) -> LVEvalTask:
    return LVEvalTask(
        hops=f"{hops}-hop", language=language, metric=metric, answer_length=answer_length,
        stock=stock,
    )  # fmt: skip


_EN, _ZH = "gen_d7ea36", "gen_465823"
#: Task -> what is known of it. A task is called as its files.
TASKS: dict[str, LVEvalTask] = {
    "loogle_SD_mixup": _task(
        "Single", "en", "keyword_f1", f"lvevalloogle_SD_mixup.lveval_loogle_SD_mixup_{_EN}"
    ),
    "cmrc_mixup": _task("Single", "zh", "keyword_f1", f"lvevalcmrc_mixup.lveval_cmrc_mixup_{_ZH}"),
    "multifieldqa_en_mixup": _task(
        *("Single", "en", "keyword_f1"),
        f"lvevalmultifieldqa_en_mixup.lveval_multifieldqa_en_mixup_{_EN}",
    ),
    "multifieldqa_zh_mixup": _task(
        *("Single", "zh", "keyword_f1"),
        "lvevalmultifieldqa_zh_mixup.lveval_multifieldqa_zh_mixup_gen_0fbdad",
    ),
    "factrecall_en": _task(
        "Single", "en", "f1", "lvevalfactrecall_en.lveval_factrecall_en_gen_9a836f", 16
    ),
    "factrecall_zh": _task(
        "Single", "zh", "f1", "lvevalfactrecall_zh.lveval_factrecall_zh_gen_dbee70", 16
    ),
    "dureader_mixup": _task(
        "Multi", "zh", "rouge", f"lvevaldureader_mixup.lveval_dureader_mixup_{_ZH}"
    ),
    "loogle_CR_mixup": _task(
        "Multi", "en", "keyword_f1", f"lvevalloogle_CR_mixup.lveval_loogle_CR_mixup_{_EN}"
    ),
    "loogle_MIR_mixup": _task(
        "Multi", "en", "keyword_f1", f"lvevalloogle_MIR_mixup.lveval_loogle_MIR_mixup_{_EN}"
    ),
    "hotpotwikiqa_mixup": _task(
        *("Multi", "en", "keyword_f1"),
        "lvevalhotpotwikiqa_mixup.lveval_hotpotwikiqa_mixup_gen_77ce82",
    ),
    "lic_mixup": _task("Multi", "zh", "keyword_f1", "lvevallic_mixup.lveval_lic_mixup_gen_01eb0c"),
}
LENGTHS = tuple(1024 * k for k in (16, 32, 64, 128, 256))
EMBEDDED_LENGTH = 1024


def name_length(length: int) -> str:
    """Return what files call a length: 16k, 32k, ..."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def list_files(task: str, length: int) -> str:
    """Return where a file may lie: unpacked beside its archive, bare, or in the archive."""
    name = f"{task}_{name_length(length)}.jsonl"
    return f"{task}/{name}|{name}|{task}.zip"


def _find_files(cell: Mapping[str, Any]) -> list[str]:
    return [list_files(str(cell["task"]), int(cell["length"]))]


def _of_hops(hops: str) -> tuple[str, ...]:
    return tuple(name for name, task in TASKS.items() if task.hops == hops)


SUITE = Suite(
    name="lveval",
    title="LV-Eval",
    source="LV-Eval (arXiv 2402.05136): Average is the mean of all eleven tasks at a length",
    tasks={name: task.answer_length for name, task in TASKS.items()},
    path="data/LVEval",
    folder="data/LVEval",
    fetch="hf download Infinigence/LVEval --repo-type dataset --include '*.zip' --local-dir FOLDER",
    find_files=_find_files,
    dataset="lveval.dataset.LVEvalDataset",
    evaluator="lveval.dataset.LVEvalEvaluator",
    lengths=LENGTHS,
    embedded_lengths=(EMBEDDED_LENGTH,),
    groups=(
        Group(name="Average", members=tuple(TASKS)),
        Group(name="Single-hop", members=_of_hops("Single-hop")),
        Group(name="Multi-hop", members=_of_hops("Multi-hop")),
    ),
)
BENCHMARKS = (SUITE.benchmark(),)
