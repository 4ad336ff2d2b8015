"""A deliberately naive sampler for one row: Python loops and lists, full-sequence logits.

Written from the description of LLaDA's generation, for comparison with the package's sampler; it
shares no code with it and imports nothing of the package. Slow on purpose.

Order of the random stream, for one row: the generator is ``torch.Generator().manual_seed(seed)``.
At each step, let the positions of the active block that are not revealed yet be counted from left
to right. With temperature > 0, first ``positions * vocabulary`` float64 uniforms are drawn, all of
the first position's, then all of the second's, and so on. Then, with random remasking, one float64
uniform is drawn for each position, from left to right. Nothing else draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def naive_generate(
    full_logits: Callable[[list[int]], list[list[float]]],
    prompt: list[int],
    *,
    generation_length: int,
    block_length: int,
    num_steps: int,
    mask_id: int,
    eos_id: int,
    eot_id: int,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    never_eos: bool = False,
    eos_last: bool = False,
    variable_length: bool = False,
    seed: int = 0,
) -> tuple[list[int], int]:
    """Return the generated ids of one prompt and how often ``full_logits`` was called.

    Of variable length, a row gets the masks of a block when its turn comes, and none after a
    finished block with an end token; the ids are filled with EOS behind the first end token.
    """
    generator = torch.Generator().manual_seed(seed)
    num_blocks = math.ceil(generation_length / block_length)
    steps_per_block = num_steps // num_blocks
    row, calls = list(prompt), 0
    if not variable_length:
        row += [mask_id] * (num_blocks * block_length)
    for block in range(num_blocks):
        if variable_length:
            if eos_id in row[len(prompt) :] or eot_id in row[len(prompt) :]:
                break
            row += [mask_id] * block_length
        first = len(prompt) + block * block_length
        hidden = list(range(first, first + block_length))
        for step in range(steps_per_block):
            quota = block_length // steps_per_block
            if step < block_length % steps_per_block:
                quota += 1
            logits = full_logits(row)
            calls += 1
            if cfg_scale > 0:
                blind = full_logits([mask_id] * len(prompt) + row[len(prompt) :])
                calls += 1
                for position in range(len(row)):
                    for token in range(len(logits[position])):
                        with_prompt = logits[position][token]
                        without = blind[position][token]
                        logits[position][token] = without + (cfg_scale + 1) * (
                            with_prompt - without
                        )
            if never_eos:
                for position in range(len(row)):
                    logits[position][eos_id] = -math.inf
            predicted = _predict(logits, hidden, temperature, generator)
            scores = {}
            if remasking == "random":
                drawn = torch.rand(len(hidden), generator=generator, dtype=torch.float64).tolist()
                scores = dict(zip(hidden, drawn, strict=True))
            else:
                banned = {eos_id, eot_id} if eos_last else set()
                for position in hidden:
                    scores[position] = _probability(logits[position], predicted[position], banned)
            best_first = sorted(hidden, key=lambda position: (-scores[position], position))
            for position in best_first[:quota]:
                row[position] = predicted[position]
                hidden.remove(position)
    answer = row[len(prompt) :]
    if variable_length:
        ends = [place for place, token in enumerate(answer) if token in (eos_id, eot_id)]
        kept = answer[: ends[0] + 1] if ends else answer
        answer = kept + [eos_id] * (generation_length - len(kept))
    return answer[:generation_length], calls


def _predict(
    logits: list[list[float]], hidden: list[int], temperature: float, generator: torch.Generator
) -> dict[int, int]:
    vocabulary = len(logits[0])
    stream: list[float] = []
    if temperature > 0:
        total = len(hidden) * vocabulary
        stream = torch.rand(total, generator=generator, dtype=torch.float64).tolist()
    predicted = {}
    for order, position in enumerate(hidden):
        best_token, best_value = -1, -math.inf
        for token in range(vocabulary):
            value = logits[position][token]
            if temperature > 0:
                uniform = stream[order * vocabulary + token]
                value = math.exp(value) / (-math.log(uniform)) ** temperature
            if value > best_value:
                best_token, best_value = token, value
        predicted[position] = best_token
    return predicted


def _probability(logits: list[float], token: int, banned: set[int]) -> float:
    if token in banned:
        return 0.0
    largest = max(value for other, value in enumerate(logits) if other not in banned)
    total = 0.0
    for other, value in enumerate(logits):
        if other not in banned:
            total += math.exp(value - largest)
    return math.exp(logits[token] - largest) / total
