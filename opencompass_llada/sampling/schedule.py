"""Arithmetic of a generation: blocks, steps in a block, tokens revealed at each step.

The published rule (``_sample`` in generation_utils.py of Dream-org/Dream-v0-Instruct-7B): times run
from 1 to eps in equal steps, and from time t to s each masked token is revealed with probability 1
- s/t. In float32 as there, since its roundings decide the numbers.

Knows numbers only, no model. Which tokens a step reveals is decided in ``acceptance.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


SCHEDULES = ("even", "timesteps")


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """How one generation is cut into blocks and steps; every block gets the same share."""

    generation_length: int
    """Tokens that the caller asked for and gets."""

    padded_length: int
    """Tokens that are generated: ``generation_length`` rounded up to whole blocks."""

    block_length: int
    """Tokens in a block."""

    num_blocks: int
    """Blocks, finished from left to right."""

    steps_per_block: int
    """Denoising steps in each block."""

    timestep_eps: float | None = None
    """Where the timesteps of a block end; None spreads its reveals evenly instead."""

    @property
    def num_steps(self) -> int:
        """Denoising steps of the whole generation."""
        return self.num_blocks * self.steps_per_block

    @property
    def surplus(self) -> int:
        """Tokens generated beyond ``generation_length``, which are cut from the result."""
        return self.padded_length - self.generation_length


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """What is planned for one denoising step of a block."""

    index: int
    """The step's number in its block, from 0."""

    num_steps: int
    """Denoising steps of the block."""

    num_scheduled: int
    """Positions to reveal; more than are left where a rule was ahead of the schedule."""

    reveal_probability: float
    """Share of the masked positions to reveal; 1 at the last step."""


class BlockSettings(Protocol):
    """What of a sampler's settings decides its blocks and steps."""

    @property
    def generation_length(self) -> int:
        """Tokens asked for."""
        ...

    @property
    def block_length(self) -> int | None:
        """Tokens in a block; None for one block."""
        ...

    @property
    def num_steps(self) -> int | None:
        """Denoising steps of the whole generation; None for one a token."""
        ...

    @property
    def resolved_schedule(self) -> str:
        """One of `SCHEDULES`."""
        ...

    @property
    def resolved_timestep_eps(self) -> float | None:
        """Where the timesteps end; None for even reveals."""
        ...


def plan_blocks(config: BlockSettings) -> BlockPlan:
    """Cut a generation into blocks and steps.

    Five tokens with ``block_length=2`` are generated as six in three blocks; ``num_steps=3`` is
    one step of two tokens in each block, and the sixth token is cut from the result.

    Args:
        config: The settings; ``num_steps=None`` means one token at each step.

    Returns:
        The plan.

    Raises:
        ValueError: If ``num_steps`` does not fit the blocks; the nearest values that do are named.
    """
    block_length = config.block_length or config.generation_length
    num_blocks = count_blocks(config.generation_length, block_length)
    padded_length = num_blocks * block_length
    num_steps = padded_length if config.num_steps is None else config.num_steps
    _check_num_steps(num_steps, num_blocks, block_length, config)
    return BlockPlan(
        generation_length=config.generation_length,
        padded_length=padded_length,
        block_length=block_length,
        num_blocks=num_blocks,
        steps_per_block=num_steps // num_blocks,
        timestep_eps=config.resolved_timestep_eps,
    )


def count_blocks(generation_length: int, block_length: int) -> int:
    """Return how many blocks hold ``generation_length`` tokens, the last one rounded up.

    Args:
        generation_length: Tokens asked for, at least 1.
        block_length: Tokens in a block, at least 1.

    Returns:
        The number of blocks, at least 1.
    """
    return -(-generation_length // block_length)


def cap_steps(num_steps: int, generation_length: int, block_length: int | None) -> int:
    """Return the largest number of steps that fits a generation and is at most ``num_steps``.

    For callers that have one step budget and many generation lengths, such as OpenCompass data
    sets with their own ``max_out_len``: the budget is capped for each call and the result goes
    into a new config, so that one short data set leaves the next one's steps alone. A step
    reveals at least one token, so the padded length is the cap; the result is then lowered to a
    multiple of the blocks, and is never lower than one step a block. Asked for 512, 32 and 512
    tokens with 512 steps and blocks of 64, it gives 512, 64 and 512.

    Args:
        num_steps: The step budget, at least 1.
        generation_length: Tokens to generate, at least 1.
        block_length: Tokens in a block, at least 1; None for one block.

    Returns:
        A ``num_steps`` that :func:`plan_blocks` accepts. It is more than the budget only if the
        budget is less than one step a block.

    Raises:
        ValueError: If an argument is below 1.
    """
    block_length = generation_length if block_length is None else block_length
    given = {
        "num_steps": num_steps,
        "generation_length": generation_length,
        "block_length": block_length,
    }
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1; use a positive number")
    num_blocks = count_blocks(generation_length, block_length)
    capped = min(num_steps, num_blocks * block_length)
    return max(capped - capped % num_blocks, num_blocks)


def plan_steps(plan: BlockPlan) -> tuple[StepPlan, ...]:
    """Plan the steps of one block; every block has the same.

    Args:
        plan: Blocks and steps.

    Returns:
        ``plan.steps_per_block`` steps whose scheduled reveals add up to the block.
    """
    num_steps, left = plan.steps_per_block, plan.block_length
    if plan.timestep_eps is None:
        reveals, shares = reveals_per_step(left, num_steps), None
    else:
        shares = timestep_shares(num_steps, plan.timestep_eps)
        reveals = reveals_at_timesteps(left, shares)
    steps = []
    for index, num_scheduled in enumerate(reveals):
        steps.append(
            StepPlan(
                index=index,
                num_steps=num_steps,
                num_scheduled=num_scheduled,
                reveal_probability=num_scheduled / left if shares is None else shares[index],
            )
        )
        left -= num_scheduled
    return tuple(steps)


def reveals_per_step(num_masked: int, num_steps: int) -> tuple[int, ...]:
    """Spread the reveals of a block evenly over its steps, the remainder on the first steps.

    Five masked tokens in three steps are revealed as 2, 2, 1. LLaDA's noise schedule is linear,
    so that the expected number of tokens is the same at every step (LLaDA, arXiv:2502.09992,
    equation 8; ``get_num_transfer_tokens`` in github.com/ML-GSAI/LLaDA, generate.py).

    Args:
        num_masked: Masked tokens at the start of the block.
        num_steps: Denoising steps, at least 1.

    Returns:
        ``num_steps`` numbers that add up to ``num_masked``.
    """
    base, remainder = divmod(num_masked, num_steps)
    return tuple(base + (step < remainder) for step in range(num_steps))


def _check_num_steps(
    num_steps: int, num_blocks: int, block_length: int, config: BlockSettings
) -> None:
    blocks = (
        f"the {num_blocks} blocks (generation_length={config.generation_length} in blocks of "
        f"block_length={block_length})"
    )
    largest = num_blocks * block_length
    if num_steps < num_blocks:
        raise ValueError(
            f"num_steps={num_steps} must be at least one for each of {blocks}; use {num_blocks}"
        )
    if num_steps > largest and config.resolved_schedule == "even":
        raise ValueError(
            f"num_steps={num_steps} must be at most one for each token of {blocks}, a further "
            f"step would reveal nothing; the largest useful value is {largest}"
        )
    if num_steps % num_blocks:
        below = num_steps - num_steps % num_blocks
        raise ValueError(
            f"num_steps={num_steps} must be a multiple of {blocks}; "
            f"use {below} or {below + num_blocks}"
        )
