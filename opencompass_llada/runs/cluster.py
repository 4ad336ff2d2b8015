"""Runs the tasks of a config on Slurm or DLC: swaps the runner, and keeps what the config says.

OpenCompass merges its own partitioner and tasks into those of the config, which gives a mixture
that cannot be built. The tasks are then counted by the login node, which may have no GPU. What a
cluster would refuse or never show is refused or warned of before the first job.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.benchmark import benchmark_of
from opencompass_llada.files import CACHE_VARIABLE, user_cache
from opencompass_llada.options import nearest
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.machine import node_local_type

logger = logging.getLogger(__name__)

#: The option's own default; a config's number of tasks at a time counts where it is not given.
_DEFAULT_WORKERS = 1
#: Takes the place of OpenCompass's SlurmRunner.
SLURM_RUNNER = "opencompass_llada.runs.slurm_runner.JobNamingSlurmRunner"
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
        runner["type"] = SLURM_RUNNER
        runner["extra_command"] = list(own_runner.get("extra_command") or ())
    partitioner = own.get("partitioner") or made[stage]["partitioner"]
    if recorded.type_name(partitioner) == "CostAwarePartitioner":
        workers = {"num_workers": runner["max_num_workers"]}
        partitioner = {**partitioner, **workers, "start_seconds": OWN_START}
    cfg[stage] = {**own, "partitioner": partitioner, "runner": runner}


def use_own_runner(cfg: Any, arguments: Any) -> None:
    """Put `SLURM_RUNNER` in the place of the SlurmRunner that a config names itself."""
    for stage in ("infer", "eval"):
        runner = (cfg.get(stage) or {}).get("runner") or {}
        if recorded.type_name(runner) == "SlurmRunner":
            runner["type"] = SLURM_RUNNER
            if arguments.partition is not None:  # OpenCompass hands it to its own class alone
                runner["partition"] = arguments.partition
                runner["quotatype"] = arguments.quotatype


def check(cfg: Mapping[str, Any], arguments: Any) -> None:
    """Refuse what a cluster would not run, and warn of folders that its nodes do not see.

    Raises:
        ValueError: For a runner, a partition or models that do not fit.
    """
    names = [_runner_name(cfg, stage) for stage in ("infer", "eval")]
    if "SlurmSequentialRunner" in names and not (arguments.slurm or arguments.dlc):
        raise ValueError(
            "runner: SlurmSequentialRunner waits for a line of srun, 'Job N scheduled "
            "successfully!', that Slurm as it is published does not write, so that it runs one "
            "task after another. Use type='opencompass.runners.SlurmRunner' in infer and eval, "
            "or --slurm -p PARTITION; max_num_workers says how many jobs there are at a time."
        )
    on_slurm = arguments.slurm or any("SlurmRunner" in name for name in names)
    if not (on_slurm or arguments.dlc or "DLCRunner" in names):
        return
    if not arguments.dry_run:
        if on_slurm:
            check_partition(arguments.partition)
        warn_of_local_folders(arguments.work_dir or cfg.get("work_dir") or "outputs", cfg)
    if arguments.mode in ("all", "infer"):
        check_gpus(cfg)


def _runner_name(cfg: Mapping[str, Any], stage: str) -> str:
    return recorded.type_name((cfg.get(stage) or {}).get("runner") or {})


def check_partition(partition: str | None) -> None:
    """Refuse a machine without srun, and partitions that Slurm does not have."""
    if shutil.which("srun") is None:
        raise ValueError(
            "--slurm: this machine has no srun, which starts the jobs. Start the run on a login "
            "node of the cluster, or without --slurm."
        )
    try:
        listing = subprocess.run(
            ["sinfo", "--all", "--noheader", "--format=%R"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("The partitions could not be listed: %s", error)
        return
    known = listing.stdout.split()
    for name in (partition or "").split(","):
        if name and name not in known:
            guess = nearest(name, known)
            hint = f" Did you mean {guess!r}?" if guess else ""
            raise ValueError(
                f"-p {name}: Slurm has no such partition.{hint} Use one of {', '.join(known)}."
            )


def warn_of_local_folders(work_dir: str | Path, cfg: Mapping[str, Any]) -> None:
    """Warn where a run's folder or its cache lies on a disk that other nodes do not see."""
    if kind := node_local_type(work_dir):
        logger.warning(
            "-w %s is on a file system (%s) that is commonly of one node. If the nodes of the "
            "jobs do not see it, no answer is found: give a folder on the shared disk.",
            work_dir,
            kind,
        )
    is_cached = any(
        benchmark_of(dataset).name == "ruler" for _, dataset in recorded.list_pairs(cfg)
    )
    cache = user_cache("ruler") if is_cached else None
    if cache is not None and (kind := node_local_type(cache)):
        logger.warning(
            "The cache of prompts, %s, is on a file system (%s) that is commonly of one node. "
            "Each node then makes its own: set %s to a folder on the shared disk.",
            cache.parent,
            kind,
            CACHE_VARIABLE,
        )


def is_so(record: logging.LogRecord) -> bool:
    """Tell OpenCompass's log lines from two warnings that do not hold here.

    That -p is ignored, of which it knows its own runner alone, and that stages are overridden.
    """
    untrue = ("SlurmRunner is not used", 'You have set "infer"', 'You have set "eval"')
    return not record.getMessage().startswith(untrue)


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
