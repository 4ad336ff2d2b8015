"""The training loop: recipe in, checkpoint out.

One process, one device; AdamW, warm-up and cosine decay, bfloat16 autocast over float32 weights on
CUDA. A non-finite loss stops before the update.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

import opencompass_llada
from opencompass_llada.finetune.networks import hidden_states, llama_config
from opencompass_llada.finetune.objective import (
    autoregressive_loss,
    diffusion_loss,
    mask_rows,
    next_tokens,
)
from opencompass_llada.finetune.probe import probe_retrieval
from opencompass_llada.finetune.recipe import Phase, Recipe
from opencompass_llada.finetune.retrieval import RetrievalRows
from opencompass_llada.finetune.rows import TrainingRows, row_loader
from opencompass_llada.finetune.saving import check_target, save_checkpoint
from opencompass_llada.finetune.text import TokenWindows, read_texts
from opencompass_llada.finetune.tokenizer import EOS_TOKEN, MASK_TOKEN, train_tokenizer
from opencompass_llada.logs import get_logger
from opencompass_llada.modeling import LLaDAConfig, LLaDAForMaskedDiffusion

logger = get_logger(__name__)

_NO_DECAY = ("norm", "ln_f", "wte", "embed_tokens")


def learning_rate(recipe: Recipe, step: int, seconds: float = 0.0) -> float:
    """Return the rate of a step: linear warm-up, then cosine decay to a tenth of the peak.

    Args:
        recipe: Peak, warm-up, total steps and time limit.
        step: From 0.
        seconds: Since training began; they count where the recipe has a time limit.

    Returns:
        The learning rate.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.num_steps - recipe.warmup_steps)
    if recipe.time_limit is not None:
        done = max(done, seconds / recipe.time_limit)
    return recipe.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done))))


