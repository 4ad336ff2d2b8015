"""Hands a command line over to OpenCompass, and fails where it would not.

Checks the config before the first task and the files after the last one: OpenCompass itself exits
0 when every task failed.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from opencompass_llada.faults import guard
from opencompass_llada.files import (
    FolderInUse,
    folder_lock,
    left_lock,
    remove,
    remove_left_overs,
)
from opencompass_llada.options import nearest
from opencompass_llada.runs import shards
from opencompass_llada.runs.command_line import parse_arguments, read_config
from opencompass_llada.runs.durability import clear_working_folder, heal, whole_files
from opencompass_llada.runs.exit_status import describe_missing, find_missing, find_unanswered
from opencompass_llada.runs.machine import (
    check_environment,
    describe_job,
    list_gpus,
    read_requirements,
    visible_devices_as_indices,
    write_job,
)
from opencompass_llada.runs.provenance import record_run
from opencompass_llada.runs.quick_imports import imports_uncollected
from opencompass_llada.runs.recorded_files import list_pairs, type_name
from opencompass_llada.runs.shards import OwnPart
from opencompass_llada.runs.shared_data_sets import sharing_data_sets
from opencompass_llada.runs.task_lifetime import tasks_end_with_this
from opencompass_llada.runs.warm_processes import fork_here, imports_shared
from opencompass_llada.runs.watch import describe_left

logger = logging.getLogger(__name__)

_STAGES = {"all": ("predictions", "results"), "infer": ("predictions",)}


@dataclass
class _Run:
    """What OpenCompass made of the command line; its main() returns none of it."""

    cfg: Mapping[str, Any] | None = None
    arguments: Any = None
    folder: Path | None = None  # its own, once it is locked
    config: Path | None = None  # what OpenCompass dumped of cfg
    own: OwnPart | None = None  # what this process answers, where that is a part
    held: ExitStack = field(default_factory=ExitStack)

    @property
    def writes(self) -> bool:
        """Whether this run makes files of a run."""
        return self.arguments.mode != "viz" and not self.arguments.dry_run

    @property
    def is_debugged(self) -> bool:
        """Whether --debug is given; a dry run is a debugged one to OpenCompass."""
        return self.arguments is not None and self.arguments.debug and not self.arguments.dry_run

    @property
    def log_folder(self) -> Path | None:
        """The folder of the run's logs; None before the run has one."""
        work_dir = (self.cfg or {}).get("work_dir")
        return None if work_dir is None else Path(work_dir) / "logs"

    def enter(self, folder: Path, own_config: str = "") -> None:
        """Lock a folder for this run, and remove what an earlier one left half-done in it."""
        if not self.writes or self.folder == folder:
            return
        if left := left_lock(folder):
            logger.warning("%s", describe_left(left))
        owns = None if self.own is None else self.own.owns
        part = "" if self.own is None else f"shard-{self.own.shard.index}"
        job = write_job(describe_job())
        doing = f"an evaluation{job and f' ({job})'}"
        self.held.enter_context(folder_lock(folder, doing, part))
        self.folder = folder
        heal(folder, self.arguments.mode in ("all", "infer"), own_config, owns)
        clear_working_folder(Path.cwd())

    def mark(self, cfg: Mapping[str, Any]) -> None:
        """Let the tasks of this run end with it."""
        if not self.writes:
            return
        runners = [_runner_name(cfg, stage) for stage in ("infer", "eval")]

        def clear() -> None:
            try:
                self.held.close()
            except (ValueError, RuntimeError) as error:  # the signal came while it was entered
                logger.warning("The run's lock is left: %s", error)
            if self.folder is not None:
                remove_left_overs(self.folder, with_own=True)
            clear_working_folder(Path.cwd(), with_own=True)

        self.held.enter_context(
            tasks_end_with_this(
                in_tasks=not self.is_debugged,
                on_slurm=self.arguments.slurm or any("Slurm" in name for name in runners),
                cleared=clear,
            )
        )


def launch() -> int:
    """Run OpenCompass's command line on sys.argv; 0 if every cell has a result, else 1.

    A `SystemExit` comes from the parser, from the check of the config, and from a summarizer that
    has said which results are missing.
    """
    run = _Run()

    def check_and_launch() -> int:
        _use_gpu_indices()
        given = run.arguments = parse_arguments()
        _take_shard(run)
        forks = run.writes and not (given.debug or given.slurm or given.dlc)
        with imports_shared() if forks else nullcontext():
            return _launch(run)

    return guard(
        check_and_launch,
        log_folder=lambda: run.log_folder,
        show_traceback=lambda: run.is_debugged,
    )


