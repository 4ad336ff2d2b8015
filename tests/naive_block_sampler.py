"""A deliberately naive sampler of a block-causal network, for one row: Python loops and lists.

Written from SDAR's generate.py (``block_diffusion_generate``) and LLaDA2's ``generate``, which make
the same passes, for comparison with the package's sampler; it shares no code with it and imports
nothing of the package. Nothing is cached: every pass runs the row up to the active block's end.
``entropy_bounded`` does what SDAR's lines mean (as they stand they raise UnboundLocalError).

Order of the random stream, for one row: the generator is ``torch.Generator().manual_seed(seed)``.
At each step with temperature > 0 ``masked positions * vocabulary`` float64 uniforms are drawn, all
of the first masked position's, then all of the second's, and so on. A token is drawn as the winner
of an exponential race.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def naive_block_generate(
    full_logits: Callable[[list[int]], list[list[float]]],
    prompt: list[int],
    *,
    generation_length: int,
    block_length: int,
    steps_per_block: int,
    mask_id: int,
    strategy: str,
    bound: float = 0.85,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> tuple[list[int], int]:
    """Return the generated ids of one prompt and the passes that they take here.

    The published samplers make one more for each finished block that another follows; here the
    next block's first pass does its work.

    The prompt's whole blocks take one.
    """
    generator = torch.Generator().manual_seed(seed)
    num_blocks = math.ceil((len(prompt) + generation_length) / block_length)
    row = list(prompt) + [mask_id] * (num_blocks * block_length - len(prompt))
    passes = 1 if len(prompt) >= block_length else 0
    for block in range(len(prompt) // block_length, num_blocks):
        first, end = block * block_length, (block + 1) * block_length
        hidden = [position for position in range(first, end) if position >= len(prompt)]
        for step in range(steps_per_block):
            if not hidden:
                break
            quota = block_length // steps_per_block + (step < block_length % steps_per_block)
            logits = full_logits(row[:end])
            passes += 1
            tokens, chances = {}, {}
            uniforms: list[float] = []
            if temperature > 0:
                total = len(hidden) * len(logits[0])
                uniforms = torch.rand(total, generator=generator, dtype=torch.float64).tolist()
            for order, position in enumerate(hidden):
                kept = _kept(logits[position], temperature, top_k, top_p)
                token = max(kept, key=lambda token: (kept[token], -token))
                if temperature > 0:
                    start = order * len(logits[0])
                    race = {v: -math.log(uniforms[start + v]) / p for v, p in kept.items()}
                    token = min(race, key=lambda token: race[token])
                tokens[position], chances[position] = token, kept[token]
            for position in _chosen(strategy, hidden, chances, quota, bound):
                row[position] = tokens[position]
                hidden.remove(position)
    return row[len(prompt) : len(prompt) + generation_length], passes


def _chosen(
    strategy: str, hidden: list[int], chances: dict[int, float], quota: int, bound: float
) -> list[int]:
    if strategy == "sequential":
        return hidden[:quota]
    if strategy == "entropy_bounded":
        values = {position: -chances[position] * math.log(chances[position]) for position in hidden}
        order = sorted(hidden, key=lambda position: (values[position], position))
        count = 0
        while count < len(order) and sum(values[p] for p in order[: count + 1]) < bound:
            count += 1
        return order[: max(count, 1)]
    surest = sorted(hidden, key=lambda position: (-chances[position], position))
    if strategy == "low_confidence_dynamic":
        high = [position for position in surest if chances[position] > bound]
        if len(high) >= quota:
            return high
    return surest[:quota]


def _kept(logits: list[float], temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """Return token -> probability after temperature and top-k or top-p."""
    chances = _softmax({v: value / (temperature or 1.0) for v, value in enumerate(logits)})
    ranked = sorted(chances, key=lambda token: (-chances[token], token))
    if top_k > 0:
        ranked = ranked[:top_k]
    if top_p < 1.0:
        before = [sum(chances[token] for token in ranked[:rank]) for rank in range(len(ranked))]
        ranked = [token for token, mass in zip(ranked, before, strict=True) if mass <= top_p]
    mass = sum(chances[token] for token in ranked)
    return {token: chances[token] / mass for token in ranked}


def _softmax(values: dict[int, float]) -> dict[int, float]:
    largest = max(values.values())
    weights = {token: math.exp(value - largest) for token, value in values.items()}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}
