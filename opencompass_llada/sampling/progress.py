"""Shows a generation's progress on stderr, e.g. ``sample 3-4 block 2/4 step 7/8``.

The bar is shown if stderr is a terminal; the environment variable OPENCOMPASS_LLADA_PROGRESS
(``on``, ``off`` or ``auto``) overrides that.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm

from opencompass_llada.options import reject_unknown
from opencompass_llada.sampling.schedule import BlockPlan

PROGRESS_VARIABLE = "OPENCOMPASS_LLADA_PROGRESS"
_SETTINGS = {"on": True, "1": True, "off": False, "0": False}


class StepListener:
    """Is told of every step of a generation; this one shows nothing."""

    def start_batch(self, num_samples: int, plan: BlockPlan) -> None:
        """A batch of ``num_samples`` prompts begins."""

    def finish_step(self, block_index: int, step_index: int) -> None:
        """A denoising step of a block is done; both count from 0."""

    def finish_batch(self) -> None:
        """The batch is done, or has failed."""


class ProgressBar(StepListener):
    """A bar for each batch that is cleared when the batch is done.

    One object serves a whole run, so that samples are counted through; an outer bar over batches,
    such as OpenCompass's own, stays above it.
    """

    def __init__(self, delay: float = 0.5) -> None:
        """Let a batch's bar appear after ``delay`` seconds, so that quick ones do not flicker."""
        self._delay = delay
        self._num_finished = self._batch_size = 0
        self._plan: BlockPlan | None = None
        self._bar: tqdm[Any] | None = None

    def start_batch(self, num_samples: int, plan: BlockPlan) -> None:
        """Open the bar of a batch."""
        self._batch_size, self._plan = num_samples, plan
        options = {"unit": "step", "leave": False, "delay": self._delay}
        self._bar = tqdm(total=plan.num_steps, desc=self._describe(plan, 0, 0), **options)

    def finish_step(self, block_index: int, step_index: int) -> None:
        """Move the bar to a step; a block that ended early is skipped over."""
        if self._bar is None or self._plan is None:
            return
        text = self._describe(self._plan, block_index, step_index + 1)
        self._bar.set_description_str(text, refresh=False)
        done = block_index * self._plan.steps_per_block + step_index + 1
        self._bar.update(done - self._bar.n)

    def finish_batch(self) -> None:
        """Clear the bar and count the batch's samples."""
        self._num_finished += self._batch_size
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _describe(self, plan: BlockPlan, block_index: int, num_steps_done: int) -> str:
        first, last = self._num_finished + 1, self._num_finished + self._batch_size
        samples = f"{first}-{last}" if last > first else f"{first}"
        return (
            f"sample {samples} block {block_index + 1}/{plan.num_blocks} "
            f"step {num_steps_done}/{plan.steps_per_block}"
        )


def make_progress() -> StepListener:
    """Make the bar if PROGRESS_VARIABLE, or else a terminal at stderr, asks for it."""
    setting = os.environ.get(PROGRESS_VARIABLE, "auto").strip().lower() or "auto"
    reject_unknown(f"value of {PROGRESS_VARIABLE}", [setting], [*_SETTINGS, "auto"])
    shown = _SETTINGS[setting] if setting != "auto" else sys.stderr.isatty()
    return ProgressBar() if shown else StepListener()
