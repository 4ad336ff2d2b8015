"""A look at a run's LongBench data before anything is loaded.

OpenCompass itself loads the model first and reads the data after it, in a task's own process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opencompass_llada.datasets.longbench.reading import read_rows
from opencompass_llada.datasets.longbench.tasks import list_tasks
from opencompass_llada.datasets.longbench.v2 import read_rows as read_v2_rows


def check_data_sets(configs: Sequence[Mapping[str, Any]]) -> None:
    """Read the rows of every data set and forget them.

    Args:
        configs: Data set configs with ``benchmark``, ``task`` and ``path``.

    Raises:
        ValueError: As `reading.read_rows` and `v2.read_rows`.
    """
    for config in configs:
        if config["benchmark"] == "longbench_v2":
            read_v2_rows(config["path"])
        else:
            (task,) = list_tasks(config["benchmark"], [config["task"]])
            read_rows(config["path"], task, config["benchmark"])
