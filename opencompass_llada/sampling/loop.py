"""The sampler: prompts and a model call in, generated ids out, by blocks and denoising steps.

Which logits, which tokens and which reveals are the business of the parts that it is given
(``forward.py``, ``prediction.py``, ``acceptance.py``); the loop only keeps the books. It reads the
device once a block, and once a step under a rule that decides the number of reveals itself.

Semi-autoregressive denoising as in LLaDA's published ``generate`` (arXiv:2502.09992; github.com/ML-
GSAI/LLaDA, generate.py), and Dream's published rules (arXiv:2508.15487; ``diffusion_generate`` in
generation_utils.py of Dream-org/Dream-v0-Instruct-7B) as further settings. With temperature 0 it
gives the published ids token for token (but for ties and rounding, see below); where random numbers
are drawn it gives the same distribution from other streams. It knows token ids and a model call, no
text, no tokenizer and no cache.

Differs from both published codes:

- Revealed positions are remembered as booleans. There a position is masked as long as it holds
  the mask id, so that a mask id in the prompt is overwritten and a predicted mask id is predicted
  again, at the cost of reveals of a later block. Here the prompt stays, and a predicted mask id
  counts as revealed and is part of the result.
- Only the active block's masked positions get logits, noise and confidence.
- Of equal scores the leftmost position is revealed; ``torch.topk`` promises no order. It matters
  where only tokens with suppressed confidence are left, which all score 0.
- Random streams are one a row (see ``noise.py``), and noise is added in the log domain.
- Logits that are not finite stop the generation; Dream's code takes the likeliest token then.

From LLaDA's alone:

- ``suppress_eos_eot_confidence`` works at any temperature, not only at 0.
- The two halves of guidance are two passes and not one batch of twice the rows.

From Dream's alone:

- Rows are right-padded and count their positions from 0, where that code pads on the left.
- How many tokens a step reveals is each row's own; there it is the mean over the batch's rows.
- Probabilities, confidences and top-p's sums are in float64, not in the logits' dtype.
- Positions drawn by ``remasking_temperature`` are drawn without an error where the probabilities of
  all but a few vanish (``torch.multinomial`` refuses that).
- Blocks, guidance and the suppression of EOS, which are LLaDA's, can be combined with its rules;
  every block runs through the timesteps anew.

Shape suffixes: B rows, L row length, K block length, P masked positions of the active block.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opencompass_llada.logs import get_logger
from opencompass_llada.sampling.acceptance import (
    AcceptanceRule,
    IndependentAcceptance,
    ScheduledAcceptance,
    StepContext,
)
from opencompass_llada.sampling.config import SamplerConfig, SpecialTokens
from opencompass_llada.sampling.early_stop import EarlyStop, IsComplete
from opencompass_llada.sampling.forward import (
    ForwardPolicy,
    FullForward,
    GuidedForward,
    KeptForward,
    LogitsFunction,
    PassProvider,
)
from opencompass_llada.sampling.noise import derive_seed, make_generators
from opencompass_llada.sampling.prediction import Predictor
from opencompass_llada.sampling.progress import NoProgress, Progress
from opencompass_llada.sampling.schedule import BlockPlan, StepPlan, plan_blocks, plan_steps
from opencompass_llada.sampling.token_rows import (
    BlockState,
    Canvas,
    make_canvas,
    open_block,
    write_tokens,
)
from opencompass_llada.sampling.unmasking import STRATEGIES


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


_logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class SamplerOutput:
    """What a batch of prompts gave."""

    token_ids: list[list[int]]
    """Generated ids of each prompt, exactly ``generation_length`` each."""

    num_forward_passes: int
    """Forward passes of the batch; guidance takes two."""

    passes_per_prompt: list[int] = dataclasses.field(default_factory=list)
    """Forward passes that each prompt went through until its answer was complete, as many as it
    takes alone; the batch's further ones are for the other prompts."""

    num_full_passes: int = 0
    """Those of them that ran every token; the rest used kept keys and values."""


