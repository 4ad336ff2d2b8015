"""An OpenCompass partitioner that packs all work into a given number of tasks.

Starting a task process costs about 10 seconds of imports, which is more than a tiny model takes for
a dozen cells. The stock partitioners never put two models into one task; this one does, so that a
run of several tiny models starts one process a worker. For models that take minutes to run, use
the stock one: a fault of one model then leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from opencompass.partitioners import NaivePartitioner


class PackingPartitioner(NaivePartitioner):
    """Splits the unfinished (model, data set) pairs, in order, into tasks of equal size."""

    def __init__(self, out_dir: str, num_tasks: int, keep_keys: list[str] | None = None) -> None:
        """Keep the number of tasks.

        Args:
            out_dir: Where finished pairs leave their files; OpenCompass gives it.
            num_tasks: Tasks to make, at least 1; fewer are made of fewer pairs.
            keep_keys: Parts of the config that tasks get besides; OpenCompass's by default.

        Raises:
            ValueError: If num_tasks is below 1.
        """
        super().__init__(out_dir=out_dir, n=1, keep_keys=keep_keys)
        if num_tasks < 1:
            raise ValueError(f"num_tasks={num_tasks} must be at least 1.")
        self.num_tasks = num_tasks

    def partition(
        self,
        model_dataset_combinations: Sequence[Mapping[str, Any]],
        work_dir: str,
        out_dir: str,
        add_cfg: Mapping[str, Any] | None = None,
    ) -> list[Config]:
        """Make the tasks.

        Args:
            model_dataset_combinations: Groups of ``models`` and ``datasets``.
            work_dir: The run's folder.
            out_dir: Where finished pairs leave their files.
            add_cfg: What every task gets besides.

        Returns:
            Task configs: ``models``, and ``datasets`` with one list a model.
        """
        pairs = super().partition(model_dataset_combinations, work_dir, out_dir, {})
        size = -(-len(pairs) // self.num_tasks) or 1
        return [
            _join(pairs[start : start + size], work_dir, add_cfg or {})
            for start in range(0, len(pairs), size)
        ]


def _join(pairs: Sequence[Config], work_dir: str, add_cfg: Mapping[str, Any]) -> Config:
    """Make one task of tasks of one pair each, with each model named once."""
    models: dict[str, Any] = {}
    datasets: dict[str, list[Any]] = {}
    for pair in pairs:
        model, dataset = pair["models"][0], pair["datasets"][0][0]
        models.setdefault(model["abbr"], model)
        datasets.setdefault(model["abbr"], []).append(dataset)
    return Config(
        {
            "models": list(models.values()),
            "datasets": list(datasets.values()),
            "work_dir": work_dir,
            **add_cfg,
        }
    )
