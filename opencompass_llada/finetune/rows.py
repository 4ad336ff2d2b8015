"""The stream of training rows: row number in, row out, whatever process makes it.

Row i of a length depends on the recipe's seed, the length and i alone, so workers, restarts,
devices and accumulation do not change what is trained on, masks included.
"""

from __future__ import annotations

import atexit
import dataclasses
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from opencompass_llada.finetune.objective import (
    draw_end,
    draw_mask_ratio,
    draw_masked,
    keep_end,
    scale_losses,
)
from opencompass_llada.finetune.packing import PackedRow, PackedText
from opencompass_llada.finetune.recipe import Phase, Recipe
from opencompass_llada.finetune.retrieval import RetrievalRows
from opencompass_llada.finetune.stopping import end_workers, outlive_signals
from opencompass_llada.finetune.windows import TokenWindows

Batch = dict[str, Any]


class TrainingRows(Dataset):
    """Text and retrieval rows of one phase, masked."""

    def __init__(
        self,
        recipe: Recipe,
        phase: Phase,
        windows: TokenWindows,
        retrieval: RetrievalRows,
        *,
        packed: PackedText | None = None,
        first_row: int = 0,
        first_step: int = 0,
    ) -> None:
        """Keep the sources.

        Args:
            recipe: Shares of row kinds, the objective and the seed.
            phase: Row length and number of rows.
            windows: Text by the window.
            retrieval: Maker of retrieval rows.
            packed: Text by packed documents; None for windows.
            first_row: Rows of the same length in earlier phases, which are not made again.
            first_step: Steps of all earlier phases.
        """
        self._recipe, self._phase = recipe, phase
        self._windows, self._retrieval, self._packed = windows, retrieval, packed
        self._first_row, self._first_step = first_row, first_step

    def __len__(self) -> int:
        """Rows of the phase."""
        return self._phase.num_steps * self._phase.rows_per_step

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make row ``index``.

        Returns:
            input_ids int64 [L]; targets bool [L], the positions whose token is predicted; scale
            float32 [L], weight of each one's cross entropy; positions int64 [L]; spans, tokens
            that attend to each other.
        """
        recipe, length = self._recipe, self._phase.sequence_length
        number = self._first_row + index
        rng = random.Random(f"{recipe.seed}-{length}-{number}")
        before = int(number * recipe.retrieval_share)
        mask_all = False
        if int((number + 1) * recipe.retrieval_share) > before:
            made = self._retrieval.make(length, rng)
            everywhere = rng.random() < recipe.retrieval_masked_everywhere
            # Half of the answers start as sampling starts: nothing revealed yet.
            mask_all = not everywhere and rng.random() < 0.5
            weights = np.ones(length, np.float32) if everywhere else made.weights
            row = _whole(made.input_ids, weights)
        else:
            row = self._text(number - before, rng)
        targets, scale = self._choose_targets(index, row.weights, mask_all, rng)
        return {
            "input_ids": torch.from_numpy(row.input_ids),
            "targets": torch.from_numpy(targets),
            "scale": torch.from_numpy(scale),
            "positions": torch.from_numpy(row.positions),
            "spans": row.spans,
        }

    def _text(self, number: int, rng: random.Random) -> PackedRow:
        """Return text row ``number`` of this length."""
        length, share = self._phase.sequence_length, self._phase.continuation_share
        share = self._recipe.continuation_share if share is None else share
        if self._packed is not None:
            row = self._packed.row(number)
        else:
            window = self._windows.draw(length, rng).astype(np.int64)
            row = _whole(window, np.ones(length, np.float32))
        if share and rng.random() < share:
            weights = keep_end(row.weights, draw_end(length, rng))
            row = dataclasses.replace(row, weights=weights)
        return row

    def _choose_targets(
        self, index: int, weights: np.ndarray, mask_all: bool, rng: random.Random
    ) -> tuple[np.ndarray, np.ndarray]:
        recipe = self._recipe
        if recipe.objective == "autoregressive":
            weights = weights.copy()
            weights[0] = 0.0  # nothing stands before it
            return weights > 0, scale_losses(weights, 1.0, "none")
        step, place = divmod(index, self._phase.rows_per_step)
        ratio = 1.0
        if not mask_all:
            ratio = draw_mask_ratio(
                recipe.seed,
                self._first_step + step,
                place,
                self._phase.rows_per_step,
                recipe.min_mask_ratio,
                spread=recipe.mask_ratios == "low_discrepancy",
            )
        masked = draw_masked(weights, ratio, np.random.default_rng(rng.getrandbits(64)))
        return masked, scale_losses(weights, ratio, recipe.loss_weight)


def _whole(input_ids: np.ndarray, weights: np.ndarray) -> PackedRow:
    """Return a row whose tokens all attend to each other."""
    length = len(input_ids)
    return PackedRow(
        input_ids=input_ids, weights=weights, positions=np.arange(length), spans=(length,)
    )


def collate(rows: list[dict[str, Any]]) -> Batch:
    """Stack rows.

    Args:
        rows: From `TrainingRows`.

    Returns:
        Tensors [B, L]; ``positions`` is None where all rows count from 0 to the end, and ``spans``
        (a tuple over all rows) is None where all rows attend to the whole of themselves.
    """
    batch: Batch = {
        name: torch.stack([row[name] for row in rows])
        for name in ("input_ids", "targets", "scale", "positions")
    }
    length = batch["input_ids"].shape[1]
    if bool((batch["positions"] == torch.arange(length)).all()):
        batch["positions"] = None
    spans = tuple(span for row in rows for span in row["spans"])
    batch["spans"] = None if len(spans) == len(rows) else spans
    return batch


class _Places(Sampler[int]):
    """The row numbers of one data-parallel rank, step by step."""

    def __init__(self, phase: Phase, first_step: int, rank: int, num_ranks: int) -> None:
        share = phase.rows_per_step // num_ranks
        self._steps, self._share = range(first_step, phase.num_steps), share
        self._rows, self._first = phase.rows_per_step, rank * share

    def __iter__(self) -> Iterator[int]:
        for step in self._steps:
            first = step * self._rows + self._first
            yield from range(first, first + self._share)

    def __len__(self) -> int:
        return len(self._steps) * self._share


def row_loader(
    rows: TrainingRows,
    phase: Phase,
    *,
    num_workers: int,
    micro_rows: int | None = None,
    first_step: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
) -> DataLoader:
    """Return a loader of the phase's batches for one data-parallel rank.

    Args:
        rows: The rows.
        phase: Rows per step.
        num_workers: Processes; 0 for none.
        micro_rows: Rows a batch; None for the rank's share of a step.
        first_step: Step of the phase to start at.
        rank: This rank among those that data are split over.
        num_ranks: Their number, which divides the rows of a step.

    Returns:
        An iterable of batches; a step's are ``rows_per_step / num_ranks / micro_rows`` of them.
    """
    if num_workers:
        atexit.unregister(end_workers)  # once, and before multiprocessing's own, which waits
        atexit.register(end_workers)
    return DataLoader(
        rows,
        batch_size=micro_rows or phase.rows_per_step // num_ranks,
        sampler=_Places(phase, first_step, rank, num_ranks),
        num_workers=num_workers,
        collate_fn=collate,
        worker_init_fn=outlive_signals,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=8 if num_workers else None,
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with its tensors on a device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def describe_batch(batch: Mapping[str, Any]) -> str:
    """Return a batch's shape for messages."""
    return "x".join(map(str, batch["input_ids"].shape))
