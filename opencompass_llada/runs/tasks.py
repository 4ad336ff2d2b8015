"""Gives OpenCompass's two tasks short names, records of what ran, and faults that stay in a cell.

The stock tasks are named after every model and data set in them, leave no record of device, passes
or seconds, and evaluate nothing after the first data set whose predictions are incomplete. The
runner divides the machine's cores among tasks. Nothing is inferred or scored here.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

from mmengine.config import Config
from mmengine.device import is_npu_available
from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_inferencer.icl_base_inferencer import GenInferencerOutputHandler
from opencompass.registry import TASKS
from opencompass.runners.local import LocalRunner, get_command_template
from opencompass.tasks import openicl_eval, openicl_infer
from opencompass.tasks.openicl_eval import OpenICLEvalTask
from opencompass.tasks.openicl_infer import OpenICLInferTask
from opencompass.utils import build_dataset_from_cfg, build_model_from_cfg

from opencompass_llada.faults import guard
from opencompass_llada.files import temporary_folder
from opencompass_llada.old_names import PACKAGE, dotted_name
from opencompass_llada.processes import wait_for_all
from opencompass_llada.runs import machine, makers, narration
from opencompass_llada.runs.durability import whole_files
from opencompass_llada.runs.exit_status import TASK_NAME
from opencompass_llada.runs.hashes import hash_rows
from opencompass_llada.runs.local_queue import (
    CellName,
    DeviceQueue,
    LocalSession,
    Turn,
    local_session,
)
from opencompass_llada.runs.provenance import (
    TASKS_VARIABLE,
    hash_files,
    record_model,
    recording,
)
from opencompass_llada.runs.recorded_files import (
    SCORING,
    AnswerFile,
    dataset_name,
    find_finished,
    find_gap,
    is_ours,
    model_name,
    read_answers,
    split_shard_name,
    type_name,
)
from opencompass_llada.runs.shared_data_sets import build_shared, sharing_data_sets
from opencompass_llada.runs.task_lifetime import end_with_the_run, is_stopping, mark_job
from opencompass_llada.runs.warm_processes import fork_here, imports_shared
from opencompass_llada.runs.workers import DEVICES_VARIABLE, THREADS_VARIABLE, Job, WorkerDied
from opencompass_llada.shared_weights import (
    let_go_of_large,
    release_device_memory,
    sharing_weights,
)

logger = logging.getLogger(__name__)


class _ShortNamed:
    """Names a task by its models and the number of its cells."""

    name_prefix: str
    model_cfgs: Sequence[Any]
    dataset_cfgs: Sequence[Any]

    @property
    def name(self) -> str:
        """What the console shows, for example ``OpenICLInfer[tiny-llada: 44 data sets]``."""
        parts = [
            f"{model['abbr']}: {len(datasets)} data sets"
            for model, datasets in zip(self.model_cfgs, self.dataset_cfgs, strict=True)
        ]
        return f"{self.name_prefix}[{', '.join(parts)}]"


class ShortNamedInferTask(_ShortNamed, OpenICLInferTask):
    """The stock inference task under a short name; writes provenance/ into the run's folder.

    A data set that cannot be loaded costs its own cells alone; the task fails after the others.
    """

    def get_command(self, cfg_path: str, template: str) -> str:
        """Return the shell command that runs this task in a process of its own."""
        command = super().get_command(cfg_path, mark_job(template, self.name))
        script = f"{inspect.getfile(OpenICLInferTask)} {cfg_path}"
        if script not in command:
            raise RuntimeError(
                f"OpenCompass's task command {command!r} does not hold {script!r} any more, so no "
                "provenance would be recorded; use opencompass>=0.5.4,<0.6."
            )
        return command.replace(script, f"-m {__name__} --infer {cfg_path}")

    scoring: Mapping[CellName, Config] = MappingProxyType({})
    """The tasks that score a cell; those of cells that are to be scored when they are answered."""
    _recorded: Any = None

    def run(self, *arguments: Any, **options: Any) -> None:
        """Make the predictions of all data sets; a `RuntimeError` names those not loaded."""
        self.failed: list[str] = []
        loads = mock.patch.object(openicl_infer, "build_dataset_from_cfg", self._load)
        builds = mock.patch.object(openicl_infer, "build_model_from_cfg", self._build_model)
        with whole_files(), self._reading_together(), _lengths_for_examples_alone(), loads, builds:
            super().run(*arguments, **options)
        if self.failed:
            raise RuntimeError(" ".join(self.failed))

    def _load(self, dataset_cfg: Mapping[str, Any]) -> Any:
        """Build a data set; None where that raises, which is logged and told at the end."""
        try:
            return _build_data_set(dataset_cfg)
        except Exception as error:
            fault = describe_load_fault(dataset_cfg, error)
            logger.error("%s", fault, exc_info=True)
            if fault not in self.failed:  # two models of a task may have it
                self.failed.append(fault)
            return None

    def _build_model(self, model_cfg: Mapping[str, Any]) -> Any:
        """Build a model when the one before has given back its memory."""
        self.model = self._recorded = None
        if not is_ours(model_cfg):  # it loads its weights beside those that are held
            let_go_of_large()
        release_device_memory()
        return build_model_from_cfg(model_cfg)

    def _inference(self) -> None:
        if self.dataset is None:
            return
        self._infer_and_record()
        # OpenCompass leaves the model in the data set's config, and with it its memory.
        self.infer_cfg["inferencer"].pop("model", None)
        self._score_if_complete()

    def _score_if_complete(self) -> None:
        """Score the cell if all its answers are there; what fails is left to the scoring stage."""
        model, dataset = self.model_cfg, split_shard_name(dataset_name(self.dataset_cfg))[0]
        task = self.scoring.get((model_name(model), dataset))
        if task is None:
            return
        files = find_finished(Path(self.work_dir) / "predictions" / model_name(model), dataset)
        if not files or files[0].number is not None or find_gap(files):
            return
        try:
            CellByCellEvalTask(task).run()
        except Exception as error:  # the task's other cells have nothing to do with it
            logger.info("The scoring stage tries again: %s: %s", type(error).__name__, error)

    def _infer_and_record(self) -> None:
        # Other models have no engine. What a task answered before changes no answer of this one.
        if (engine := getattr(self.model, "engine", None)) is not None:
            engine.begin_data_set()
        if os.environ.get("RANK", "0") != "0":  # one record a data set, whatever the ranks
            self._wait_for_all()
            super()._inference()
            return
        folder = Path(self.work_dir)
        if self._recorded is not self.model:
            self._recorded = self.model
            self._files = hash_files(self.model_cfg, fetch=True)
            self._options = makers.read_options(self.model_cfg, fetch=True)
            record = record_model(folder, self.model, self.model_cfg, self._files)
            self._dtype = record["dtype"]
        if not self.dump_only_message_path:
            maker = makers.describe_maker(
                self.model_cfg,
                self.dataset_cfg,
                files=self._files,
                data=makers.describe_data(self.dataset, self.dataset_cfg),
                dtype=self._dtype,
                options=self._options,
            )
            makers.claim(folder, model_name(self.model_cfg), dataset_name(self.dataset_cfg), maker)
        self._wait_for_all()  # none reads answers that are set aside
        with recording(folder, self.model, self.model_cfg, self.dataset_cfg, self.dataset):
            super()._inference()

    def _wait_for_all(self) -> None:
        """Let all processes that split passes go on after the same answers of an earlier run."""
        if is_ours(self.model_cfg):
            wait_for_all()

    def _reading_together(self) -> Any:
        """Let them go on when all have read these answers.

        Where nothing is left to answer, the first one removes them as it ends.
        """
        restore = GenInferencerOutputHandler.restore_from_jsonl

        def restore_all(handler: Any, save_dir: str, filename: str) -> Any:
            found = restore(handler, save_dir, filename)
            self._wait_for_all()
            return found

        return mock.patch.object(GenInferencerOutputHandler, "restore_from_jsonl", restore_all)


def _build_data_set(dataset_cfg: Mapping[str, Any]) -> Any:
    return build_shared(dataset_cfg, build_dataset_from_cfg)


def describe_load_fault(dataset_cfg: Mapping[str, Any], error: Exception) -> str:
    """Write a sentence on a data set that could not be loaded; one on its files where they lack."""
    path = f" (path={dataset_cfg['path']!r})" if dataset_cfg.get("path") else ""
    text = f"{type(error).__name__}: {error}".rstrip(": .")
    fault = f"Data set {dataset_name(dataset_cfg)}{path} could not be loaded: {text}."
    if not isinstance(error, OSError):
        return fault
    return (
        f"{fault} Its files are not on this machine, or could not be downloaded. Set "
        "COMPASS_DATA_CACHE to the folder that has them under data/, or download them where there "
        "is a network; then go on with -r."
    )


def _lengths_for_examples_alone() -> Any:
    """Let `GenInferencer` count a prompt's tokens only where it has examples to leave out.

    It counts all prompts of a model with a max_seq_len, each of which is encoded once more later.
    """
    name = "get_generation_prompt_list_from_retriever_indices"
    make_prompts = getattr(GenInferencer, name)

    def make(self: Any, ice_idx_list: Sequence[Any], *rest: Any, **options: Any) -> Any:
        if not any(ice_idx_list):
            options["max_seq_len"] = None
        return make_prompts(self, ice_idx_list, *rest, **options)

    return mock.patch.object(GenInferencer, name, make)


class CellByCellEvalTask(_ShortNamed, OpenICLEvalTask):
    """Evaluates every data set of a task that can be, then fails if any could not."""

    def get_command(self, cfg_path: str, template: str) -> str:
        """Return the shell command that runs this task in a process of its own."""
        command = f"{sys.executable} -m {__name__} {cfg_path}"
        return mark_job(template, self.name).format(task_cmd=command)

    def run(self) -> None:
        """Evaluate all data sets; a `RuntimeError` at the end names those without a score."""
        self.failed: list[str] = []
        builds = mock.patch.object(openicl_eval, "build_dataset_from_cfg", _build_data_set)
        with whole_files(), builds:
            super().run()
        if self.failed:
            raise RuntimeError(
                f"{len(self.failed)} data sets could not be evaluated: {', '.join(self.failed)}"
            )

    def _score(self) -> None:
        name = f"{self.model_cfg['abbr']} on {self.dataset_cfg['abbr']}"
        try:
            super()._score()
            self._record_scoring()
        except Exception as error:
            logger.error("%s has no score: %s: %s", name, type(error).__name__, error)
            self.failed.append(name)

    def _load_and_preprocess_test_data(self) -> Any:
        test_set = super()._load_and_preprocess_test_data()
        self._samples = test_set
        if "dataset_postprocessor" in self.eval_cfg:  # it may change the references
            self._samples = _build_data_set(self.dataset_cfg).test
        return test_set

    def _load_predictions(self) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """Read the answers of the whole file or of all shards; each must be to its sample."""
        folder = Path(self.work_dir) / "predictions" / model_name(self.model_cfg)
        self._files = find_finished(folder, dataset_name(self.dataset_cfg))
        kind = (self.dataset_cfg.get("infer_cfg") or {}).get("inferencer") or {}
        stored = type_name(kind) in ("GenInferencer", *SCORING)
        column = self.output_column if stored else None
        answers = read_cell_answers(folder, self._files, self._samples, column)
        has_texts = "prediction" in answers[0]
        return answers, [answer.get("prediction") for answer in answers] if has_texts else None

    def _record_scoring(self) -> None:
        maker = makers.describe_scoring(
            self.model_cfg,
            self.dataset_cfg,
            [makers.read_maker(file.path) for file in self._files],
            dump_details=bool(self.dump_details),
            cal_extract_rate=bool(self.cal_extract_rate),
        )
        folder = Path(self.work_dir) / "results" / model_name(self.model_cfg)
        makers.write_maker(folder / f"{dataset_name(self.dataset_cfg)}.json", maker)


def read_cell_answers(
    folder: Path, files: Sequence[AnswerFile], samples: Any, column: str | None
) -> list[dict[str, Any]]:
    """Read a cell's answers in order, each of which must be to the sample it is scored against.

    ``samples`` are those before any postprocessing; ``column`` of them stands in answers as
    ``gold``, if any does. A ValueError says which answers are missing, torn or to other samples.
    """
    if not files:
        raise ValueError(f"no predictions are in {folder}")
    if gap := find_gap(files):
        raise ValueError(f"{gap} in {folder}")
    answers: list[dict[str, Any]] = []
    for file in files:
        content, fault = read_answers(file.path)
        if fault:
            raise ValueError(f"{file.path} {fault}; run inference again")
        own = list(content.values())
        stop = len(answers) + len(own)
        asked = (makers.read_maker(file.path) or {}).get("samples")
        if stop <= len(samples) and asked is not None:
            now = hash_rows(samples[place] for place in range(len(answers), stop))
            if asked != now:
                raise ValueError(
                    f"{file.path} answers other samples (hash {asked}) than the data set holds now "
                    f"({now}); run again with -r, which makes them anew"
                )
        answers += own
    if len(answers) != len(samples) or not answers:
        raise ValueError(
            f"{len(answers)} answers are in {folder} for {len(samples)} samples: a shard of the "
            "predictions is lost or incomplete, or the data set has changed; run again with -r"
        )
    for place, answer in enumerate(answers if column else ()):
        reference = json.loads(json.dumps(samples[place][column], default=str))
        gold = answer.get("gold")
        if gold and json.dumps(gold) != json.dumps(reference):  # a NaN is equal to itself as a text
            raise ValueError(
                f"the answer to sample {place} in {folder} was stored with the reference "
                f"{str(gold)[:80]!r}, and the data set's is {str(reference)[:80]!r}: the answers "
                "are to other samples; run again with -r"
            )
    return answers


class CoreSharingLocalRunner(LocalRunner):
    """The stock local runner with workers that take tasks one after another, and share the cores.

    Every process would otherwise start one thread a core: two tasks on two cores take five times as
    long as with one thread each (measured: 22 cells of tiny-llada, 25 to 41 s against 5 s). Leaves
    OMP_NUM_THREADS alone where it is set. A worker dies with one task at most, which is run once
    more. Tasks on several GPUs or of several processes are commands, as OpenCompass has them, and
    those of other kinds than this package's.
    """

    def launch(self, tasks: Sequence[Any]) -> Any:
        """Run all tasks and wait for them; returns pairs of task name and exit status."""
        if self.debug or is_npu_available():
            alone = mock.patch.dict(os.environ, {TASKS_VARIABLE: "1"})
            with alone, sharing_weights(), sharing_data_sets():
                return super().launch(tasks)
        kind = self.task_cfg["type"]
        built = [TASKS.build({"cfg": task, "type": kind}) for task in tasks]
        left = [task for task in built if not _is_scored(task)]
        side_by_side = max(1, min(self.max_num_workers, len(left)))
        told = {TASKS_VARIABLE: str(side_by_side)}
        if left and THREADS_VARIABLE not in os.environ:  # as the user has set it
            told[THREADS_VARIABLE] = str(max(1, machine.count_cores() // side_by_side))
            logger.info("%s=%s, a share of this machine's cores.", *list(told.items())[-1])
        is_told = left and type_name(self.task_cfg) == "ShortNamedInferTask"
        described = narration.told(Path(tasks[0]["work_dir"])) if is_told else nullcontext()
        forks = imports_shared(may_import_beside=False) if left else nullcontext()
        with mock.patch.dict(os.environ, told), described, forks, local_session() as session:
            fork_here()  # where plain OpenCompass runs; else there is one already
            statuses = self._work_off(left, session, side_by_side)
        done = [(task.name, 0) for task in built if task not in left]
        return done + [(task.name, status) for task, status in zip(left, statuses, strict=True)]

    def _work_off(
        self, tasks: Sequence[Any], session: LocalSession, side_by_side: int
    ) -> list[int]:
        """Run tasks in order, so many side by side; return their statuses."""
        queue = DeviceQueue(tasks, list_devices(), self.max_workers_per_gpu)
        statuses = [1] * len(tasks)

        def take_turns() -> None:
            while (turn := queue.take()) is not None:
                task = tasks[turn.place]
                where = f"GPU {', '.join(map(str, turn.devices))}" if turn.devices else "CPU"
                logger.info("%s begins on %s", task.name, where)
                try:
                    statuses[turn.place] = self._run_task(task, turn, session)
                finally:
                    queue.give_back(turn)

        with ThreadPoolExecutor(side_by_side) as threads:
            for future in [threads.submit(take_turns) for _ in range(side_by_side)]:
                future.result()
        return statuses

    def _launch(self, task: Any, gpu_ids: Sequence[int], index: int) -> tuple[str, int]:
        """Run one task as a command, with its config in the run's folder; return name and status.

        OpenCompass writes it into the current folder, which may be read-only.
        """
        log = Path(task.get_log_path(file_extension="out"))
        log.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(Path(task.cfg["work_dir"]).absolute(), "tasks") as folder:
            config = str(folder / "params.py")
            task.cfg.dump(config)
            command = task.get_command(config, get_command_template(list(gpu_ids)))
            with log.open("w", encoding="utf-8") as file:
                status = subprocess.run(command, shell=True, stdout=file, stderr=file).returncode
        if status:
            logger.error("task %s fail, see\n%s", task.name, log)
        return task.name, status

    def _run_task(self, task: Any, turn: Turn, session: LocalSession) -> int:
        """Run one task and wait for it; return its exit status."""
        if task.num_gpus > 1 or task.num_procs > 1 or type(task) not in OWN_TASKS:
            session.workers.free(turn.devices)
            return int(self._launch(task, turn.devices, turn.place)[1])
        log = Path(task.get_log_path(file_extension="out"))
        log.parent.mkdir(parents=True, exist_ok=True)
        infers = type(task) is ShortNamedInferTask
        job = Job(
            work=work_off,
            arguments=(infers, task.cfg, _find_scoring(task, session) if infers else {}),
            log=str(log),
            # As in OpenCompass's commands: a task sees its GPUs, one on the CPU none.
            environment={**os.environ, DEVICES_VARIABLE: ",".join(map(str, turn.devices))},
            folder=os.getcwd(),
        )
        try:
            try:
                status = session.workers.run(job)
            except WorkerDied as death:
                if is_stopping():
                    return death.status
                logger.warning(
                    "%s: %s. The task is run once more, in a new process.", task.name, death
                )
                status = session.workers.run(replace(job, goes_on=True))
        except WorkerDied as death:
            logger.error("%s: %s again. The task has failed.", task.name, death)
            status = death.status
        if status:
            logger.error("task %s fail, see\n%s", task.name, log)
        return status


OWN_TASKS = (ShortNamedInferTask, CellByCellEvalTask)


def list_devices() -> list[int]:
    """Return the numbers of the GPUs that tasks may use, found as OpenCompass's runner does."""
    if (told := os.environ.get(DEVICES_VARIABLE)) is not None:
        return [int(number) for number in re.findall(r"(?<!-)\d+", told)]
    return list(range(machine.count_gpus()))


