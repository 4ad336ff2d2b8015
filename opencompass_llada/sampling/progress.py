"""Progress of a generation: a protocol that the sampler reports to, and a bar on stderr.

The bar shows sample, block and step, e.g. ``sample 3-4/110 block 2/4 step 7/8``. It is shown if
stderr is a terminal; the environment variable OPENCOMPASS_LLADA_PROGRESS (``on``, ``off`` or
``auto``) overrides that, and an explicit argument overrides both. So a run whose output goes to a
log file, as OpenCompass's task subprocesses do, stays free of control characters.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from tqdm import tqdm

from opencompass_llada.options import unknown_name_message
from opencompass_llada.sampling.schedule import BlockPlan

PROGRESS_VARIABLE = "OPENCOMPASS_LLADA_PROGRESS"
_SETTINGS = {"on": True, "1": True, "off": False, "0": False}


class Progress(Protocol):
    """What the sampler reports to."""

    def start_batch(self, num_samples: int, plan: BlockPlan) -> None:
        """A batch of ``num_samples`` prompts begins."""
        ...

    def finish_step(self, block_index: int, step_index: int) -> None:
        """A denoising step of a block is done; both count from 0."""
        ...

    def finish_batch(self) -> None:
        """The batch is done, or has failed."""
        ...


class NoProgress:
    """Shows nothing."""

    def start_batch(self, num_samples: int, plan: BlockPlan) -> None:
        """Do nothing."""

    def finish_step(self, block_index: int, step_index: int) -> None:
        """Do nothing."""

    def finish_batch(self) -> None:
        """Do nothing."""


class ProgressBar:
    """A bar for each batch that is cleared when the batch is done.

    One object serves a whole run, so that samples are counted through; an outer bar over batches,
    such as OpenCompass's own, stays above it.
    """

    def __init__(self, num_samples: int | None = None, *, delay: float = 0.5) -> None:
        """Make a bar that shows nothing until a batch begins.

        Args:
            num_samples: Samples of the whole run, if known.
            delay: Seconds before a batch's bar appears, so that quick batches do not flicker.
        """
        self._delay = delay
        self._num_samples = num_samples
        self._num_finished = 0
        self._batch_size = 0
        self._plan: BlockPlan | None = None
        self._bar: tqdm[Any] | None = None

    def start_batch(self, num_samples: int, plan: BlockPlan) -> None:
        """Open the bar of a batch; see :class:`Progress`."""
        self._batch_size = num_samples
        self._plan = plan
        self._bar = tqdm(
            total=plan.num_steps,
            desc=self._describe(0, 0),
            unit="step",
            leave=False,
            delay=self._delay,
        )

    def finish_step(self, block_index: int, step_index: int) -> None:
        """Move the bar to a step; a block that ended early is skipped over."""
        if self._bar is None or self._plan is None:
            return
        done = block_index * self._plan.steps_per_block + step_index + 1
        self._bar.set_description_str(self._describe(block_index, step_index + 1), refresh=False)
        self._bar.update(done - self._bar.n)

    def finish_batch(self) -> None:
        """Clear the bar and count the batch's samples."""
        self._num_finished += self._batch_size
        self._batch_size = 0
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _describe(self, block_index: int, num_steps_done: int) -> str:
        assert self._plan is not None
        first, last = self._num_finished + 1, self._num_finished + self._batch_size
        samples = f"{first}-{last}" if last > first else f"{first}"
        total = f"/{self._num_samples}" if self._num_samples is not None else ""
        return (
            f"sample {samples}{total} block {block_index + 1}/{self._plan.num_blocks} "
            f"step {num_steps_done}/{self._plan.steps_per_block}"
        )


def make_progress(num_samples: int | None = None, *, enabled: bool | None = None) -> Progress:
    """Make the bar if it should be shown, else something that shows nothing.

    Args:
        num_samples: Samples of the whole run, if known.
        enabled: True or False decides; None asks the environment, then whether stderr is a
            terminal.

    Returns:
        The progress to give to ``sample``.

    Raises:
        ValueError: If the environment variable holds neither on, off nor auto.
    """
    if enabled is None:
        enabled = progress_wanted(os.environ, stderr_is_terminal=sys.stderr.isatty())
    return ProgressBar(num_samples) if enabled else NoProgress()


def progress_wanted(environment: Mapping[str, str], *, stderr_is_terminal: bool) -> bool:
    """Decide whether the bar is shown, from the environment and the terminal.

    Args:
        environment: Environment variables.
        stderr_is_terminal: Whether stderr is one.

    Returns:
        True if the bar is shown.

    Raises:
        ValueError: If the variable holds neither on, off nor auto (nor 1, 0 or nothing).
    """
    setting = environment.get(PROGRESS_VARIABLE, "auto").strip().lower() or "auto"
    if setting == "auto":
        return stderr_is_terminal
    if setting not in _SETTINGS:
        names = [*_SETTINGS, "auto"]
        raise ValueError(unknown_name_message(f"value of {PROGRESS_VARIABLE}", setting, names))
    return _SETTINGS[setting]
