"""Draws which tokens of a row are masked, and computes the weighted cross entropy where they are.

Source: LLaDA, arXiv 2502.09992, section 2.1: t ~ U[0, 1], each token masked with probability t.
Differs in two ways: t may come from a low-discrepancy grid over the rows of a step (less variance),
and never below a minimum. Block diffusion (arXiv 2503.09573) draws a t for each block, packed
samples one for each of them.

Shape suffixes: L positions, N predicted positions of all rows, M hidden size, V vocabulary entries.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from opencompass_llada.finetune.packing import Row

#: Fewest tokens that are left to predict of a row whose beginning is given.
SHORTEST_END = 16


def draw_mask_ratio(
    seed: int, step: int, place: int, num_rows: int, minimum: float, *, spread: bool = True
) -> float:
    """Draw t in [minimum, 1), the mask ratio of the row at a place of a step.

    With ``spread`` the rows of a step have the points of a grid with a random offset.
    """
    rng = np.random.default_rng([seed, step, 0x7A7])
    if spread:
        offset = rng.random()
        uniform = (rng.permutation(num_rows)[place] / num_rows + offset) % 1.0
    else:
        uniform = rng.random(num_rows)[place]
    return float(minimum + (1 - minimum) * uniform)


Ratio = float | np.ndarray
"""The mask ratio of a row, or of each of its positions, float64 [L]."""


def spread_over_blocks(
    ratio: float, blocks_L: np.ndarray, minimum: float, rng: np.random.Generator, *, spread: bool
) -> np.ndarray:
    """Draw the mask ratio of each block of a row, given that of the row, float64 [L].

    ``blocks_L`` are the numbers of the positions' blocks, from 0. With ``spread`` the blocks have
    the points of a grid through the row's ratio, so that a row of one block has that ratio itself;
    else each has a ratio of its own, the first block the row's.
    """
    number = int(blocks_L[-1]) + 1
    uniform = np.full(number, (ratio - minimum) / (1 - minimum))
    if spread:
        uniform = (uniform + rng.permutation(number) / number) % 1.0
    else:
        uniform[1:] = rng.random(number - 1)
    return (minimum + (1 - minimum) * uniform)[blocks_L]


def spread_over_samples(
    ratio: float, samples_L: np.ndarray, minimum: float, rng: np.random.Generator, *, spread: bool
) -> np.ndarray:
    """Draw the mask ratio of each sample of a row, given that of the row, float64 [L].

    ``samples_L`` are the numbers of the positions' samples, from 0. With ``spread`` a row of n
    samples has one in each nth of the ratios, at the place in it that the row's ratio has in all:
    rows of n samples whose ratios are a grid then have one grid together. Else as over blocks.
    """
    if not spread:
        return spread_over_blocks(ratio, samples_L, minimum, rng, spread=False)
    number = int(samples_L[-1]) + 1
    uniform = (rng.permutation(number) + (ratio - minimum) / (1 - minimum)) / number
    return (minimum + (1 - minimum) * uniform)[samples_L]


def draw_masked(weights_L: np.ndarray, ratio: Ratio, rng: np.random.Generator) -> np.ndarray:
    """Draw which tokens of a row are masked, bool [L]; those of weight 0 never are."""
    return (rng.random(len(weights_L)) < ratio) & (weights_L > 0)


def draw_end(row_length: int, rng: random.Random) -> int:
    """Draw how many tokens at a row's end may be masked where its beginning is given.

    `SHORTEST_END` to half the row, short ends as often as long ones (log-uniform).
    """
    longest = max(SHORTEST_END, row_length // 2)
    return round(math.exp(rng.uniform(math.log(SHORTEST_END), math.log(longest))))


def keep_end(weights_L: np.ndarray, num_tokens: int) -> np.ndarray:
    """Return a row's weights with all but the last positions that have one set to 0."""
    kept = np.zeros_like(weights_L)
    last = np.flatnonzero(weights_L)[-num_tokens:]
    kept[last] = weights_L[last]
    return kept


def shorten(row: Row, num_tokens: int, pad_token_id: int) -> Row:
    """Return a row of which the first tokens are left; the others become padding."""
    length = len(row.input_ids)
    if num_tokens >= length:
        return row
    ids, weights = row.input_ids.copy(), row.weights.copy()
    ids[num_tokens:], weights[num_tokens:] = pad_token_id, 0.0
    ends = np.minimum(np.cumsum(row.spans or (length,)), num_tokens)
    spans = [int(size) for size in np.diff(ends, prepend=0) if size > 0]
    return dataclasses.replace(
        row, input_ids=ids, weights=weights, spans=(*spans, length - num_tokens)
    )


def scale_losses(weights_L: np.ndarray, ratio: Ratio, loss_weight: str) -> np.ndarray:
    """Return what a row's cross entropies are multiplied with where a token is masked.

    The row's loss is then sum_i w_i CE_i / t / sum_i w_i (``inverse_t``, Eq. 3 of LLaDA, whose mean
    over masks is the bound a token) or the same without 1/t (``none``, UltraLLaDA's Eq. 1 as
    transcribed). Every row counts alike, so that a short answer is not drowned by text.
    """
    total = weights_L.sum()
    if not total > 0:
        return np.zeros_like(weights_L)
    divisor = total * (ratio if loss_weight == "inverse_t" else 1.0)
    return (weights_L / divisor).astype(weights_L.dtype)


def scale_samples(
    weights_L: np.ndarray,
    samples_L: np.ndarray,
    ratio: Ratio,
    loss_weight: str,
    samples_per_row: float,
) -> np.ndarray:
    """Return the same for a row of several samples, each of which counts alike.

    ``samples_L`` are the numbers of the positions' samples, from 0. The row's loss is the sum of
    its samples' own (`scale_losses` of each alone), over ``samples_per_row``: the mean of all rows
    and not this row's number, by which samples of full rows would count less.
    """
    totals = np.bincount(samples_L, weights_L)[samples_L]
    divisor = np.where(totals > 0, totals, 1.0) * samples_per_row
    divisor = divisor * (ratio if loss_weight == "inverse_t" else 1.0)
    return (weights_L / divisor).astype(weights_L.dtype)


Head = Callable[[Tensor], Tensor]


def weighted_cross_entropy(
    head: Head, hidden_NM: Tensor, tokens_N: Tensor, scale_N: Tensor, chunk: int
) -> Tensor:
    """Return the weighted sum of cross entropies of the predicted positions, a float32 scalar.

    Logits of only ``chunk`` positions exist at any time, made again in the backward pass: those of
    131,072 tokens of LLaDA's vocabulary would take 33 GB in 16 bit.
    """
    if len(tokens_N) <= chunk:
        return _sum(head, hidden_NM, tokens_N, scale_N)
    parts = [
        checkpoint(_sum, head, *part, use_reentrant=False)
        for part in zip(
            hidden_NM.split(chunk), tokens_N.split(chunk), scale_N.split(chunk), strict=True
        )
    ]
    return torch.stack(parts).sum()


def _sum(head: Head, hidden_NM: Tensor, tokens_N: Tensor, scale_N: Tensor) -> Tensor:
    logits_NV = head(hidden_NM).float()
    entropies_N = F.cross_entropy(logits_NV, tokens_N, reduction="none")
    return (entropies_N * scale_N).sum()
