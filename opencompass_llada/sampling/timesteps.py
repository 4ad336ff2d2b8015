"""Dream's timesteps: what share of the masked tokens each step reveals, and how many that is.

The published rule (``_sample`` in generation_utils.py of Dream-org/Dream-v0-Instruct-7B): times run
from 1 to eps in equal steps, and from time t to s each masked token is revealed with probability
1 - s/t. In float32 as there, since its roundings decide the numbers.
"""

from __future__ import annotations

import torch


def timestep_shares(num_steps: int, eps: float) -> tuple[float, ...]:
    """Return the share of masked tokens that each of Dream's timesteps reveals.

    Two steps and eps 0.1 have the times 1, 0.55 and 0.1 and the shares 0.45 and 1: the last step
    reveals everything.

    Args:
        num_steps: Denoising steps, at least 1.
        eps: The last time, from 0 to below 1.

    Returns:
        ``num_steps`` shares.
    """
    times = torch.linspace(1, eps, num_steps + 1, dtype=torch.float32, device="cpu")
    shares = 1 - times[1:] / times[:-1]
    return (*shares[:-1].tolist(), 1.0)


def reveals_at_timesteps(num_masked: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """Round the timesteps' shares down to tokens; the last step reveals what is left.

    Four masked tokens in four steps with eps 0.001 are revealed as 0, 1, 1, 2: with one step a
    token the first step of the published rule falls a thousandth short of a token, reveals
    nothing, and costs a pass all the same.

    Args:
        num_masked: Masked tokens at the start of the block.
        shares: Of :func:`timestep_shares`.

    Returns:
        As many numbers as shares, which add up to ``num_masked``.
    """
    reveals = []
    for share in shares:
        reveals.append(int(torch.tensor(share, dtype=torch.float32) * num_masked))
        num_masked -= reveals[-1]
    return tuple(reveals)
