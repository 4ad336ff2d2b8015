"""Runs the tasks of a config on Slurm or DLC: swaps the runner, and keeps what the config says.

OpenCompass merges its own partitioner and tasks into those of the config, which gives a mixture
that cannot be built. The tasks are then counted by the login node, which may have no GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from opencompass_llada.assets import resolve_path
from opencompass_llada.runs import recorded_files as recorded

#: The option's own default; a config's number of tasks at a time counts where it is not given.
_DEFAULT_WORKERS = 1
#: Bytes of weights from which a model is too large for a CPU of a cluster.
_LARGE = 1e9
#: Seconds until a task's own process has imported what it needs.
OWN_START = 10.0


def fill_stage(stage: str, fill: Callable[[Any, Any], None], cfg: Any, arguments: Any) -> None:
    """Put in what OpenCompass gives a stage, ``infer`` or ``eval``, that the config leaves out.

    With --slurm and --dlc the runner is the option's; partitioner and task stay the config's. Each
    task is then a process of its own, which the partitioner is told.
    """
    own = cfg.get(stage)
    if not own:
        fill(cfg, arguments)
        return
    made = Config({"lark_bot_url": cfg.get("lark_bot_url")})
    fill(made, arguments)
    own_runner, runner = own.get("runner") or {}, made[stage]["runner"]
    runner["task"] = own_runner.get("task") or runner["task"]
    if arguments.max_num_workers == _DEFAULT_WORKERS:
        runner["max_num_workers"] = own_runner.get("max_num_workers", _DEFAULT_WORKERS)
    if arguments.slurm:
        # Inside an allocation of several tasks srun would start each of ours as often.
        runner["extra_command"] = [*(own_runner.get("extra_command") or ()), "-n1"]
    partitioner = own.get("partitioner") or made[stage]["partitioner"]
    if recorded.type_name(partitioner) == "CostAwarePartitioner":
        workers = {"num_workers": runner["max_num_workers"]}
        partitioner = {**partitioner, **workers, "start_seconds": OWN_START}
    cfg[stage] = {**own, "partitioner": partitioner, "runner": runner}


def check_gpus(cfg: Mapping[str, Any]) -> None:
    """Refuse large models that are planned for CPUs, as on a login node without a GPU.

    Only models of this package are looked at: one behind an API has no weights here.

    Raises:
        ValueError: If a model with more than 1 GB of weights, or of a hub, asks for no GPU.
    """
    for model in cfg.get("models") or ():
        if not recorded.is_ours(model) or "path" not in model:
            continue
        if (model.get("run_cfg") or {}).get("num_gpus", 0):
            continue
        folder = Path(resolve_path(model["path"])).expanduser()
        files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")] if folder.is_dir() else []
        size = sum(os.path.getsize(file) for file in files)
        if files and size < _LARGE:
            continue
        what = f"{size / 1e9:.1f} GB of weights" if files else "weights that are not on this node"
        raise ValueError(
            f"model {model.get('abbr', model['path'])!r} has {what} and is planned for a CPU "
            "(run_cfg: num_gpus=0), since this node has no GPU. Set LLADA_GPUS to the GPUs of all "
            "nodes that the run may use, or num_gpus in the model's run_cfg."
        )
