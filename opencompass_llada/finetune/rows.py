"""Makes the training rows of a recipe, masked.

Row i of a length depends on the recipe's seed, the length and i alone, so workers, restarts,
devices and accumulation do not change what is trained on.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from opencompass_llada.finetune import objective, packing
from opencompass_llada.finetune.corpus import Corpus, read_corpus
from opencompass_llada.finetune.mixture import Mixture
from opencompass_llada.finetune.packing import PackingStrategy, Row, TokenizedText, TokenWindows
from opencompass_llada.finetune.parallel import Ranks, end_workers, outlive_signals
from opencompass_llada.finetune.recipe import Phase, Recipe
from opencompass_llada.finetune.samples import number_samples
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.networks.doubled import document_blocks

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
    """Return the class of task rows that a dotted path names."""
    found = packing.find_class(path)
    if not all(hasattr(found, name) for name in ("STYLES", "SHORTEST", "make")):
        raise ValueError(
            f"recipe: rows={path!r} must be the dotted path of a class with STYLES, SHORTEST and "
            "make (finetune.rows.TaskRows); leave it out for the package's own."
        )
    return found


@dataclass(frozen=True, kw_only=True)
class TrainingRows(Dataset):
    """Text and task rows of one phase, masked."""

    recipe: Recipe
    phase: Phase
    text: PackingStrategy | Mixture
    tasks: TaskRows | None
    first_row: int
    """Rows of the same length in earlier phases, which are not made again."""
    first_step: int
    """Steps of all earlier phases."""

    def __len__(self) -> int:
        """Rows."""
        return self.phase.num_steps * self.phase.rows_per_step

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make a row's input_ids (int64 [L]), positions (int64 [L]) and spans, as of `packing.Row`.

        And targets, the positions whose token is predicted (bool [L]), and the scale that the cross
        entropy of each is multiplied with (float32 [L]); with ``block_length`` the tokens of a
        block of block diffusion, else None.
        """
        recipe, length = self.recipe, self.phase.sequence_length
        number = self.first_row + index
        rng = random.Random(f"{recipe.seed}-{length}-{number}")
        before = int(number * recipe.retrieval_share)
        mask_all, samples_per_row = False, 1.0
        if int((number + 1) * recipe.retrieval_share) > before:
            assert self.tasks is not None
            row = self.tasks.make(length, rng)
            everywhere = rng.random() < recipe.retrieval_masked_everywhere
            # Half of the answers start as sampling starts: nothing revealed yet.
            mask_all = not everywhere and rng.random() < 0.5
            if everywhere:
                row = dataclasses.replace(row, weights=np.ones(length, np.float32))
        else:
            row, samples_per_row = self._text_row(number - before, rng), self.text.samples_per_row
        spans = (length,) if row.spans is None else row.spans
        targets, scale = self._choose_targets(
            index, row.weights, spans, mask_all, rng, samples_per_row
        )
        positions = np.arange(length) if row.positions is None else row.positions
        return {
            "input_ids": torch.from_numpy(row.input_ids),
            "targets": torch.from_numpy(targets),
            "scale": torch.from_numpy(scale),
            "positions": torch.from_numpy(positions),
            "spans": spans,
            "block_length": recipe.block_length_of(self.phase),
        }

    def _text_row(self, number: int, rng: random.Random) -> Row:
        share = self.phase.continuation_share
        share = self.recipe.continuation_share if share is None else share
        row = self.text.row(number, rng)
        if self.recipe.random_length_share and rng.random() < self.recipe.random_length_share:
            length = rng.randint(1, self.phase.sequence_length)
            row = objective.shorten(row, length, self.text.pad_token_id)
        if share and rng.random() < share:  # of the shorter row, whose end it is
            num_tokens = objective.draw_end(self.phase.sequence_length, rng)
            row = dataclasses.replace(row, weights=objective.keep_end(row.weights, num_tokens))
        return row

    def _choose_targets(
        self,
        index: int,
        weights: np.ndarray,
        spans: tuple[int, ...],
        mask_all: bool,
        rng: random.Random,
        samples_per_row: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions to predict and the weight of each one's cross entropy."""
        recipe = self.recipe
        if recipe.objective == "autoregressive":
            weights = weights.copy()
            weights[0] = 0.0  # nothing stands before it
            return weights > 0, objective.scale_losses(weights, 1.0, "none")
        step, place = divmod(index, self.phase.rows_per_step)
        block_length = recipe.block_length_of(self.phase)
        spread = recipe.mask_ratios == "low_discrepancy"
        draws = np.random.default_rng(rng.getrandbits(64))
        ratio: objective.Ratio = 1.0
        by_sample = recipe.normalize_by == "sample"
        samples = number_samples(weights, spans) if by_sample else None
        # A block of one token is masked always: what it is worth then is its mean over t.
        if not mask_all and block_length != 1:
            ratio = objective.draw_mask_ratio(
                recipe.seed,
                self.first_step + step,
                place,
                self.phase.rows_per_step,
                recipe.min_mask_ratio,
                spread=spread,
            )
            if block_length is not None:
                _, starts, _ = document_blocks(spans, block_length).numpy()
                blocks = np.cumsum(np.diff(starts, prepend=0) > 0)
                ratio = objective.spread_over_blocks(
                    ratio, blocks, recipe.min_mask_ratio, draws, spread=spread
                )
            elif samples is not None:
                ratio = objective.spread_over_samples(
                    ratio, samples, recipe.min_mask_ratio, draws, spread=spread
                )
        masked = objective.draw_masked(weights, ratio, draws)
        if samples is not None:
            return masked, objective.scale_samples(
                weights, samples, ratio, recipe.loss_weight, samples_per_row
            )
        return masked, objective.scale_losses(weights, ratio, recipe.loss_weight)


def collate(rows: list[dict[str, Any]]) -> Batch:
    """Stack rows; ``spans`` is a tuple over all rows, None where each is one span.

    ``positions`` is None where all rows count from 0 to the end.
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
    batch["block_length"] = rows[0].get("block_length")
    return batch


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
    """Return a loader of a phase's batches for one of the ranks that rows are split over."""
    if num_workers:
        atexit.unregister(end_workers)  # once, and before multiprocessing's own, which waits
        atexit.register(end_workers)
    share = phase.rows_per_step // num_ranks
    size = micro_rows or share
    starts = [
        step * phase.rows_per_step + place
        for step in range(first_step, phase.num_steps)
        for place in range(rank * share, (rank + 1) * share, size)
    ]
    return DataLoader(
        rows,
        batch_sampler=[range(start, start + size) for start in starts],  # type: ignore[misc]
        num_workers=num_workers,
        collate_fn=collate,
        worker_init_fn=outlive_signals,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=8 if num_workers else None,
    )


def weights_of(recipe: Recipe) -> list[float]:
    """Return the weight of each source; 1 where it has none."""
    return [1.0 if source.weight is None else source.weight for source in recipe.text]


class TrainingData:
    """Everything that rows are made from, tokenised and packed for every row length."""

    def __init__(
        self, recipe: Recipe, tokens: TrainingTokenizer, corpus: Corpus | None = None
    ) -> None:
        """Pack all text, tokenised unless it is given; a ValueError for what cannot be used."""
        self._recipe = recipe
        corpus = read_corpus(recipe, tokens) if corpus is None else corpus
        self.texts, self.held_out = corpus.texts, corpus.held_out
        self.num_tokens = [len(text.tokens) for text in self.texts]
        logger.info("Tokens of the text sources: %s", self.num_tokens)
        if recipe.retrieval_share and tokens.end_token_id is None:
            raise ValueError(
                "retrieval_share: retrieval rows end in the end-of-document token, and the "
                "tokenizer has none (no eos_token). Set retrieval_share=0, or use a tokenizer with "
                "an eos_token."
            )
        self.tasks = None
        if recipe.retrieval_share:
            styles = recipe.retrieval_styles or {}
            windows = TokenWindows(self.texts, weights_of(recipe))
            self.tasks = find_task_rows(recipe.rows)(windows, tokens, styles)
        lengths = sorted({phase.sequence_length for phase in recipe.phases})
        self._rows = {length: self._pack(length, tokens.end_token_id or 0) for length in lengths}
        #: One line a row length on what is packed, padded and cut.
        described = [rows.describe() for rows in self._rows.values()]
        self.packing = [line for text in filter(None, described) for line in text.splitlines()]
        for line in self.packing:
            logger.info("%s", line)
        for name, epochs in self.epochs(recipe.num_steps).items():
            logger.info("%s at the end of the run: %.2f", name, epochs)

    def _pack(self, row_length: int, pad_token_id: int) -> PackingStrategy | Mixture:
        """Pack the sources together, or each by itself where weights say its share."""
        recipe = self._recipe
        strategy, weights = packing.find_strategy(recipe.strategy), weights_of(recipe)

        def pack(texts: list[TokenizedText]) -> PackingStrategy:
            return strategy(
                texts,
                row_length,
                seed=recipe.seed,
                pad_token_id=pad_token_id,
                restart_positions=recipe.restart_positions,
                shares=weights if len(texts) == len(weights) else None,
                answer_padding=recipe.answer_padding,
                skips_long_samples=recipe.long_samples == "skip",
            )

        is_weighted = any(source.weight is not None for source in recipe.text)
        if strategy.draws_sources or not is_weighted or len(self.texts) == 1:
            return pack(self.texts)
        return Mixture([pack([text]) for text in self.texts], weights)

    def epochs(self, num_steps: int) -> dict[str, float]:
        """Return how often the text was gone through after so many steps.

        ``epochs`` of all sources, or ``epochs_1``, ``epochs_2`` ... of each one that has a weight;
        nothing where rows are drawn at random.
        """
        recipe, before = self._recipe, 0
        num_made: Counter[int] = Counter()  # rows by length
        for phase in recipe.phases:
            done = min(max(0, num_steps - before), phase.num_steps)
            num_made[phase.sequence_length] += done * phase.rows_per_step
            before += phase.num_steps
        made = [
            self._rows[length].epochs(count - int(count * recipe.retrieval_share))
            for length, count in num_made.items()
        ]
        sums = [sum(each) for each in zip(*made, strict=True)]
        if len(sums) == 1:
            return {"epochs": sums[0]}
        return {f"epochs_{number}": value for number, value in enumerate(sums, start=1)}

    def phases(self, ranks: Ranks, first_step: int = 0) -> Iterator[tuple[Phase, DataLoader]]:
        """Yield the phases that are left after some steps, each with this rank's batches."""
        recipe = self._recipe
        num_made: Counter[int] = Counter()  # rows by length
        steps_before = 0
        for phase in recipe.phases:
            length = phase.sequence_length
            rows = TrainingRows(
                recipe=recipe,
                phase=phase,
                text=self._rows[length],
                tasks=self.tasks,
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
