"""The denoising loop: all blocks, one block, one step.

Which logits, which tokens and which reveals are the business of the parts that it is given
(``forward.py``, ``prediction.py``, ``acceptance.py``); the loop only keeps the books. It reads the
device once a block, and once a step under a rule that decides the number of reveals itself.

Shape letters: B rows, L row length, K block length, P masked positions of the active block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opencompass_llada.sampling.acceptance import AcceptanceRule, StepContext
from opencompass_llada.sampling.canvas import BlockState, Canvas, open_block, write_tokens
from opencompass_llada.sampling.early_stop import EarlyStop
from opencompass_llada.sampling.forward import ForwardPolicy
from opencompass_llada.sampling.prediction import Predictor
from opencompass_llada.sampling.progress import Progress
from opencompass_llada.sampling.schedule import BlockPlan, StepPlan, plan_steps


@dataclass(frozen=True, kw_only=True)
class DenoisingParts:
    """What the loop is put together from."""

    forward: ForwardPolicy
    """Gives logits at the masked positions."""

    predictor: Predictor
    """Gives tokens and scores."""

    rule: AcceptanceRule
    """Chooses what is revealed."""

    progress: Progress
    """Is told of every step."""

    early_stop: EarlyStop | None = None
    """Tells when the rest cannot change the answers; None goes on to the end."""


def denoise(canvas: Canvas, plan: BlockPlan, parts: DenoisingParts) -> tuple[Tensor, Tensor]:
    """Finish all blocks from left to right.

    Args:
        canvas: The batch; not changed.
        plan: Blocks and steps.
        parts: What the loop is put together from.

    Returns:
        Tokens, int64 [B, L], with every mask between prompt and padding revealed, or filled after
        the answers' ends; and the forward passes of each row, int64 [B], as many as alone: those
        at which it had something to reveal and its answer was not complete.

    Raises:
        FloatingPointError: If the model's logits are not finite.
        RuntimeError: If the rule leaves a position of a block masked.
    """
    ids_BL = canvas.ids_BL
    passes_B = torch.zeros_like(canvas.prompt_lengths_B)
    parts.progress.start_batch(len(canvas.prompt_lengths), plan)
    try:
        for block_index in range(plan.num_blocks):
            starts_B = canvas.prompt_lengths_B + block_index * plan.block_length
            ids_BL, block_passes_B, stopped = denoise_block(
                ids_BL, starts_B, block_index, plan, parts
            )
            passes_B = passes_B + block_passes_B
            if stopped:
                break
    finally:
        parts.progress.finish_batch()
    if parts.early_stop is not None:
        ids_BL = parts.early_stop.fill(ids_BL)
    return ids_BL, passes_B


def denoise_block(
    ids_BL: Tensor, starts_B: Tensor, block_index: int, plan: BlockPlan, parts: DenoisingParts
) -> tuple[Tensor, Tensor, bool]:
    """Reveal every position of one block, or those that can still change the answers.

    Args:
        ids_BL: Current tokens, int64; not changed.
        starts_B: First position of the block in each row, int64.
        block_index: The block's number, from 0.
        plan: Blocks and steps.
        parts: What the loop is put together from.

    Returns:
        Tokens, int64 [B, L], positions outside the block as they were; the block's forward passes
        of each row, int64 [B]; and whether all answers are complete.

    Raises:
        FloatingPointError: If the model's logits are not finite.
        RuntimeError: If the rule leaves a position of the block masked.
    """
    parts.forward.start_block(ids_BL, starts_B, plan.block_length)
    block = open_block(starts_B, plan.block_length)
    finite = torch.ones((), dtype=torch.bool, device=ids_BL.device)
    passes_B = torch.zeros_like(starts_B)
    for step in plan_steps(plan):
        if block.num_positions == 0:
            break
        active_B, before = block.masked_BK.any(dim=1), parts.forward.num_forward_passes
        if parts.early_stop is not None:
            active_B = active_B & ~parts.early_stop.complete_B
        ids_BL, block, step_finite = denoise_step(ids_BL, block, step, parts)
        passes_B = passes_B + active_B * (parts.forward.num_forward_passes - before)
        finite = finite & step_finite
        parts.progress.finish_step(block_index, step.index)
        if parts.early_stop is not None and parts.early_stop.after_step(ids_BL, block):
            _check_finite(finite, block_index)
            return ids_BL, passes_B, True
    _check_finite(finite, block_index)
    _check_finished(block, block_index)
    if parts.early_stop is None:
        return ids_BL, passes_B, False
    num_finished = (block_index + 1) * plan.block_length
    return ids_BL, passes_B, parts.early_stop.after_block(ids_BL, num_finished)


def denoise_step(
    ids_BL: Tensor, block: BlockState, step: StepPlan, parts: DenoisingParts
) -> tuple[Tensor, BlockState, Tensor]:
    """Predict all masked positions of the block and reveal those that the rule chooses.

    Args:
        ids_BL: Current tokens, int64; not changed.
        block: What is masked, at least one position in some row; not changed.
        step: What the schedule plans.
        parts: What the loop is put together from.

    Returns:
        New tokens, the new state of the block, and a bool scalar: were all logits finite.
    """
    offsets_BP, valid_BP = block.offsets_BP(), block.valid_BP
    positions_BP = block.starts_B[:, None] + offsets_BP
    logits_BPV = parts.forward.logits(ids_BL, positions_BP)
    prediction = parts.predictor(logits_BPV, block.counts)
    context = StepContext(
        plan=step,
        scores_BP=prediction.scores_BP.masked_fill(~valid_BP, -torch.inf),
        tokens_BP=prediction.tokens_BP,
        logits_BPV=logits_BPV,
    )
    accepted_BP = parts.rule(context) & valid_BP
    masked_BK = block.masked_BK.scatter(1, offsets_BP, valid_BP & ~accepted_BP)
    if parts.rule.reveals_as_scheduled:
        counts = tuple(count - step.num_scheduled for count in block.counts)
    else:
        counts = tuple(masked_BK.sum(dim=1).tolist())
    return (
        write_tokens(ids_BL, positions_BP, prediction.tokens_BP, accepted_BP),
        BlockState(starts_B=block.starts_B, masked_BK=masked_BK, counts=counts),
        (prediction.finite_BP | ~valid_BP).all(),
    )


def _check_finite(finite: Tensor, block_index: int) -> None:
    if not finite.item():
        raise FloatingPointError(
            f"the model's logits are not finite in block {block_index}; float16 overflows in "
            "LLaDA, load it in bfloat16 or float32, and check the checkpoint's weights"
        )


def _check_finished(block: BlockState, block_index: int) -> None:
    if block.num_positions:
        raise RuntimeError(
            f"the acceptance rule left {block.counts} positions of block {block_index} masked; "
            "a rule must reveal at least the scheduled number at every step, or all at the last"
        )
