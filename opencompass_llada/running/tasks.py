"""OpenCompass's two tasks: short names, records of what ran, faults that stay in their own cell.

The stock tasks are named after every model and data set in them, the stock inference leaves no
record of device, passes or seconds, and the stock evaluation stops at the first data set whose
predictions are missing or incomplete. Nothing is inferred or scored here.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from opencompass.tasks.openicl_eval import OpenICLEvalTask
from opencompass.tasks.openicl_infer import OpenICLInferTask

from opencompass_llada.faults import guard
from opencompass_llada.logs import get_logger
from opencompass_llada.results.completeness import TASK_NAME
from opencompass_llada.running.durability import whole_files
from opencompass_llada.running.ending import end_with_the_run, mark_job
from opencompass_llada.running.recording import record_model, recording

logger = get_logger(__name__)


def short_name(prefix: str, model_cfgs: Sequence[Any], dataset_cfgs: Sequence[Any]) -> str:
    """Name a task by its models and the number of its cells.

    Args:
        prefix: What kind of task it is.
        model_cfgs: The task's models.
        dataset_cfgs: One list of data sets a model.

    Returns:
        For example ``OpenICLInfer[tiny-llada: 44 data sets]``.
    """
    parts = [
        f"{model['abbr']}: {len(datasets)} data sets"
        for model, datasets in zip(model_cfgs, dataset_cfgs, strict=True)
    ]
    return f"{prefix}[{', '.join(parts)}]"


class ShortNamedInferTask(OpenICLInferTask):
    """The stock inference task under a short name; writes provenance/ into the run's folder."""

    @property
    def name(self) -> str:
        """What the console shows of the task."""
        return short_name(self.name_prefix, self.model_cfgs, self.dataset_cfgs)

    def get_command(self, cfg_path: str, template: str) -> str:
        """Return the shell command that runs this task in a process of its own.

        Args:
            cfg_path: File of the task's config.
            template: The runner's command with ``{task_cmd}`` in it.

        Raises:
            RuntimeError: If OpenCompass's own command has changed its form.
        """
        command = super().get_command(cfg_path, mark_job(template))
        script = f"{inspect.getfile(OpenICLInferTask)} {cfg_path}"
        if script not in command:
            raise RuntimeError(
                f"OpenCompass's task command {command!r} does not hold {script!r} any more, so no "
                "provenance would be recorded; use opencompass>=0.5.4,<0.6."
            )
        return command.replace(script, f"-m {__name__} --infer {cfg_path}")

    def run(self, *arguments: Any, **options: Any) -> None:
        """Make the predictions of all data sets.

        Args:
            arguments: The stock task's.
            options: The stock task's.
        """
        with whole_files():
            super().run(*arguments, **options)

    def _inference(self) -> None:
        if os.environ.get("RANK", "0") != "0":  # one record a data set, whatever the ranks
            super()._inference()
            return
        folder = Path(self.work_dir)
        if getattr(self, "_recorded", None) is not self.model:
            self._recorded = self.model
            record_model(folder, self.model, self.model_cfg)
        with recording(folder, self.model, self.model_cfg, self.dataset_cfg, self.dataset):
            super()._inference()


class CellByCellEvalTask(OpenICLEvalTask):
    """Evaluates every data set of a task that can be, then fails if any could not."""

    @property
    def name(self) -> str:
        """What the console shows of the task."""
        return short_name(self.name_prefix, self.model_cfgs, self.dataset_cfgs)

    def get_command(self, cfg_path: str, template: str) -> str:
        """Return the shell command that runs this task in a process of its own.

        Args:
            cfg_path: File of the task's config.
            template: The runner's command with ``{task_cmd}`` in it.
        """
        command = f"{sys.executable} -m opencompass_llada.running.tasks {cfg_path}"
        return mark_job(template).format(task_cmd=command)

    def run(self) -> None:
        """Evaluate all data sets.

        Raises:
            RuntimeError: At the end, if any had no score; the log says why for each.
        """
        self.failed: list[str] = []
        with whole_files():
            super().run()
        if self.failed:
            raise RuntimeError(
                f"{len(self.failed)} data sets could not be evaluated: {', '.join(self.failed)}"
            )

    def _score(self) -> None:
        name = f"{self.model_cfg['abbr']} on {self.dataset_cfg['abbr']}"
        try:
            super()._score()
        except Exception as error:
            logger.error("%s has no score: %s: %s", name, type(error).__name__, error)
            self.failed.append(name)


def main() -> None:
    """Run the task whose config file is named on the command line."""
    parser = argparse.ArgumentParser(description="Run a task of OpenCompass.")
    parser.add_argument("--infer", action="store_true", help="inference; evaluation by default")
    parser.add_argument("config", help="file of the task's config")
    given = parser.parse_args()
    task = ShortNamedInferTask if given.infer else CellByCellEvalTask
    cfg = Config.fromfile(given.config)
    end_with_the_run(cfg["work_dir"])
    task(cfg).run()


if __name__ == "__main__":
    # The task's output is its log: the traceback stands there, above the paragraph.
    raise SystemExit(guard(main, program=TASK_NAME, show_traceback=True))
