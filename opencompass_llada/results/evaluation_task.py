"""OpenCompass's evaluation task, with the cells of a task kept apart from each other's faults.

The stock task stops at the first data set whose predictions are missing or incomplete, and leaves
the rest of the task without results. This one goes on, and fails at the end. It scores nothing
itself.
"""

from __future__ import annotations

import argparse
import sys

from mmengine.config import Config
from opencompass.tasks.openicl_eval import OpenICLEvalTask

from opencompass_llada.logs import get_logger

logger = get_logger(__name__)


class CellByCellEvalTask(OpenICLEvalTask):
    """Evaluates every data set of a task that can be, then fails if any could not."""

    def get_command(self, cfg_path: str, template: str) -> str:
        """Return the shell command that runs this task in a process of its own.

        Args:
            cfg_path: File of the task's config.
            template: The runner's command with ``{task_cmd}`` in it.
        """
        command = f"{sys.executable} -m opencompass_llada.results.evaluation_task {cfg_path}"
        return template.format(task_cmd=command)

    def run(self) -> None:
        """Evaluate all data sets.

        Raises:
            RuntimeError: At the end, if any had no score; the log says why for each.
        """
        self.failed: list[str] = []
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
    parser = argparse.ArgumentParser(description="Evaluate the data sets of a task.")
    parser.add_argument("config", help="file of the task's config")
    CellByCellEvalTask(Config.fromfile(parser.parse_args().config)).run()


if __name__ == "__main__":
    main()
