"""How many tokens are generated for an answer, as named settings.

LongBench's own numbers and those of the two papers, which differ. Knows tasks and numbers only.
"""

from __future__ import annotations

from collections.abc import Callable

from opencompass_llada.datasets.longbench.tasks import TASKS, LongBenchTask
from opencompass_llada.options import reject_unknown

#: What LongLLaDA's and UltraLLaDA's wrappers round lengths up to: their block length.
_BLOCK = 64
#: Where OpenCompass's configs have another length than LongBench.
_OPENCOMPASS = {"qasper": 32}


def _longllada(task: LongBenchTask) -> int:
    return 512 if task.category == "Sum" else 64


def _repositories(task: LongBenchTask) -> int:
    length = _OPENCOMPASS.get(task.name, task.max_new_tokens)
    return -(-length // _BLOCK) * _BLOCK


def _short(task: LongBenchTask) -> int:
    return 64 if task.category == "Sum" else 32


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
    "longllada": _longllada,
    "ultrallada": lambda task: 512,
    "repositories": _repositories,
    "short": _short,
}


def output_length(setting: str, task_name: str) -> int:
    """Return the number of tokens to generate for a task's answers.

    Args:
        setting: A key of `OUTPUT_LENGTHS`.
        task_name: A key of `TASKS`.

    Raises:
        ValueError: For an unknown name; the nearest is named.
    """
    reject_unknown("output length setting", [setting], OUTPUT_LENGTHS)
    reject_unknown("LongBench task", [task_name], TASKS)
    return OUTPUT_LENGTHS[setting](TASKS[task_name])
