"""The stream of training rows: row number in, row out, whatever process makes it.

Row i of a length depends on the recipe's seed, the length and i alone, so workers, restarts and
batch sizes do not change what is trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from opencompass_llada.finetune.pieces import Row
from opencompass_llada.finetune.recipe import Phase, Recipe
from opencompass_llada.finetune.retrieval import RetrievalRows
from opencompass_llada.finetune.text import TokenWindows


class TrainingRows(Dataset):
    """Plain text and retrieval rows of one phase."""

    def __init__(
        self,
        recipe: Recipe,
        phase: Phase,
        windows: TokenWindows,
        retrieval: RetrievalRows,
        first_row: int = 0,
    ) -> None:
        """Keep the sources.

        Args:
            recipe: Shares of row kinds, and the seed.
            phase: Row length and number of rows.
            windows: Plain text.
            retrieval: Maker of retrieval rows.
            first_row: Rows of the same length in earlier phases, which are not made again.
        """
        self._first_row = first_row
        self._recipe, self._phase = recipe, phase
        self._windows, self._retrieval = windows, retrieval

    def __len__(self) -> int:
        """Rows of the phase."""
        return self._phase.num_steps * self._phase.rows_per_step

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | bool]:
        """Make row ``index``: input_ids, weights, and whether all its answers are masked."""
        length = self._phase.sequence_length
        rng = random.Random(f"{self._recipe.seed}-{length}-{self._first_row + index}")
        everywhere = True
        if rng.random() < self._recipe.retrieval_share:
            row = self._retrieval.make(length, rng)
            everywhere = rng.random() < self._recipe.retrieval_masked_everywhere
        else:
            row = Row(self._windows.draw(length, rng).astype(np.int64), np.ones(length))
        weights = np.ones(length) if everywhere else row.weights
        return {
            "input_ids": torch.from_numpy(row.input_ids),
            "weights": torch.from_numpy(weights.astype(np.float32)),
            # Half of the answers start as sampling starts: nothing revealed yet.
            "mask_all": not everywhere and rng.random() < 0.5,
        }


class _From(Sampler[int]):
    """Row numbers in order, from a first one on."""

    def __init__(self, first: int, end: int) -> None:
        self._rows = range(first, end)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def row_loader(
    rows: TrainingRows, phase: Phase, *, num_workers: int, first_step: int = 0
) -> DataLoader:
    """Return a loader of the phase's batches.

    Args:
        rows: The rows.
        phase: Rows per step.
        num_workers: Processes; 0 for none.
        first_step: Step of the phase to start at.

    Returns:
        An iterable of dicts of stacked tensors [rows_per_step, ...].
    """
    return DataLoader(
        rows,
        batch_size=phase.rows_per_step,
        sampler=_From(first_step * phase.rows_per_step, len(rows)),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=8 if num_workers else None,
    )
