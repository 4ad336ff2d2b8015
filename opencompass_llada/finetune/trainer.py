"""Trains by a recipe: recipe in, checkpoints out.

Goes on from the last checkpoint; a non-finite gradient stops it before the update.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from opencompass_llada.finetune import checkpoints, parallel, saving
from opencompass_llada.finetune.average import MovingAverage
from opencompass_llada.finetune.checkpoints import CheckpointIndex
from opencompass_llada.finetune.corpus import read_corpus
from opencompass_llada.finetune.evaluation import check_windows, evaluate
from opencompass_llada.finetune.gathering import Gathering
from opencompass_llada.finetune.measurement import Measurement
from opencompass_llada.finetune.monitoring import RunLog, Throughput
from opencompass_llada.finetune.network import (
    build_network,
    network_config,
    place_network,
    reads_start_again,
)
from opencompass_llada.finetune.optimizer import build_optimizer, learning_rate
from opencompass_llada.finetune.published import read_start
from opencompass_llada.finetune.recipe import Phase, Recipe
from opencompass_llada.finetune.resources import NetworkShape, check_fits, check_machine
from opencompass_llada.finetune.rows import Batch, TrainingData
from opencompass_llada.finetune.tokens import make_tokenizer
from opencompass_llada.inference.float8 import check_float8

logger = logging.getLogger(__name__)


class Trainer(saving.RunState):
    """Trains by a recipe: holds the state of one run and carries it on."""

    def __init__(self, recipe: Recipe) -> None:
        """Check the recipe against this machine, prepare data and network, find where to go on.

        Raises:
            ImportError: If a package that the recipe needs is missing.
            ValueError: If text, checkpoint, processes, memory or output_dir do not fit the recipe.
        """
        check_machine(recipe)
        self.recipe, self.history = recipe, []
        self.ranks = parallel.read_ranks(recipe)
        output = Path(recipe.output_dir).absolute()
        self.index = CheckpointIndex.read(output)
        if self.ranks.is_main:
            checkpoints.restore_checkpoints(output)
        self.index.begin(recipe)
        self.tokens, self.start = make_tokenizer(recipe), read_start(recipe)
        config = network_config(recipe, self.tokens)
        self.start_length = config.trained_length if recipe.init_from is not None else None
        self.shape = NetworkShape(config.shape, recipe.lora.rank if recipe.lora else 0)
        if recipe.lora is not None and recipe.lora.frozen_precision == "float8":
            check_float8("lora.frozen_precision=float8", config.shape, self.ranks.device)
        check_fits(recipe, self.shape, self.ranks)
        self.model, self.stored = build_network(recipe, config)
        with Gathering(self.ranks) as gathering:
            self._prepare_data(gathering)
        group = parallel.start_processes(self.ranks, gathering.store)
        self.network = place_network(self.model, recipe, self.ranks, self.stored, group)
        if not reads_start_again(recipe):
            self.stored.close()
        self.optimizer = build_optimizer(self.network, recipe)
        self.average = MovingAverage(
            self.network, self.optimizer, recipe.ema_decay, on_host=recipe.offload_average
        )
        if self.index.last is not None:
            saving.read_state(self, self.index.last / checkpoints.STATE)
            logger.info("Going on from step %d (%s)", self.step, self.index.last)

    def _prepare_data(self, gathering: Gathering) -> None:
        """Tokenise in one process while the others wait, and pack in all."""
        corpus = read_corpus(self.recipe, self.tokens, gathering)
        self.data = TrainingData(self.recipe, self.tokens, corpus)
        if self.data.held_out is not None:
            check_windows(len(self.data.held_out.tokens), self.recipe.evaluation)
        if self.ranks.is_main:
            made_from = saving.describe_inputs(self.recipe, self.tokens, self.data)
            if self.index.steps:
                self.index.check_inputs(made_from)
            self.index.made_from = made_from
        gathering.all_hear("ready", True)

    def train(self) -> Path:
        """Run the steps that are left and write the final checkpoint.

        Returns its folder; the last checkpoint's where a signal stopped the run. Raises what
        `take_step` does, and a SaveError if a checkpoint cannot be written.
        """
        log = RunLog(self)
        if self.ranks.is_main:
            self.index.write()
        try:
            with parallel.catch_signals() as stop:
                self._run(log, stop)
        finally:
            log.close()
        if self.stopped_by is not None:
            assert self.index.last is not None
            return self.index.last
        final = self.index.folder / checkpoints.FINAL
        saving.write_checkpoint(self, final, with_state=False)
        return final

    def _run(self, log: RunLog, stop: list[int]) -> None:
        recipe, begun = self.recipe, time.perf_counter() - self.seconds
        losses: list[torch.Tensor] = []
        work = Throughput()
        limit = math.inf if recipe.time_limit is None else recipe.time_limit
        if self.seconds > limit:
            logger.warning("Time limit reached at step %d; a longer time_limit goes on", self.step)
            return
        for phase, batches in self._steps():
            self.seconds = self._agree(time.perf_counter() - begun)
            loss, norm = self.take_step(phase, batches, self.seconds)
            losses.append(loss)
            work.add(self, phase, batches)
            log.step()
            self.seconds = time.perf_counter() - begun
            asked = self.ranks.any(bool(stop))
            last = self.step == recipe.num_steps or self.ranks.any(self.seconds > limit)
            measured = self.step % recipe.probe_every == 0 or last
            if measured or asked or self.step % recipe.log_every == 0:
                mean = self.ranks.sum(torch.stack(losses).mean()).item()
                row = {"step": self.step, "loss": mean, "gradient_norm": norm, **work.figures(self)}
                row |= self.data.epochs(self.step)
                losses.clear()
                found = self.measure(phase, is_last=last) if measured else Measurement({})
                self.history.append(row | {**found.figures})
                log.write(self.history[-1])
                if measured or asked:
                    self.save(*found)
                work = Throughput()  # what measuring and saving take is not training
            if asked:
                self.stopped_by = stop[0] if stop else signal.SIGTERM
                logger.warning("Stopped at step %d; the same command goes on", self.step)
                return
            if last and self.step < recipe.num_steps:
                logger.warning("Time limit reached at step %d", self.step)
                return

    def _steps(self) -> Iterator[tuple[Phase, list[Batch]]]:
        """Yield this rank's batches of every step that is left."""
        for phase, loader in self.data.phases(self.ranks, self.step):
            rows = phase.rows_per_step // self.ranks.num_data_ranks
            parts = rows // (self.recipe.micro_rows or rows)
            batches = iter(loader)
            for first in batches:
                yield phase, [first, *(next(batches) for _ in range(parts - 1))]

    def take_step(
        self, phase: Phase, batches: list[Batch], seconds: float = 0.0
    ) -> tuple[torch.Tensor, float]:
        """Do one optimiser step; gradients of this rank's batches are accumulated.

        Returns this rank's part of the loss, detached, and the gradient norm before clipping. A
        gradient that is not finite is a FloatingPointError before anything is updated.
        """
        rate = learning_rate(self.recipe, self.step, seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.ranks.device)
        for batch in batches:
            loss = self.network(batch) / phase.rows_per_step
            # FSDP takes the mean over ranks; each has a part of the sum.
            (loss * self.ranks.world_size).backward()
            total += loss.detach()
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        norm = parallel.whole_tensor(clip_grad_norm_(parameters, self.recipe.clip_norm)).item()
        if not math.isfinite(norm):
            file = self._keep_batches(batches)
            raise FloatingPointError(
                f"step {self.step + 1}: loss {total.item()} with gradient norm {norm} is not "
                f"finite; nothing was updated. The batch is in {file}, the last checkpoint is "
                f"{self.index.last or 'none'}. Lower learning_rate or raise min_mask_ratio."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()
        self.step += 1
        return total, norm

    def _keep_batches(self, batches: list[Batch]) -> Path:
        file = self.index.folder / "logs" / f"not-finite-{self.step + 1}-rank{self.ranks.rank}.pt"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"step": self.step + 1, "batches": batches}, file)
        except (OSError, RuntimeError) as error:  # the figure that is not finite is the news
            logger.warning("%s could not be written: %s", file, error)
        return file

    def _agree(self, seconds: float) -> float:
        """Return one time for all ranks, whose learning rates it decides under a time limit."""
        if self.recipe.time_limit is None:
            return seconds
        own = torch.tensor(seconds, device=self.ranks.device)
        return self.ranks.sum(own).item() / self.ranks.world_size

    def measure(self, phase: Phase, *, is_last: bool = False) -> Measurement:
        """Measure held-out retrieval and perplexity with the weights that are written."""
        more = (self.recipe, self.data, phase.sequence_length, self.ranks.device)
        with self.average.applied():
            self.network.eval()
            found = self.network(lambda model: evaluate(model, *more, is_last=is_last))
            parallel.reshard(self.network)
            self.network.train()
        return found

    def save(self, figures: Mapping[str, float], draws: Sequence[float] = ()) -> Path:
        """Write a checkpoint of this step and return its folder; drop those no longer kept."""
        folder = self.index.path(self.step)
        saving.write_checkpoint(self, folder, with_state=True)
        if self.ranks.is_main:
            self.index.add(self.step, figures, self.recipe.keep_last, draws)
        elif self.step not in self.index.steps:
            self.index.steps.append(self.step)
        return folder
