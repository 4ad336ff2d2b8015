"""What a run says while it goes: log lines, metrics.jsonl, TensorBoard, a progress bar.

Only the main rank's object does anything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from opencompass_llada.finetune.surroundings import missing_package
from opencompass_llada.logs import get_logger

logger = get_logger(__name__)


class RunLog:
    """The logs of one run, in ``output_dir/logs``."""

    def __init__(
        self, folder: Path, num_steps: int, *, tensorboard: bool, is_main: bool, first_step: int
    ) -> None:
        """Open the logs.

        Args:
            folder: Created if need be.
            num_steps: Of the whole run.
            tensorboard: Write TensorBoard's format, too.
            is_main: Whether to do anything.
            first_step: Steps already done; later lines of an interrupted run are dropped.

        Raises:
            ImportError: If TensorBoard is asked for and not installed.
        """
        self._is_main, self._bar, self._writer = is_main, None, None
        if not is_main:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "metrics.jsonl"
        self._drop_later(first_step)
        if tensorboard:
            self._writer = _open_tensorboard(folder)
        if sys.stderr.isatty():
            self._bar = tqdm(total=num_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def _drop_later(self, first_step: int) -> None:
        if self._file.is_file():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= first_step]
            self._file.write_text("".join(kept), encoding="utf-8")

    def step(self) -> None:
        """Move the progress bar."""
        if self._bar is not None:
            self._bar.update()

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row of figures.

        Args:
            row: ``step`` and figures by name; None for what is not known.
        """
        if not self._is_main:
            return
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._writer is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, row["step"])
        shown = {name: _shorten(value) for name, value in row.items() if value is not None}
        if self._bar is not None:
            self._bar.set_postfix(
                {n: shown[n] for n in ("loss", "tokens_per_second", "mfu") if n in shown}
            )
        logger.info("%s", ", ".join(f"{name} {value}" for name, value in shown.items()))

    def close(self) -> None:
        """Close the bar and TensorBoard's file."""
        for thing in (self._bar, self._writer):
            if thing is not None:
                thing.close()


def _shorten(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing_package("tensorboard=true", "tensorboard") from error
    return SummaryWriter(str(folder))
