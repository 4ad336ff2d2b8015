"""Lets plain ``opencompass CONFIG --slurm`` (or --dlc) keep what a config says of its stages.

OpenCompass merges its own partitioner and task into those of the config. A config names this module
in ``custom_imports``, which mmengine imports when OpenCompass reads the dumped config again, before
it merges. Does nothing in any other process, nor under this package's launcher, which has its own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any


def fill_and_check(stage: str, fill: Callable[[Any, Any], None], cfg: Any, arguments: Any) -> None:
    """Stand in for OpenCompass's function that fills a stage, ``infer`` or ``eval``."""
    from opencompass_llada.runs import cluster

    if stage == "infer" or arguments.mode == "eval":
        cluster.check(cfg, arguments)
    cluster.fill_stage(stage, fill, cfg, arguments)


def keep_stages(host: Any) -> None:
    """Put `fill_and_check` into the module of OpenCompass's ``main`` where it has its own."""
    stock = importlib.import_module("opencompass.utils.run")
    cluster = importlib.import_module("opencompass_llada.runs.cluster")
    for stage in ("infer", "eval"):
        name = f"fill_{stage}_cfg"
        fill: Callable[[Any, Any], None] = getattr(stock, name)
        if getattr(host, name, None) is fill:
            importlib.import_module("opencompass_llada.registry")  # log lines as OpenCompass's
            host.get_logger().addFilter(cluster.is_so)
            setattr(host, name, partial(fill_and_check, stage, fill))


for _name in ("opencompass.cli.main", "__main__"):
    if hasattr(sys.modules.get(_name), "fill_infer_cfg"):
        keep_stages(sys.modules[_name])
