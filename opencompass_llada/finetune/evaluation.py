"""Measures a network while it trains: held-out task rows and perplexity.

Leads for the log, not results: few samples, no sampler, argmax at all answer positions (for an
autoregressive network with the true answer before each).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from opencompass_llada.finetune.packing import Row, TokenizedText
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.rows import TaskRows
from opencompass_llada.likelihood import (
    LikelihoodOptions,
    MaskedScorer,
    entropies_from_logits,
    pool,
)
from opencompass_llada.networks import BidirectionalNetwork, LLaDAForMaskedDiffusion

_TOKENS_AT_ONCE = 65536


@torch.no_grad()
def probe_tasks(
    model: PreTrainedModel,
    tasks: TaskRows,
    *,
    length: int,
    style: str,
    num_rows: int,
    device: torch.device,
) -> float:
    """Measure how many held-out rows have every answer token right, in percent.

    The standard error is at most 50 / sqrt(num_rows).
    """
    rng = random.Random(f"probe-{length}-{style}")
    rows = [tasks.make(length, rng, evaluation=True, style=style) for _ in range(num_rows)]
    size = max(1, _TOKENS_AT_ONCE // length)
    right = [
        _answers_right(model, rows[start : start + size], device)
        for start in range(0, num_rows, size)
    ]
    return 100.0 * torch.cat(right).float().mean().item()


def _answers_right(
    model: PreTrainedModel, rows: Sequence[Row], device: torch.device
) -> torch.Tensor:
    """Tell for each row whether every answer token is predicted, bool [B]."""
    ids_BL = torch.stack([torch.from_numpy(row.input_ids) for row in rows]).to(device)
    weights_BL = torch.stack([torch.from_numpy(row.weights) for row in rows]).to(device)
    is_diffusion = isinstance(model, LLaDAForMaskedDiffusion)
    given_BL = ids_BL
    if is_diffusion:
        given_BL = torch.where(weights_BL > 0, model.config.mask_token_id, ids_BL)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        predicted_BL = model(given_BL).logits.argmax(-1)
    if not is_diffusion:  # position i's logits are of token i + 1
        predicted_BL = predicted_BL.roll(1, -1)
    wrong_BL = (predicted_BL != ids_BL) & (weights_BL == 1.0)
    return ~wrong_BL.any(-1)


def evaluate(
    model: PreTrainedModel,
    recipe: Recipe,
    tasks: TaskRows | None,
    held_out: TokenizedText | None,
    *,
    length: int,
    device: torch.device,
) -> dict[str, float]:
    """Measure the network."""
    figures: dict[str, float] = {}
    chosen = recipe.evaluation
    if tasks is not None and chosen.retrieval_rows:
        for row_length in chosen.retrieval_lengths or (length,):
            for style, share in (recipe.retrieval_styles or {}).items():
                if share > 0:
                    figures[f"{style}@{row_length}"] = probe_tasks(
                        model,
                        tasks,
                        length=row_length,
                        style=style,
                        num_rows=chosen.retrieval_rows,
                        device=device,
                    )
    if held_out is not None:
        figures |= measure_perplexity(model, recipe, held_out, device)
    return figures


def measure_perplexity(
    model: PreTrainedModel, recipe: Recipe, held_out: TokenizedText, device: torch.device
) -> dict[str, float]:
    """Measure perplexity of the same target tokens with contexts of several lengths."""
    chosen = recipe.evaluation
    figures = {}
    places = context_windows(held_out.tokens, chosen.lengths, chosen.num_texts)
    for length, windows in places.items():
        nll = _mean_nll(model, windows, chosen.target_tokens, chosen.draws, device)
        figures[f"perplexity@{length}"] = math.exp(min(nll, 50.0))
    return figures


def context_windows(
    tokens: np.ndarray, lengths: Sequence[int], num_texts: int
) -> dict[int, list[list[int]]]:
    """Cut windows of several lengths that end at the same places of a text."""
    longest = max(lengths)
    if len(tokens) < longest:
        raise ValueError(
            f"evaluation: lengths ask for {longest} tokens and the held-out text has "
            f"{len(tokens)}; give a longer text or shorter lengths."
        )
    ends = [
        longest + (len(tokens) - longest) * number // max(1, num_texts - 1)
        for number in range(num_texts)
    ]
    return {length: [tokens[end - length : end].tolist() for end in ends] for length in lengths}


@torch.no_grad()
def _mean_nll(
    model: PreTrainedModel,
    windows: Sequence[list[int]],
    num_targets: int,
    draws: int,
    device: torch.device,
) -> float:
    """Return nats a token of the last tokens of each window."""
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        if not isinstance(model, BidirectionalNetwork):
            sums = []
            for window in windows:
                ids_L = torch.tensor(window, device=device)
                logits_LV = model(ids_L[None]).logits[0, -num_targets - 1 : -1].float()
                sums.append(
                    torch.nn.functional.cross_entropy(logits_LV, ids_L[-num_targets:]).item()
                )
            return sum(sums) / len(sums)

        def logits_at(
            ids_BL: torch.Tensor, positions_BP: torch.Tensor, lengths_B: torch.Tensor | None
        ) -> torch.Tensor:
            # Not the network's own, which is in inference mode: sharded weights cannot be.
            return model(ids_BL, lengths_B, positions_BP).logits

        entropies, options = entropies_from_logits(logits_at), LikelihoodOptions(num_draws=draws)
        scorer = MaskedScorer(entropies, model.config.mask_token_id, device)
        estimates = [
            scorer.draw_bound(window[:-num_targets], window[-num_targets:], options)
            for window in windows
        ]
    pooled = pool(estimates)
    return pooled.nll / pooled.num_tokens
