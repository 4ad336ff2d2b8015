"""How fast a run goes: tokens a second, MFU, time left, peak memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from opencompass_llada.finetune.arithmetic import peak_flops, step_flops
from opencompass_llada.finetune.recipe_parts import Phase
from opencompass_llada.finetune.rows import Batch

if TYPE_CHECKING:
    from opencompass_llada.finetune.loop import Trainer


class Throughput:
    """Tokens a second and MFU since it was last started."""

    def __init__(self) -> None:
        """Start."""
        self.restart()

    def restart(self) -> None:
        """Forget what was done."""
        self._begun, self._tokens, self._flops, self._steps = time.perf_counter(), 0, 0.0, 0

    def add(self, trainer: Trainer, phase: Phase, batches: list[Batch]) -> None:
        """Take note of a step."""
        tokens = phase.rows_per_step * phase.sequence_length
        trainer.tokens_seen += tokens
        self._tokens += tokens
        self._steps += 1
        for batch in batches:
            rows, length = batch["input_ids"].shape
            self._flops += step_flops(
                trainer.shape,
                batch["spans"] or (length,) * rows,
                int(batch["targets"].sum()),
                frozen=trainer.recipe.lora is not None,
            )

    def figures(self, trainer: Trainer) -> dict[str, Any]:
        """Return figures for the log, over all devices but MFU and memory, which are of one."""
        seconds = time.perf_counter() - self._begun
        device = trainer.ranks.device
        peak, memory = None, None
        if device.type == "cuda":
            peak = peak_flops(torch.cuda.get_device_name(device))
            memory = torch.cuda.max_memory_allocated(device) / 1e9
        flops = self._flops / trainer.ranks.sequence_parallel
        left = (trainer.recipe.num_steps - trainer.step) * seconds / max(1, self._steps)
        if trainer.recipe.time_limit is not None:
            left = min(left, max(0.0, trainer.recipe.time_limit - trainer.seconds))
        return {
            "learning_rate": trainer.optimizer.param_groups[0]["lr"],
            "tokens": trainer.tokens_seen,
            "seconds": round(trainer.seconds, 1),
            "tokens_per_second": self._tokens / seconds,
            "mfu": None if peak is None else flops / seconds / peak,
            "seconds_left": round(left),
            "peak_memory_gb": memory,
        }
