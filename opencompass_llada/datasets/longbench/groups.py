"""LongBench's averages: the six categories and two averages over all tasks.

Lists groups for `results.group_summarizer`; computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencompass_llada.datasets.longbench.tasks import CATEGORIES, list_tasks


def category_groups(
    benchmark: str = "longbench", names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return the groups of a table of LongBench results.

    A category is the mean of its tasks, as in LongBench's and LongLLaDA's tables. ``Avg`` is the
    mean of all tasks, which comes nearest to LongLLaDA's Avg column; ``Weighted`` weighs tasks by
    their samples, as UltraLLaDA's total does.

    Args:
        benchmark: ``longbench`` or ``longbench_e``.
        names: Tasks that the groups are made of; all by default. Categories without any are left
            out.
    """
    tasks = list_tasks(benchmark, names)
    everything = [task.name for task in tasks]
    by_category = {
        category: [task.name for task in tasks if task.category == category]
        for category in CATEGORIES
    }
    return [
        *(dict(name=name, members=members) for name, members in by_category.items() if members),
        dict(name="Avg", members=everything),
        dict(name="Weighted", members=everything, weighting="samples"),
    ]
