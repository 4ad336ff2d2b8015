"""A deliberately naive sampler by Dream's rules, for one row: Python loops and lists.

Written from the published description of ``diffusion_generate``, for comparison with the package's
sampler; it shares no code with it and imports nothing of the package. Slow on purpose.

Order of the random stream, for one row: the generator is ``torch.Generator().manual_seed(seed)``.
At each step, let the positions of the active block that are not revealed yet be counted from left
to right. With temperature > 0, first ``positions * vocabulary`` float64 uniforms are drawn, all of
the first position's, then all of the second's, and so on. Then, with ``origin`` or alg_temp > 0,
one float64 uniform for each position, from left to right. A token is drawn as the winner of an
exponential race, and so are positions with alg_temp; with ``origin`` a position is revealed if its
uniform is among the highest 1 - s/t of [0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def naive_dream_generate(
    full_logits: Callable[[list[int]], list[list[float]]],
    prompt: list[int],
    *,
    generation_length: int,
    num_steps: int,
    mask_id: int,
    alg: str,
    block_length: int | None = None,
    eps: float = 1e-3,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    alg_temp: float = 0.0,
    seed: int = 0,
) -> tuple[list[int], int]:
    """Return the generated ids of one prompt and how often ``full_logits`` was called."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> list[float]:
        return torch.rand(count, generator=generator, dtype=torch.float64).tolist()

    size = block_length or generation_length
    num_blocks = math.ceil(generation_length / size)
    row = list(prompt) + [mask_id] * (num_blocks * size)
    steps = num_steps // num_blocks
    times = [1 - (1 - eps) * i / steps for i in range(steps + 1)]
    calls = 0
    for block in range(num_blocks):
        first = len(prompt) + block * size
        hidden = list(range(first, first + size))
        for step in range(steps):
            if not hidden:
                break
            share = 1 - times[step + 1] / times[step] if step < steps - 1 else 1.0
            logits = full_logits(row)
            calls += 1
            tokens, confidences = {}, {}
            uniforms = draw(len(hidden) * len(logits[0])) if temperature > 0 else []
            for order, position in enumerate(hidden):
                kept = _kept(logits[position], temperature, top_p, top_k)
                best = max(kept, key=lambda token: (kept[token], -token))
                if temperature > 0:
                    start = order * len(logits[0])
                    race = {v: -math.log(uniforms[start + v]) / p for v, p in kept.items()}
                    best = min(race, key=lambda token: race[token])
                tokens[position] = best
                confidences[position] = _confidence(alg, kept, best)
            if alg == "origin":
                lots = draw(len(hidden))
                chosen = [p for p, u in zip(hidden, lots, strict=True) if u >= 1 - share]
            else:
                count = int(len(hidden) * share)
                ranks = {position: -confidences[position] for position in hidden}
                if alg_temp > 0:
                    lots = draw(len(hidden))
                    weights = {p: math.exp(confidences[p] / alg_temp) for p in hidden}
                    ranks = {
                        p: -math.log(u) / weights[p] for p, u in zip(hidden, lots, strict=True)
                    }
                chosen = sorted(hidden, key=lambda position: (ranks[position], position))[:count]
            for position in chosen:
                row[position] = tokens[position]
                hidden.remove(position)
    return row[len(prompt) : len(prompt) + generation_length], calls


def _kept(
    logits: list[float], temperature: float, top_p: float | None, top_k: int | None
) -> dict[int, float]:
    """Return token -> probability after temperature, top-p and then top-k."""
    scaled = [value / temperature if temperature > 0 else value for value in logits]
    chances = _softmax(dict(enumerate(scaled)))
    if top_p is not None:
        kept, mass = {}, 0.0
        for token in sorted(chances, key=lambda token: (-chances[token], token)):
            if mass > top_p:
                break
            kept[token] = scaled[token]
            mass += chances[token]
        chances = _softmax(kept)
    if top_k is not None and top_k < len(chances):
        least = sorted(chances.values(), reverse=True)[top_k - 1]
        chances = _softmax({token: scaled[token] for token in chances if chances[token] >= least})
    return chances


def _softmax(values: dict[int, float]) -> dict[int, float]:
    largest = max(values.values())
    weights = {token: math.exp(value - largest) for token, value in values.items()}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def _confidence(alg: str, chances: dict[int, float], token: int) -> float:
    if alg == "maskgit_plus":
        return chances[token]
    if alg == "topk_margin":
        ranked = sorted(chances.values(), reverse=True) + [0.0]
        return ranked[0] - ranked[1]
    return sum(p * math.log(p) for p in chances.values() if p > 0)