@torch.no_grad()
def sample(
    model: LogitsFunction | PassProvider,
    prompts: Sequence[Sequence[int]],
    config: SamplerConfig,
    special_tokens: SpecialTokens,
    *,
    seeds: Sequence[int] | None = None,
    device: torch.device | str,
    progress: Progress | None = None,
    is_complete: IsComplete | None = None,
) -> SamplerOutput:
    """Generate ``config.generation_length`` tokens after each prompt.

    A prompt's result depends neither on the other prompts of the batch nor on its place, as far as
    the model call's own arithmetic does not.

    Args:
        model: The model call, see :data:`LogitsFunction`; or where passes come from that can
            keep keys and values, see `PassProvider`.
        prompts: Token ids, one sequence a prompt; they may differ in length.
        config: The settings; not changed.
        special_tokens: Ids of the checkpoint.
        seeds: One seed a prompt; None derives each from ``config.seed`` and the prompt.
        device: Where the tokens live and random numbers are drawn; the model call's device.
        progress: Told of every step; None for nobody.
        is_complete: With ``config.early_stop``, a further test of when an answer is complete.

    Returns:
        Generated ids and the number of forward passes.

    Raises:
        ValueError: If there are not as many seeds as prompts, or the logits have a wrong shape.
        FloatingPointError: If the model's logits are not finite.
    """
    row_seeds = _seeds_of_rows(seeds, prompts, config)
    if not prompts:
        return SamplerOutput(token_ids=[], num_forward_passes=0)
    plan = plan_blocks(config)
    _log_rounding(plan)
    device = torch.device(device)
    canvas = make_canvas(
        prompts,
        num_masks=plan.padded_length,
        mask_token_id=special_tokens.mask_token_id,
        device=device,
    )
    parts = DenoisingParts(
        forward=make_forward_policy(model, canvas, config, plan, special_tokens),
        predictor=Predictor(config, special_tokens, make_generators(row_seeds, device), device),
        rule=make_rule(config),
        progress=progress or NoProgress(),
        early_stop=EarlyStop(canvas, plan.padded_length, special_tokens, is_complete)
        if config.early_stop
        else None,
    )
    ids_BL, passes_B = denoise(canvas, plan, parts)
    return SamplerOutput(
        token_ids=cut_generated(ids_BL, canvas.prompt_lengths, plan.generation_length),
        num_forward_passes=parts.forward.num_forward_passes,
        passes_per_prompt=passes_B.tolist(),
        num_full_passes=parts.forward.num_full_passes,
    )


def make_rule(config: SamplerConfig) -> AcceptanceRule:
    """Choose the acceptance rule: the one asked for, or that of the remasking strategy.

    Args:
        config: The settings.

    Returns:
        The rule.
    """
    asked = config.acceptance.make()
    if asked is not None:
        return asked
    independent = STRATEGIES[config.remasking].independent
    return IndependentAcceptance() if independent else ScheduledAcceptance()


def make_forward_policy(
    model: LogitsFunction | PassProvider,
    canvas: Canvas,
    config: SamplerConfig,
    plan: BlockPlan,
    special_tokens: SpecialTokens,
) -> ForwardPolicy:
    """Choose how logits are obtained: kept keys and values, guidance, or neither.

    Args:
        model: The model call, or where passes come from.
        canvas: The batch.
        config: The settings.
        plan: Blocks and steps.
        special_tokens: Ids of the checkpoint.

    Returns:
        A policy that has counted no pass yet.

    Raises:
        ValueError: If keys and values are to be kept and the model is a mere call.
    """

    def make() -> ForwardPolicy:
        if isinstance(model, PassProvider):
            return KeptForward(
                model,
                config.cache,
                prompt_lengths=canvas.prompt_lengths,
                num_masks=plan.padded_length,
                block_length=plan.block_length,
                full_passes=plan.num_steps if not config.cache.keeps else plan.num_blocks,
                guided=config.cfg_scale > 0,
            )
        if config.cache.keeps:
            raise ValueError(
                f"cache={config.cache.type!r} needs a model that keeps keys and values, and got "
                "a mere call; give inference.PassServer, or use cache='none'"
            )
        return FullForward(model, canvas.lengths_B)

    conditional = make()
    if config.cfg_scale == 0:
        return conditional
    return GuidedForward(
        conditional,
        make(),
        cfg_scale=config.cfg_scale,
        prompt_mask_BL=canvas.prompt_mask_BL,
        mask_token_id=special_tokens.mask_token_id,
    )


def cut_generated(
    ids_BL: Tensor, prompt_lengths: Sequence[int], generation_length: int
) -> list[list[int]]:
    """Cut each row's generated tokens out: no prompt, no surplus, no padding.

    Args:
        ids_BL: Finished tokens, int64.
        prompt_lengths: Tokens of each prompt.
        generation_length: Tokens to keep of each row.

    Returns:
        Token ids of each row.
    """
    return [
        ids_L[start : start + generation_length].tolist()
        for ids_L, start in zip(ids_BL, prompt_lengths, strict=True)
    ]


def _seeds_of_rows(
    seeds: Sequence[int] | None, prompts: Sequence[Sequence[int]], config: SamplerConfig
) -> list[int]:
    if seeds is None and not config.draws:
        return [config.seed] * len(prompts)  # deriving one takes 12 ms for 32K tokens
    if seeds is None:
        return [derive_seed(config.seed, prompt) for prompt in prompts]
    if len(seeds) != len(prompts):
        raise ValueError(
            f"got {len(seeds)} seeds for {len(prompts)} prompts, but each prompt needs one; "
            "give one a prompt, or None to derive them from the config's seed"
        )
    return list(seeds)


@functools.cache
def _log_rounding(plan: BlockPlan) -> None:
    """Log a generation that is rounded up, once for each distinct plan (hence the cache)."""
    if plan.surplus:
        _logger.info(
            "generation_length=%d is not a multiple of block_length=%d: %d tokens are generated "
            "and the last %d are cut",
            plan.generation_length,
            plan.block_length,
            plan.padded_length,
            plan.surplus,
        )