def _take_shard(run: _Run) -> None:
    """Read LLADA_SHARD, tell it to tasks, and make answers alone, which are then scored at once."""
    try:
        shard = shards.read_shard()
        if shard is None:
            return
        shards.refuse_command(shard, run.arguments)
    except ValueError as error:
        raise SystemExit(f"Nothing was run. {error}") from error
    run.arguments.mode = "infer"
    run.held.enter_context(mock.patch.dict(os.environ, {shards.VARIABLE: str(shard)}))


def _launch(run: _Run) -> int:
    """Call OpenCompass's main() with our own functions in the place of some of its."""
    config, read = run.arguments.config, None
    with imports_uncollected():  # a config imports most of OpenCompass
        try:
            read = read_config(config) if config else None
        except ValueError as error:
            raise SystemExit(f"Nothing was run. {error}") from error
        host: Any = importlib.import_module("opencompass.cli.main")
        importlib.import_module("opencompass_llada.registry")
    fork_here()
    from opencompass_llada.runs import cluster

    host.get_logger().addFilter(cluster.is_so)

    fills = {stage: getattr(host, f"fill_{stage}_cfg") for stage in ("infer", "eval")}
    read_dumped = host.Config.fromfile

    def enter_and_read(path: str, **options: Any) -> Any:
        """Lock the run's folder, which main() has just made, before it reads its config there."""
        dumped = run.config = Path(path)
        try:
            run.enter(dumped.parents[1], dumped.name)
        except FolderInUse as error:
            run.cfg = None
            remove(dumped)
            raise SystemExit(f"Nothing was run. {error}") from error
        return read_dumped(path, **options)

    def fill_own(stage: str, cfg: Any, arguments: Any) -> None:
        cluster.fill_stage(stage, fills[stage], cfg, arguments)
        _use_own_stages(cfg, is_part=run.own is not None)

    from opencompass_llada.runs.local_queue import local_session

    own: dict[str, Any] = {
        "PARTITIONERS": SimpleNamespace(build=partial(_build_partitioner, run, host.PARTITIONERS)),
        "get_config_from_arg": partial(_read_checked, run, host.get_config_from_arg, read),
        "parse_args": lambda: run.arguments,
        "fill_infer_cfg": partial(fill_own, "infer"),
        "fill_eval_cfg": partial(fill_own, "eval"),
        "Config": SimpleNamespace(fromfile=enter_and_read),
    }
    if shard := shards.read_shard():
        # It dumps its config by time and process, which pods that start together share.
        number = int(f"{os.getpid()}{shard.index:06d}")
        own["os"] = SimpleNamespace(**{**vars(os), "getpid": lambda: number})
    try:
        with (
            mock.patch.multiple(host, **own),
            run.held,
            whole_files(),
            _unformatted_configs(),
            local_session(),
            sharing_data_sets(),  # with --debug both stages are in this process
        ):
            host.main()
            return _report_missing(run)
    except Exception:
        # In debug mode a task's error comes through; what it left undone is said before it.
        _report_missing(run)
        raise


def _build_partitioner(run: _Run, registry: Any, cfg: Any) -> Callable[[Any], Any]:
    """Build a partitioner as OpenCompass; tasks that score are told to those that answer."""
    from opencompass_llada.runs.local_queue import local_session

    partitioner = registry.build(cfg)

    def partition(whole: Any) -> Any:
        tasks = partitioner(whole)
        stage = "eval" if Path(cfg["out_dir"]).name == "results" else "infer"
        scores = type_name(whole[stage]["runner"]["task"]) == "CellByCellEvalTask"
        if scores and run.arguments.mode == "all":
            with local_session() as session:
                session.score_by(tasks)
        return tasks

    return partition


