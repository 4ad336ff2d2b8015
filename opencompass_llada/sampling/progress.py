"""Shows a generation's progress on stderr, e.g. ``sample 3-4/110 block 2/4 step 7/8``.

The bar is shown if stderr is a terminal; the environment variable OPENCOMPASS_LLADA_PROGRESS
(``on``, ``off`` or ``auto``) overrides that, and an explicit argument overrides both. So the log
files of OpenCompass's task subprocesses stay free of control characters.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
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

    def __init__(self, num_samples: int | None = None, *, delay: float = 0.5) -> None:
        """Count up to the samples of the whole run, if known.

        A batch's bar appears after ``delay`` seconds, so that quick batches do not flicker.
        """
        self._delay = delay
        self._total = "" if num_samples is None else f"/{num_samples}"
        self._num_finished = 0
        self._batch_size = 0
        self._plan: BlockPlan | None = None
        self._bar: tqdm[Any] | None = None

    def start_batch(self, num_samples: int, plan: BlockPlan) -> None:
        """Open the bar of a batch."""
        self._batch_size, self._plan = num_samples, plan
        text = self._describe(plan, 0, 0)
        self._bar = tqdm(
            total=plan.num_steps, desc=text, unit="step", leave=False, delay=self._delay
        )

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
        self._batch_size = 0
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _describe(self, plan: BlockPlan, block_index: int, num_steps_done: int) -> str:
        first, last = self._num_finished + 1, self._num_finished + self._batch_size
        samples = f"{first}-{last}" if last > first else f"{first}"
        return (
            f"sample {samples}{self._total} block {block_index + 1}/{plan.num_blocks} "
            f"step {num_steps_done}/{plan.steps_per_block}"
        )


def make_progress(num_samples: int | None = None, *, enabled: bool | None = None) -> StepListener:
    """Make the bar for ``sample`` if it should be shown, else a listener that shows nothing.

    Counts the samples of the whole run if their number is given. With ``enabled`` None it asks
    the environment, then whether stderr is a terminal.

    Raises:
        ValueError: If the environment variable holds neither on, off nor auto.
    """
    if enabled is None:
        enabled = progress_wanted(os.environ, stderr_is_terminal=sys.stderr.isatty())
    return ProgressBar(num_samples) if enabled else StepListener()


def progress_wanted(environment: Mapping[str, str], *, stderr_is_terminal: bool) -> bool:
    """Decide whether the bar is shown: by PROGRESS_VARIABLE, else by what stderr is."""
    setting = environment.get(PROGRESS_VARIABLE, "auto").strip().lower() or "auto"
    if setting == "auto":
        return stderr_is_terminal
    reject_unknown(f"value of {PROGRESS_VARIABLE}", [setting], [*_SETTINGS, "auto"])
    return _SETTINGS[setting]