def _is_scored(task: Any) -> bool:
    """Say whether inference has scored all that a task would score."""
    return type(task) is CellByCellEvalTask and all(map(os.path.exists, task.get_output_paths()))


def _find_scoring(task: Any, session: LocalSession) -> dict[CellName, Config]:
    """Return how to score those cells of a task that its own process can score right away.

    They are those whose evaluator is this package's: others may take long, or change the process
    that they run in.
    """
    found = {}
    for model, datasets in zip(task.model_cfgs, task.dataset_cfgs, strict=True):
        for dataset in datasets:
            name = model_name(model), split_shard_name(dataset_name(dataset))[0]
            own = session.scoring.get(name)
            evaluator = ((dataset.get("eval_cfg") or {}).get("evaluator") or {}).get("type")
            if own is not None and dotted_name(evaluator).startswith(f"{PACKAGE}."):
                found[name] = own
    return found


def work_off(infers: bool, cfg: Config, scoring: Mapping[CellName, Config]) -> None:
    """Run a task's config to its end; a SystemExit has the task's status."""

    def run() -> None:
        task = ShortNamedInferTask(cfg) if infers else CellByCellEvalTask(cfg)
        if isinstance(task, ShortNamedInferTask):
            task.scoring = scoring
        task.run()

    raise SystemExit(_guard(run))


def _guard(run: Callable[[], None]) -> int:
    # The task's output is its log: the traceback stands there, above the paragraph.
    return guard(run, program=TASK_NAME, show_traceback=True)


def main() -> None:
    """Run the task whose config file is named on the command line."""
    parser = argparse.ArgumentParser(description="Run a task of OpenCompass.")
    parser.add_argument("--infer", action="store_true", help="inference; evaluation by default")
    parser.add_argument("config", help="file of the task's config")
    given = parser.parse_args()

    def run() -> None:
        cfg = Config.fromfile(given.config)
        end_with_the_run(cfg["work_dir"])
        work_off(given.infer, cfg, {})

    raise SystemExit(_guard(run))


if __name__ == "__main__":
    main()
