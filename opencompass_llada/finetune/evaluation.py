"""Measures a network while it trains: held-out task rows and perplexity.

Leads for the log, not results: few samples, no sampler, argmax at all answer positions (for an
autoregressive network with the true answer before each, for a block-causal one before each block).
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from opencompass_llada.finetune.measurement import Measurement
from opencompass_llada.finetune.packing import Row, TokenizedText
from opencompass_llada.finetune.recipe import Evaluation, Recipe
from opencompass_llada.finetune.rows import TrainingData
from opencompass_llada.likelihood import (
    CausalScorer,
    Estimate,
    LikelihoodOptions,
    MaskedScorer,
    entropies_from_logits,
    pool,
)
from opencompass_llada.likelihood.masks import MaskSet
from opencompass_llada.likelihood.scorers import EntropyFunction, cross_entropy, target_generator
from opencompass_llada.networks import BidirectionalNetwork
from opencompass_llada.networks.attention_pattern import Blocks
from opencompass_llada.networks.doubled import noisy_states
from opencompass_llada.networks.transformer import take

logger = logging.getLogger(__name__)

_TOKENS_AT_ONCE = 65536


def _percent_right(model: PreTrainedModel, rows: Sequence[Row], device: torch.device) -> float:
    """Measure how many rows have every answer token right; the error is <= 50 / sqrt(rows)."""
    size = max(1, _TOKENS_AT_ONCE // len(rows[0].input_ids))
    right = [_answers_right(model, rows[n : n + size], device) for n in range(0, len(rows), size)]
    return 100.0 * torch.cat(right).float().mean().item()


def _answers_right(model: PreTrainedModel, rows: Sequence[Row], device: torch.device) -> Tensor:
    ids_BL = torch.from_numpy(np.stack([row.input_ids for row in rows])).to(device)
    weights_BL = torch.from_numpy(np.stack([row.weights for row in rows])).to(device)
    given_BL = ids_BL
    is_diffusion = isinstance(model, BidirectionalNetwork)
    if is_diffusion:
        given_BL = torch.where(weights_BL > 0, model.config.mask_token_id, ids_BL)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        if isinstance(model, BidirectionalNetwork) and isinstance(model.attention_pattern, Blocks):
            block_length = model.attention_pattern.block_length
            states_BLM = noisy_states(model, ids_BL, given_BL, block_length)
            predicted_BL = model.get_output_embeddings()(states_BLM).argmax(-1)
        else:
            predicted_BL = model(given_BL).logits.argmax(-1)
    if not is_diffusion:  # position i's logits are of token i + 1
        predicted_BL = predicted_BL.roll(1, -1)
    wrong_BL = (predicted_BL != ids_BL) & (weights_BL == 1.0)
    return ~wrong_BL.any(-1)


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    recipe: Recipe,
    data: TrainingData,
    length: int,
    device: torch.device,
    *,
    is_last: bool = False,
) -> Measurement:
    """Measure the network: figures by name, of the rows' length where the recipe gives none.

    At the last step perplexity is measured again, with ``evaluation.final_draws``.
    """
    figures: dict[str, float] = {}
    chosen, tasks = recipe.evaluation, data.tasks
    if tasks is not None and chosen.retrieval_rows:
        styles = [name for name, share in (recipe.retrieval_styles or {}).items() if share > 0]
        for row_length, style in itertools.product(chosen.retrieval_lengths or (length,), styles):
            rng = random.Random(f"probe-{row_length}-{style}")
            rows = [
                tasks.make(row_length, rng, evaluation=True, style=style)
                for _ in range(chosen.retrieval_rows)
            ]
            figures[f"{style}@{row_length}"] = _percent_right(model, rows, device)
    if data.held_out is None:
        return Measurement(figures)
    measured = measure_perplexity(model, recipe, data.held_out, device, chosen.draws)
    figures |= measured.figures
    if is_last and measured.draws and chosen.final_draws > chosen.draws:
        final = measure_perplexity(model, recipe, data.held_out, device, chosen.final_draws)
        figures |= {f"final_{name}": value for name, value in final.figures.items()}
    return Measurement(figures, measured.draws)


@torch.no_grad()
def measure_perplexity(
    model: PreTrainedModel,
    recipe: Recipe,
    held_out: TokenizedText,
    device: torch.device,
    num_draws: int,
) -> Measurement:
    """Measure perplexity of the same target tokens with contexts of several lengths.

    The standard error is that of the masks drawn, not of the choice of the texts.
    """
    chosen, end = recipe.evaluation, -recipe.evaluation.target_tokens
    places = context_windows(held_out.tokens, chosen.lengths, chosen.num_texts)
    score, options = _scorer(model, device), LikelihoodOptions(num_draws=num_draws)
    figures: dict[str, float] = {}
    draws: tuple[float, ...] = ()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for length in sorted(places):  # the draws that are left are those of the longest
            scores = [score(ids[:end], ids[end:], options) for ids in places[length]]
            pooled = pool([estimate for estimate, _ in scores])
            perplexity = math.exp(min(pooled.nll_per_token, 50.0))
            figures[f"perplexity@{length}"] = perplexity
            figures[f"perplexity_error@{length}"] = perplexity * pooled.standard_error
            draws = tuple(value for _, values in scores for value in values)
    return Measurement(figures, draws)


Score = Callable[[list[int], list[int], LikelihoodOptions], tuple[Estimate, list[float]]]


def _scorer(model: PreTrainedModel, device: torch.device) -> Score:
    """Return what estimates the nats of a target after a prefix, exactly or by its bound.

    And, of a bound, the nats a token of each draw.

    The logits are not those of the engines, in inference mode: sharded weights cannot be.
    """

    def logits_at(ids_BL: Tensor, positions_BP: Tensor, lengths_B: Tensor | None) -> Tensor:
        if isinstance(model, BidirectionalNetwork):
            return model(ids_BL, lengths_B, positions_BP).logits
        return model(ids_BL).logits[:, positions_BP[0]]

    if not isinstance(model, BidirectionalNetwork):
        exact = CausalScorer(logits_at, device)
        return lambda prefix, target, options: (exact.score(prefix, target, options), [])
    entropies = entropies_from_logits(logits_at)
    if isinstance(model.attention_pattern, Blocks):
        entropies = _block_entropies(model, model.attention_pattern.block_length)
    scorer = MaskedScorer(entropies, model.config.mask_token_id, device)

    def score(
        prefix: list[int], target: list[int], options: LikelihoodOptions
    ) -> tuple[Estimate, list[float]]:
        generator = target_generator(target, options, None)
        masks = MaskSet.draw(len(target), options.draws, generator)
        sums = scorer.masked_sums(prefix, target, masks.masks, options.batch_size)
        counts = map(len, masks.masks)
        values = [value / count for value, count in zip(sums, counts, strict=True)]
        return masks.estimate(sums), values

    return score


def _block_entropies(model: BidirectionalNetwork, block_length: int) -> EntropyFunction:
    """Make cross entropies of masked tokens given the clean blocks before theirs.

    Masks drawn over a whole target mask each of its blocks in an order as random as if it were
    drawn alone, so that their mean is the sum of the blocks' bounds.
    """

    def entropies(ids_BL: Tensor, positions_BP: Tensor, targets_BP: Tensor) -> Tensor:
        clean_BL = ids_BL.scatter(1, positions_BP, targets_BP)
        states_BLM = noisy_states(model, clean_BL, ids_BL, block_length)
        logits_BPV = model.get_output_embeddings()(take(states_BLM, positions_BP))
        return cross_entropy(logits_BPV, targets_BP)

    return entropies


def context_windows(
    tokens: np.ndarray, lengths: Sequence[int], num_texts: int
) -> dict[int, list[list[int]]]:
    """Cut windows of several lengths that end at the same places of a text.

    There are fewer than ``num_texts`` where the text has fewer places: a window that stood for two
    texts would have the same masks in both, and the error of one.
    """
    ends = _window_ends(len(tokens), max(lengths), num_texts)
    return {length: [tokens[end - length : end].tolist() for end in ends] for length in lengths}


def check_windows(num_tokens: int, evaluation: Evaluation) -> None:
    """Refuse a held-out text that is too short, and warn of one with fewer places than asked for.

    ``num_tokens`` is the length of the text.
    """
    longest, asked = max(evaluation.lengths), evaluation.num_texts
    number = len(_window_ends(num_tokens, longest, asked))
    if number < asked:
        logger.warning(
            f"evaluation: num_texts={asked}: the held-out text has {number} places for windows of "
            f"{longest} tokens, so that as many are measured. Give a longer text for more."
        )


def _window_ends(num_tokens: int, longest: int, num_texts: int) -> list[int]:
    """Return where windows end that are spread over a text, each place once."""
    if num_tokens < longest:
        raise ValueError(
            f"evaluation: lengths ask for {longest} tokens and the held-out text has "
            f"{num_tokens}; give a longer text or shorter lengths."
        )
    places = (num_tokens - longest) * np.arange(num_texts) // max(1, num_texts - 1)
    return [longest + int(place) for place in np.unique(places)]
