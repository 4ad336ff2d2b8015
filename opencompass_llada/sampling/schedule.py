"""Plans a generation: its blocks, the steps of a block, and how many tokens a step reveals."""

from __future__ import annotations

from dataclasses import dataclass

import torch

SCHEDULES = ("even", "timesteps")


def count_blocks(generation_length: int, block_length: int) -> int:
    """Return how many blocks hold the tokens, the last one rounded up."""
    return -(-generation_length // block_length)


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """How one generation is cut into blocks and steps; every block gets the same share.

    Five tokens in blocks of 2 are six in three blocks, of which the last is cut from the result.
    """

    generation_length: int
    """Tokens that the caller asked for and gets."""
    block_length: int
    num_steps: int
    """Of the whole generation."""
    timestep_eps: float | None = None
    """Where the timesteps of a block end; None spreads its reveals evenly instead."""

    def __post_init__(self) -> None:
        """Check that the steps fit the blocks."""
        steps, blocks = self.num_steps, self.num_blocks
        named = (
            f"the {blocks} blocks (generation_length={self.generation_length} in blocks of "
            f"block_length={self.block_length})"
        )
        if steps < blocks:
            raise ValueError(
                f"num_steps={steps} must be at least one for each of {named}; use {blocks}"
            )
        if steps > self.padded_length and self.timestep_eps is None:
            raise ValueError(
                f"num_steps={steps} must be at most one for each token of {named}, a further "
                f"step would reveal nothing; the largest useful value is {self.padded_length}"
            )
        if steps % blocks:
            below = steps - steps % blocks
            raise ValueError(
                f"num_steps={steps} must be a multiple of {named}; use {below} or {below + blocks}"
            )

    @property
    def num_blocks(self) -> int:
        """Of which the last one is rounded up."""
        return count_blocks(self.generation_length, self.block_length)

    @property
    def padded_length(self) -> int:
        """Tokens that are generated: whole blocks."""
        return self.num_blocks * self.block_length

    @property
    def steps_per_block(self) -> int:
        """Denoising steps in each block."""
        return self.num_steps // self.num_blocks


@dataclass(frozen=True)
class StepPlan:
    """What is planned for one denoising step of a block."""

    index: int
    """The step's number in its block, from 0."""
    num_scheduled: int
    """Positions to reveal; more than are left where a rule was ahead of the schedule."""
    reveal_probability: float
    """Share of the masked positions to reveal; 1 at the last step."""


def plan_steps(plan: BlockPlan) -> tuple[StepPlan, ...]:
    """Plan the steps of one block, whose reveals add up to it; all blocks have the same."""
    num_steps, left, shares = plan.steps_per_block, plan.block_length, None
    if plan.timestep_eps is None:
        reveals = reveals_per_step(left, num_steps)
    else:
        shares = timestep_shares(num_steps, plan.timestep_eps)
        reveals = reveals_at_timesteps(left, shares)
    steps = []
    for index, number in enumerate(reveals):
        share = number / left if shares is None else shares[index]
        steps.append(StepPlan(index, number, share))
        left -= number
    return tuple(steps)


def reveals_per_step(num_masked: int, num_steps: int) -> tuple[int, ...]:
    """Spread the reveals of a block evenly over its steps, five in three steps as 2, 2, 1.

    LLaDA's noise schedule is linear, so that the expected number of tokens is the same at every
    step (arXiv:2502.09992, equation 8; ``get_num_transfer_tokens`` of its generate.py).
    """
    base, remainder = divmod(num_masked, num_steps)
    return tuple(base + (step < remainder) for step in range(num_steps))


def timestep_shares(num_steps: int, eps: float) -> tuple[float, ...]:
    """Return the share of masked tokens that each of Dream's timesteps reveals.

    Times run from 1 to eps in equal steps, and from time t to s each masked token is revealed with
    probability 1 - s/t (``_sample`` in generation_utils.py of Dream-org/Dream-v0-Instruct-7B); in
    float32 as there, since its roundings decide the numbers. Two steps and eps 0.1 have the shares
    0.45 and 1: the last step reveals everything.
    """
    times = torch.linspace(1, eps, num_steps + 1, dtype=torch.float32, device="cpu")
    shares = 1 - times[1:] / times[:-1]
    return (*shares[:-1].tolist(), 1.0)


def reveals_at_timesteps(num_masked: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """Round the timesteps' shares down to tokens; the last step reveals what is left.

    Four masked tokens in four steps with eps 0.001 are revealed as 0, 1, 1, 2: as published, the
    first step falls a thousandth short of a token and costs a pass all the same.
    """
    reveals = []
    for share in shares:
        reveals.append(int(torch.tensor(share, dtype=torch.float32) * num_masked))
        num_masked -= reveals[-1]
    return tuple(reveals)


def cap_steps(num_steps: int, generation_length: int, block_length: int | None) -> int:
    """Return the largest number of steps that fits a generation and is at most ``num_steps``.

    512, 32 and 512 tokens with 512 steps and blocks of 64 give 512, 64 and 512: a step reveals at
    least one token, and every block takes at least one step, whatever the budget.
    """
    block_length = generation_length if block_length is None else block_length
    if min(num_steps, generation_length, block_length) < 1:
        raise ValueError(
            f"num_steps={num_steps}, generation_length={generation_length} and block_length="
            f"{block_length} must be at least 1; use a positive number"
        )
    num_blocks = count_blocks(generation_length, block_length)
    capped = min(num_steps, num_blocks * block_length)
    return max(capped - capped % num_blocks, num_blocks)