def _unformatted_configs() -> Any:
    """Write configs without yapf, those of tasks and the kept one: 300 cells took 18 s each.

    mmengine's own lines have a field each, in any case.
    """
    return mock.patch("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, False))


def _read_checked(run: _Run, complete: Callable[[Any], Any], read: Any, arguments: Any) -> Any:
    """Take the config that was read, or that options name, as OpenCompass; refuse what fails."""
    from opencompass_llada.runs import checks, cluster, doctor

    has_file = read is not None  # an empty config is one, too
    again = SimpleNamespace(fromfile=lambda path, **_: read)
    try:
        with mock.patch("opencompass.utils.run.Config", again) if has_file else nullcontext():
            own = partial(complete, arguments)
            cfg = read_config(arguments.config, own) if has_file else own()
        checks.check_form(cfg, arguments.mode)
        if arguments.mode != "viz":
            cluster.check(cfg, arguments)
        if shards.read_shard() is None:
            _check_reuse(cfg, arguments)
        if arguments.mode in ("all", "infer"):
            doctor.check_config(cfg, runs_locally=_runs_locally(cfg, arguments))
        _write_presets_out(cfg)
        cluster.use_own_runner(cfg, arguments)
        run.mark(cfg)
        run.own = _find_own(cfg, arguments)
        _use_own_stages(cfg, is_part=run.own is not None)
        if getattr(arguments, "reuse", None):
            _resume(cfg, arguments, run)
    except ValueError as error:
        raise SystemExit(f"Nothing was run. {error}") from error
    run.cfg = cfg
    return cfg


def _write_presets_out(cfg: Any) -> None:
    """Let the config that is dumped hold what presets stand for, whatever a later version takes."""
    from opencompass_llada.runs.reductions import write_out

    told: set[str] = set()
    for group in (cfg, *(cfg.get("model_dataset_combinations") or ())):
        for model in group.get("models") or ():
            for key, value in write_out(model, told).items():
                if model.get(key) != value:
                    model[key] = value


def _work_dir(cfg: Any, arguments: Any) -> Path:
    """Return the folder that holds the run's own, as OpenCompass will find it."""
    return Path(arguments.work_dir or cfg.get("work_dir") or os.path.join("outputs", "default"))


def _find_own(cfg: Any, arguments: Any) -> OwnPart | None:
    """Return what this process answers of a run; None where it answers all."""
    if shards.read_shard() is None:
        return None
    if not _runs_locally(cfg, arguments):
        name = _runner_name(cfg, "infer")
        raise ValueError(
            f"{shards.VARIABLE}: a shard runs where its process is, and the config's {name} starts "
            f"jobs elsewhere. Leave {shards.VARIABLE} out, or take a LocalRunner"
        )
    from opencompass_llada.runs.partitioner import CostAwarePartitioner

    run_path, pairs = _work_dir(cfg, arguments) / arguments.reuse, list(list_pairs(cfg))
    cut = CostAwarePartitioner(out_dir=str(run_path / "predictions")).cut_for_shards
    return shards.find_own(run_path, pairs, partial(cut, pairs))


def _resume(cfg: Any, arguments: Any, run: _Run) -> None:
    """Find the run that is resumed, and set aside what this config would not make."""
    from opencompass_llada.runs.resuming import ResumedAs, check_resumed, choose_run

    work_dir = _work_dir(cfg, arguments)
    if arguments.reuse == "latest":
        arguments.reuse = choose_run(cfg, work_dir)
        if arguments.reuse is None:
            if arguments.mode in ("eval", "viz"):
                raise ValueError(
                    f"-r: {str(work_dir)!r} holds no run to take up; give the folder of one with -w"
                )
            logger.warning("-r: %s holds no run to take up; a new one is started.", work_dir)
            return
    run.enter(work_dir / arguments.reuse)
    if arguments.dry_run:
        return
    task = ((cfg.get("eval") or {}).get("runner") or {}).get("task") or {}
    how = ResumedAs(
        mode=arguments.mode,
        runs_locally=_runs_locally(cfg, arguments),
        debug=arguments.debug,
        scoring={
            "dump_details": bool(task.get("dump_details") or arguments.dump_eval_details),
            "cal_extract_rate": bool(task.get("cal_extract_rate") or arguments.dump_extract_rate),
        },
        **({} if run.own is None else {"owns": run.own.owns}),
    )
    check_resumed(cfg, work_dir / arguments.reuse, how)


#: What OpenCompass puts into a config by its own, and what keeps apart whose answers are whose.
_OWN_TASKS = {
    ("infer", "OpenICLInferTask"): "ShortNamedInferTask",
    ("eval", "OpenICLEvalTask"): "CellByCellEvalTask",
}
#: OpenCompass's partitioners that cut data sets, and what earlier versions had in their places.
_CUTTING = ("NumWorkerPartitioner", "SizePartitioner")


def _use_own_stages(cfg: Any, *, is_part: bool = False) -> None:
    """Put this package's tasks and partitioner in the place of the stock ones.

    For a part of a run (`shards`) the partitioner of any config is ours.
    """
    for stage, stock in _OWN_TASKS:
        own = cfg.get(stage) or {}
        runner, partitioner = own.get("runner") or {}, own.get("partitioner") or {}
        task = runner.get("task") or {}
        if type_name(task) == stock:
            task["type"] = f"opencompass_llada.runs.tasks.{_OWN_TASKS[stage, stock]}"
            logger.info("%s: %s takes the place of %s.", stage, _OWN_TASKS[stage, stock], stock)
        name = type_name(partitioner)
        is_ours = name in ("CostAwarePartitioner", "PackingPartitioner")
        must_be = is_part and stage == "infer" and own and not is_ours
        if must_be or name.removeprefix("Sample") in _CUTTING:
            workers = partitioner.get("num_worker") or runner.get("max_num_workers") or 1
            kind = "opencompass_llada.runs.partitioner.CostAwarePartitioner"
            own["partitioner"] = {"type": kind, "num_workers": workers}
            logger.info("%s: CostAwarePartitioner, for %d workers, takes the place of %s, whose "
                        "other options have no effect.", stage, workers, name)  # fmt: skip


def _check_reuse(cfg: Mapping[str, Any], arguments: Any) -> None:
    """Refuse to go on with a run that there is not, for which OpenCompass would begin a new one."""
    reuse, work_dir = getattr(arguments, "reuse", "latest"), _work_dir(cfg, arguments)
    if reuse is None and arguments.mode in ("eval", "viz"):
        if not arguments.read_from_station:
            raise ValueError(f"-m {arguments.mode} needs a run with answers: give it by -r TIME")
    elif reuse not in (None, "latest") and not (work_dir / reuse).is_dir():
        guess = nearest(reuse, [path.name for path in work_dir.glob("*") if path.is_dir()])
        hint = f" Did you mean {guess!r}?" if guess else ""
        raise ValueError(
            f"-r {reuse}: {work_dir} holds no run of that name.{hint} Give the name of a run's "
            "folder, or -r alone for the newest."
        )


def _report_missing(run: _Run) -> int:
    """Say which cells have no result; OpenCompass has by now put the run's directory into cfg."""
    arguments = run.arguments
    if run.cfg is None or arguments.dry_run or arguments.dump_only_message_path:
        return 0
    folder = Path(run.cfg["work_dir"])
    record_run(folder, run.config)
    if run.own is not None:
        missing = find_unanswered(folder, run.own)
    else:
        missing = find_missing(run.cfg, folder, _STAGES.get(arguments.mode, ("results",)))
    if not missing:
        return 0
    if run.own is None and (told := shards.describe_unfinished(folder)):
        logger.error("%s", told)
    logger.error("%s", describe_missing(missing))
    return 1


def _runs_locally(cfg: Mapping[str, Any], arguments: Any) -> bool:
    is_local = _runner_name(cfg, "infer").endswith("LocalRunner")
    return is_local and not (arguments.slurm or arguments.dlc)


def _runner_name(cfg: Mapping[str, Any], stage: str) -> str:
    """Return the bare name of a stage's runner, OpenCompass's own where none is given."""
    return type_name((cfg.get(stage) or {}).get("runner") or {}) or "LocalRunner"


def _use_gpu_indices() -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if "GPU-" in visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_devices_as_indices(visible, list_gpus())
        # nvidia-smi counts in this order; CUDA's own default puts the fastest first.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    elif "MIG-" in visible:
        logger.warning(
            "CUDA_VISIBLE_DEVICES names MIG instances, which OpenCompass's local runner cannot "
            "pass on to its tasks; add --debug to run them in this process."
        )


def main() -> int:
    """Check the installed packages' versions, then launch; return the exit status."""

    def check_and_launch() -> int:
        check_environment(read_requirements())
        return launch()

    return guard(check_and_launch, program="opencompass_llada")


if __name__ == "__main__":
    raise SystemExit(main())
