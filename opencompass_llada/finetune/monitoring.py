"""Logs what a run does: speed, log lines, metrics.jsonl, TensorBoard, a progress bar.

Only the main rank's object does anything.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from opencompass_llada.files import append_line, remove_left_overs, write_text
from opencompass_llada.finetune.arithmetic import peak_flops, step_flops
from opencompass_llada.finetune.checkpoints import saving
from opencompass_llada.finetune.checks import missing_package
from opencompass_llada.finetune.recipe import Phase
from opencompass_llada.finetune.rows import Batch
from opencompass_llada.finetune.run_state import RunState

logger = logging.getLogger(__name__)


class Throughput:
    """Tokens a second and MFU since it was last started."""

    def __init__(self) -> None:
        """Start."""
        self.restart()

    def restart(self) -> None:
        """Forget what was done."""
        self._begun, self._tokens, self._flops, self._steps = time.perf_counter(), 0, 0.0, 0

    def add(self, run: RunState, phase: Phase, batches: list[Batch]) -> None:
        """Take note of a step."""
        tokens = phase.rows_per_step * phase.sequence_length
        run.tokens_seen += tokens
        self._tokens += tokens
        self._steps += 1
        for batch in batches:
            rows, length = batch["input_ids"].shape
            self._flops += step_flops(
                run.shape,
                batch["spans"] or (length,) * rows,
                int(batch["targets"].sum()),
                frozen=run.recipe.lora is not None,
            )

    def figures(self, run: RunState) -> dict[str, Any]:
        """Return figures for the log, over all devices but MFU and memory, which are of one."""
        seconds = time.perf_counter() - self._begun
        device = run.ranks.device
        peak, memory = None, None
        if device.type == "cuda":
            peak = peak_flops(torch.cuda.get_device_name(device))
            memory = torch.cuda.max_memory_allocated(device) / 1e9
        flops = self._flops / run.ranks.sequence_parallel
        left = (run.recipe.num_steps - run.step) * seconds / max(1, self._steps)
        if run.recipe.time_limit is not None:
            left = min(left, max(0.0, run.recipe.time_limit - run.seconds))
        return {
            "learning_rate": run.optimizer.param_groups[0]["lr"],
            "tokens": run.tokens_seen,
            "seconds": round(run.seconds, 1),
            "tokens_per_second": self._tokens / seconds,
            "mfu": None if peak is None else flops / seconds / peak,
            "seconds_left": round(left),
            "peak_memory_gb": memory,
        }


class RunLog:
    """The logs of one run, in ``output_dir/logs``."""

    def __init__(self, run: RunState) -> None:
        """Open the logs; what metrics.jsonl holds is the run's history from here on.

        Later rows of an interrupted run, and a line that it left torn, are dropped.

        Raises:
            ImportError: If TensorBoard is asked for and not installed.
            SaveError: If the logs cannot be written.
        """
        self._is_main, self._bar, self._writer = run.ranks.is_main, None, None
        if not self._is_main:
            return
        folder = run.index.folder / "logs"
        self._file = folder / "metrics.jsonl"
        with saving(self._file):
            remove_left_overs(folder, recursive=False)
            write_text(self._file, "".join(json.dumps(row) + "\n" for row in run.history))
        if run.recipe.tensorboard:
            self._writer = _open_tensorboard(folder)
        if sys.stderr.isatty():
            total = run.recipe.num_steps
            self._bar = tqdm(total=total, initial=run.step, unit="step", dynamic_ncols=True)

    def step(self) -> None:
        """Move the progress bar."""
        if self._bar is not None:
            self._bar.update()

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row: ``step`` and figures by name, None for what is not known."""
        if not self._is_main:
            return
        with saving(self._file):
            append_line(self._file, json.dumps(row))
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