def build_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices alone.

    Args:
        model: Its parameters are grouped by name.
        recipe: Rate, betas and decay.

    Returns:
        The optimizer.
    """
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[not any(part in name for part in _NO_DECAY)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": recipe.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        fused=torch.cuda.is_available(),
    )


def _batches(recipe: Recipe, windows: TokenWindows, retrieval: RetrievalRows) -> Iterator[Any]:
    num_made: Counter[int] = Counter()  # by row length
    for phase in recipe.phases:
        first_row = num_made[phase.sequence_length]
        rows = TrainingRows(recipe, phase, windows, retrieval, first_row)
        num_made[phase.sequence_length] += len(rows)
        for batch in row_loader(rows, phase, num_workers=recipe.num_workers):
            yield phase, batch


class Trainer:
    """Holds the state of one run."""

    def __init__(self, recipe: Recipe) -> None:
        """Read the text, train the tokenizer and build the network.

        Args:
            recipe: What to do.

        Raises:
            ValueError: If a text source has no files, or output_dir holds something else than a
                checkpoint.
        """
        check_target(recipe.output_dir)
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        texts = [text for source in recipe.text for text in read_texts(source)]
        self.tokenizer = train_tokenizer(texts, recipe.vocab_size)
        eos = self.tokenizer.convert_tokens_to_ids(EOS_TOKEN)
        self.windows = TokenWindows(
            recipe.text, lambda texts: self.tokenizer(list(texts)).input_ids, eos
        )
        backend = self.tokenizer.backend_tokenizer
        self.retrieval = RetrievalRows(
            self.windows,
            lambda text: backend.encode(text, add_special_tokens=False).ids,
            eos,
            recipe.retrieval_styles,
        )
        logger.info("Tokens of the text sources: %s", self.windows.num_tokens)
        torch.manual_seed(recipe.seed)
        self.model = self._build_network(eos).to(self.device)
        self.hidden_states: Callable[[torch.Tensor], torch.Tensor] = partial(
            hidden_states, self.model
        )
        if recipe.compile:
            self.hidden_states = torch.compile(self.hidden_states, dynamic=False)
        self.optimizer = build_optimizer(self.model, recipe)
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self.history: list[dict[str, float]] = []

    def _build_network(self, eos: int) -> PreTrainedModel:
        recipe = self.recipe
        if recipe.objective == "autoregressive":
            return LlamaForCausalLM(
                llama_config(
                    recipe.model,
                    vocab_size=len(self.tokenizer),
                    trained_length=recipe.trained_length,
                    eos_token_id=eos,
                )
            )
        config = LLaDAConfig(
            **recipe.model,
            vocab_size=len(self.tokenizer),
            max_sequence_length=recipe.trained_length,
            mask_token_id=self.tokenizer.convert_tokens_to_ids(MASK_TOKEN),
            eos_token_id=eos,
            pad_token_id=eos,
        )
        model = LLaDAForMaskedDiffusion(config)
        model.prepare(recipe.trained_length, self.device)
        return model

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of one batch."""
        ids_BL, weights_BL, mask_all_B = (
            batch[name].to(self.device, non_blocking=True)
            for name in ("input_ids", "weights", "mask_all")
        )
        cuda = self.device.type == "cuda"
        if self.recipe.objective == "autoregressive":
            predicted_BL = next_tokens(weights_BL)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda):
                hidden_BLM = self.hidden_states(ids_BL)
                # The hidden state at i predicts token i + 1.
                before_NM = hidden_BLM[:, :-1][predicted_BL[:, 1:]]
                logits_NV = self.model.get_output_embeddings()(before_NM)
            return autoregressive_loss(logits_NV, ids_BL, weights_BL, predicted_BL)
        noisy_BL, masked_BL, ratios_B = mask_rows(
            ids_BL,
            weights_BL,
            mask_all_B,
            self.model.config.mask_token_id,
            self.recipe.min_mask_ratio,
            self.generator,
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda):
            hidden_BLM = self.hidden_states(noisy_BL)
            logits_NV = self.model.get_output_embeddings()(hidden_BLM[masked_BL])
        return diffusion_loss(logits_NV, ids_BL, weights_BL, masked_BL, ratios_B)

    def step(
        self, number: int, batch: dict[str, torch.Tensor], seconds: float = 0.0
    ) -> torch.Tensor:
        """Do one optimiser step and return the detached loss.

        Args:
            number: Of the step, from 0.
            batch: From the row loader.
            seconds: Since training began.

        Raises:
            FloatingPointError: If the gradient is not finite; nothing was updated.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, number, seconds)
        loss = self.loss(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"step {number}: loss {loss.item()} with gradient norm {norm.item()} is not "
                "finite; nothing was updated. Lower learning_rate or raise min_mask_ratio."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def probe(self, phase: Phase) -> dict[str, float]:
        """Measure held-out retrieval at the phase's length, in percent by row style."""
        self.model.eval()
        results = {
            style: probe_retrieval(
                self.model,
                self.retrieval,
                length=phase.sequence_length,
                style=style,
                num_rows=128,
                device=self.device,
            )
            for style in self.recipe.retrieval_styles
        }
        self.model.train()
        return results

    def train(self) -> Path:
        """Run all phases and write the checkpoint.

        Returns:
            The checkpoint's folder.

        Raises:
            FloatingPointError: If a gradient is not finite.
        """
        recipe, start, tokens = self.recipe, time.perf_counter(), 0
        losses: list[torch.Tensor] = []
        self.model.train()
        for number, (phase, batch) in enumerate(
            _batches(recipe, self.windows, self.retrieval), start=1
        ):
            elapsed = time.perf_counter() - start
            losses.append(self.step(number - 1, batch, elapsed))
            tokens += batch["input_ids"].numel()
            late = recipe.time_limit is not None and elapsed > recipe.time_limit
            probe = number % recipe.probe_every == 0 or number == recipe.num_steps or late
            if probe or number % recipe.log_every == 0:
                seconds = round(time.perf_counter() - start, 1)
                mean = torch.stack(losses).mean().item()
                row = {"step": number, "loss": mean, "tokens": tokens, "seconds": seconds}
                self.history.append(row | (self.probe(phase) if probe else {}))
                logger.info("%s", self.history[-1])
                losses.clear()
            if probe:
                folder = self.save(seconds)
            if late:
                logger.warning("Time limit reached at step %d of %d", number, recipe.num_steps)
                break
        return folder

    def save(self, seconds: float) -> Path:
        """Write the checkpoint and return its folder."""
        return save_checkpoint(
            self.recipe.output_dir,
            self.model,
            self.tokenizer,
            dtype=self.recipe.dtype,
            record=self.record(seconds),
        )

    def record(self, seconds: float) -> dict[str, Any]:
        """Return what a reader needs to repeat and judge the run."""
        cuda = self.device.type == "cuda"
        recipe = dataclasses.asdict(self.recipe)
        del recipe["output_dir"]  # a path of the machine that trained, of no use elsewhere
        return {
            "recipe": recipe,
            "text_tokens": self.windows.num_tokens,
            "seconds": round(seconds, 1),
            "history": self.history,
            "date": time.strftime("%Y-%m-%d"),
            "device": torch.cuda.get_device_name() if cuda else platform.processor(),
            "versions": {
                "opencompass_llada": opencompass_llada.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
