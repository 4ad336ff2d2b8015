"""Makes the training rows of a recipe: row number in, masked row out, whatever process makes it.

Row i of a length depends on the recipe's seed, the length and i alone, so workers, restarts,
devices and accumulation do not change what is trained on, masks included.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

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
from opencompass_llada.finetune.packing import (
    PackingStrategy,
    Row,
    TokenizedText,
    TokenWindows,
    find_class,
    find_strategy,
)
from opencompass_llada.finetune.parallel import Ranks, end_workers, outlive_signals
from opencompass_llada.finetune.recipe import Phase, Recipe, TextSource
from opencompass_llada.finetune.tokens import TrainingTokenizer, default_folder, tokenize_source

logger = logging.getLogger(__name__)

Batch = dict[str, Any]


class TaskRows(Protocol):
    """What a recipe's ``rows`` names: a class that makes rows of a task, beside those of the text.

    Its rows are of exactly the length asked for, and a function of that and of ``rng``; weights are
    1 where an answer's tokens are predicted.
    """

    #: Kinds of rows, and the share of each where a recipe gives none.
    STYLES: ClassVar[Mapping[str, float]]
    #: Tokens of the shortest row that can be made.
    SHORTEST: ClassVar[int]

    def __init__(
        self, windows: TokenWindows, tokens: TrainingTokenizer, styles: Mapping[str, float]
    ) -> None:
        """Keep the training text, the tokenizer (with an end token) and the shares."""

    def make(
        self, length: int, rng: random.Random, *, evaluation: bool = False, style: str | None = None
    ) -> Row:
        """Make a row, of a random style if None; for evaluation one that is never trained on."""


def find_task_rows(path: str) -> type[TaskRows]:
    """Return the class of task rows that a dotted path names.

    Raises:
        ValueError: If there is none.
    """
    found = find_class(path)
    if not all(hasattr(found, name) for name in ("STYLES", "SHORTEST", "make")):
        raise ValueError(
            f"recipe: rows={path!r} must be the dotted path of a class with STYLES, SHORTEST and "
            "make (finetune.rows.TaskRows); leave it out for the package's own."
        )
    return found


class TrainingRows(Dataset):
    """Text and task rows of one phase, masked."""

    def __init__(
        self,
        recipe: Recipe,
        phase: Phase,
        text: PackingStrategy,
        tasks: TaskRows | None,
        *,
        first_row: int = 0,
        first_step: int = 0,
    ) -> None:
        """Keep the sources.

        Args:
            recipe: Shares of row kinds, the objective and the seed.
            phase: Row length and number of rows.
            text: Rows of text.
            tasks: Rows of a task; None for none.
            first_row: Rows of the same length in earlier phases, which are not made again.
            first_step: Steps of all earlier phases.
        """
        self._recipe, self._phase, self._text, self._tasks = recipe, phase, text, tasks
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
            assert self._tasks is not None
            row = self._tasks.make(length, rng)
            everywhere = rng.random() < recipe.retrieval_masked_everywhere
            # Half of the answers start as sampling starts: nothing revealed yet.
            mask_all = not everywhere and rng.random() < 0.5
            if everywhere:
                row = dataclasses.replace(row, weights=np.ones(length, np.float32))
        else:
            row = self._text_row(number - before, rng)
        targets, scale = self._choose_targets(index, row.weights, mask_all, rng)
        positions = np.arange(length) if row.positions is None else row.positions
        arrays = (row.input_ids, targets, scale, positions)
        names = ("input_ids", "targets", "scale", "positions")
        tensors = dict(zip(names, map(torch.from_numpy, arrays), strict=True))
        return {**tensors, "spans": (length,) if row.spans is None else row.spans}

    def _text_row(self, number: int, rng: random.Random) -> Row:
        share = self._phase.continuation_share
        share = self._recipe.continuation_share if share is None else share
        row = self._text.row(number, rng)
        if share and rng.random() < share:
            weights = keep_end(row.weights, draw_end(self._phase.sequence_length, rng))
            row = dataclasses.replace(row, weights=weights)
        return row

    def _choose_targets(
        self, index: int, weights: np.ndarray, mask_all: bool, rng: random.Random
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions to predict and the weight of each one's cross entropy."""
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


