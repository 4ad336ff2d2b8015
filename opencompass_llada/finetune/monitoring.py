"""Logs what a run does: speed, log lines, metrics.jsonl, TensorBoard, a progress bar.

Only the main rank's object does anything.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from tqdm import tqdm

from opencompass_llada.files import append_line, remove_left_overs, write_text
from opencompass_llada.finetune.checkpoints import saving
from opencompass_llada.finetune.recipe import Phase
from opencompass_llada.finetune.resources import import_for, peak_flops, step_flops
from opencompass_llada.finetune.rows import Batch
from opencompass_llada.finetune.saving import RunState

logger = logging.getLogger(__name__)


class Throughput:
    """Tokens a second and MFU since it was made."""

    def __init__(self) -> None:
        """Begin."""
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
                batch.get("block_length"),
            )

    def figures(self, run: RunState) -> dict[str, Any]:
        """Return figures for the log, over all devices but MFU and memory, which are of one."""
        seconds = time.perf_counter() - self._begun
        device = run.ranks.device
        on_cuda = device.type == "cuda"
        peak = peak_flops(torch.cuda.get_device_name(device)) if on_cuda else None
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
            "peak_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9 if on_cuda else None,
        }


class RunLog:
    """The logs of one run, in ``output_dir/logs``."""

    def __init__(self, run: RunState) -> None:
        """Open the logs; metrics.jsonl begins with the run's history and nothing else."""
        self._is_main, self._bar, self._writer = run.ranks.is_main, None, None
        if not self._is_main:
            return
        folder = run.index.folder / "logs"
        self._file = folder / "metrics.jsonl"
        with saving(self._file):
            remove_left_overs(folder, recursive=False)
            write_text(self._file, "".join(json.dumps(row) + "\n" for row in run.history))
        if run.recipe.tensorboard:
            module = import_for("tensorboard=true", "tensorboard", "torch.utils.tensorboard")
            self._writer = module.SummaryWriter(str(folder))
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
        shown = {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in row.items()
            if value is not None
        }
        if self._bar is not None:
            figures = ("loss", "tokens_per_second", "mfu")
            self._bar.set_postfix({name: shown[name] for name in figures if name in shown})
        logger.info("%s", ", ".join(f"{name} {value}" for name, value in shown.items()))

    def close(self) -> None:
        """Close the bar and TensorBoard's file."""
        for log in filter(None, (self._bar, self._writer)):
            log.close()