def collate(rows: list[dict[str, Any]]) -> Batch:
    """Stack rows.

    ``positions`` is None where all rows count from 0 to the end, and ``spans`` (a tuple over all
    rows) where all rows attend to the whole of themselves.
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
    rows: Dataset,
    phase: Phase,
    *,
    num_workers: int,
    micro_rows: int | None = None,
    first_step: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
) -> DataLoader:
    """Return a loader of the phase's batches for one of the ranks that rows are split over.

    A step's batches are ``rows_per_step / num_ranks / micro_rows``; without micro_rows one.
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


class TrainingData:
    """Everything that rows are made from, tokenised and packed.

    Attributes:
        texts: Tokens of the recipe's text, one a source.
        windows: Random windows of them.
        tasks: Maker of task rows; None where the recipe wants none.
        held_out: Tokens of the evaluation's text; None for none.
        packing: One line a row length on what is packed, padded and cut.
    """

    def __init__(self, recipe: Recipe, tokens: TrainingTokenizer) -> None:
        """Tokenise (or find the tokens of) all text and pack it for every row length.

        Raises:
            ValueError: If a source is wrong or empty, a document too long, or the tokenizer lacks
                the end token that the strategy or retrieval rows need.
        """
        self._recipe, self._tokens = recipe, tokens
        self.texts = [self._tokenize(source) for source in recipe.text]
        if recipe.retrieval_share and tokens.end_token_id is None:
            raise ValueError(
                "retrieval_share: retrieval rows end in the end-of-document token, and the "
                "tokenizer has none (no eos_token). Set retrieval_share=0, or use a tokenizer with "
                "an eos_token."
            )
        shares = [source.weight for source in recipe.text]
        self.windows = TokenWindows(self.texts, shares)
        logger.info("Tokens of the text sources: %s", self.windows.num_tokens)
        self.tasks = None
        if recipe.retrieval_share:
            styles = recipe.retrieval_styles or {}
            self.tasks = find_task_rows(recipe.rows)(self.windows, tokens, styles)
        self._rows = self._pack(shares)
        described = [rows.describe() for rows in self._rows.values()]
        self.packing = [line for line in described if line is not None]
        for line in self.packing:
            logger.info("%s", line)
        held_out = recipe.evaluation.text
        self.held_out = None if held_out is None else self._tokenize(held_out)

    def _tokenize(self, source: TextSource) -> TokenizedText:
        recipe, tokens = self._recipe, self._tokens
        if recipe.cache_dir is None:
            folder = default_folder()
        else:
            folder = None if recipe.cache_dir == "none" else Path(recipe.cache_dir).expanduser()
        return tokenize_source(
            source,
            tokens.encode_all,
            end_token_id=tokens.end_token_id,
            tokenizer_digest=tokens.digest,
            folder=folder,
            max_document_tokens=recipe.max_document_tokens,
        )

    def _pack(self, shares: Sequence[float]) -> dict[int, PackingStrategy]:
        """Return the text's rows of every length."""
        recipe = self._recipe
        strategy = find_strategy(recipe.strategy)
        return {
            length: strategy(
                self.texts,
                length,
                seed=recipe.seed,
                pad_token_id=self._tokens.end_token_id or 0,
                restart_positions=recipe.restart_positions,
                shares=shares,
            )
            for length in sorted({phase.sequence_length for phase in recipe.phases})
        }

    def phases(self, ranks: Ranks, first_step: int = 0) -> Iterator[tuple[Phase, DataLoader]]:
        """Yield the phases that are left after some steps, each with this rank's batches."""
        recipe = self._recipe
        num_made: Counter[int] = Counter()  # rows by length
        steps_before = 0
        for phase in recipe.phases:
            length = phase.sequence_length
            rows = TrainingRows(
                recipe,
                phase,
                self._rows[length],
                self.tasks,
                first_row=num_made[length],
                first_step=steps_before,
            )
            num_made[length] += len(rows)
            done = min(max(0, first_step - steps_before), phase.num_steps)
            steps_before += phase.num_steps
            if done < phase.num_steps:
                loader = row_loader(
                    rows,
                    phase,
                    num_workers=recipe.num_workers,
                    micro_rows=recipe.micro_rows,
                    first_step=done,
                    rank=ranks.data_rank,
                    num_ranks=ranks.num_data_ranks,
                )
                yield phase, loader
