"""Samples: prompts and a model call in, generated ids out, by blocks and denoising steps.

Semi-autoregressive denoising as in the published code of LLaDA (``generate``; arXiv:2502.09992) and
Dream (``diffusion_generate``; arXiv:2508.15487). Temperature 0 gives the published ids but for ties
and rounding, random numbers come from other streams; differences: docs/explanation/sampler.md.
It reads the device once a block, and once a step under a rule that decides how many are revealed.
Shape suffixes: B rows, L row length, K block length, P masked positions of the active block.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from opencompass_llada.options import reject_unknown
from opencompass_llada.sampling.block_cache import (
    BatchForward,
    LogitsFunction,
    PassProvider,
    open_forward,
)
from opencompass_llada.sampling.config import SamplerConfig, SpecialTokens
from opencompass_llada.sampling.early_stop import EarlyStop, IsComplete
from opencompass_llada.sampling.prediction import Predictor, derive_seed, make_generators
from opencompass_llada.sampling.row_layout import RowLayout
from opencompass_llada.sampling.schedule import BlockPlan, StepPlan, plan_steps
from opencompass_llada.sampling.unmasking import (
    STRATEGIES,
    Accept,
    StepContext,
    accept_independently,
    accept_scheduled,
)

_logger = logging.getLogger(__name__)

PROGRESS_VARIABLE = "OPENCOMPASS_LLADA_PROGRESS"
_PROGRESS_SETTINGS = {"on": True, "1": True, "off": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class SamplerOutput:
    """What a batch of prompts gave."""

    token_ids: list[list[int]]
    """Generated ids of each prompt, exactly ``generation_length`` each."""
    num_forward_passes: int
    """Those of the batch; guidance takes two a step."""
    passes_per_prompt: list[int] = field(default_factory=list)
    """Those that each prompt went through until its answer was complete, as many as it takes
    alone; the batch's further ones are for the other prompts."""
    num_full_passes: int = 0
    """Those of the batch that ran every token; the rest used cached keys and values."""


@torch.no_grad()
def sample(
    model: LogitsFunction | PassProvider,
    prompts: Sequence[Sequence[int]],
    config: SamplerConfig,
    special_tokens: SpecialTokens,
    *,
    seeds: Sequence[int] | None = None,
    device: torch.device | str,
    progress: StepListener | None = None,
    is_complete: IsComplete | None = None,
) -> SamplerOutput:
    """Generate ``config.generation_length`` tokens after each prompt.

    A prompt's result depends neither on the other prompts of the batch nor on its place, as far as
    the model call's own arithmetic does not.

    Args:
        model: The model call, or what opens passes that can cache keys and values.
        prompts: Token ids, one sequence a prompt; they may differ in length.
        config: The settings; not changed.
        special_tokens: Ids of the checkpoint.
        seeds: One seed a prompt; None derives each from ``config.seed`` and the prompt.
        device: Where the tokens live and random numbers are drawn; the model call's device.
        progress: Told of every step; None for nobody.
        is_complete: With ``config.early_stop``, a further test of when an answer is complete.

    Raises:
        ValueError: If there are not as many seeds as prompts, or the logits have a wrong shape.
        FloatingPointError: If the model's logits are not finite.
    """
    row_seeds = _seeds_of_rows(seeds, prompts, config)
    if not prompts:
        return SamplerOutput(token_ids=[], num_forward_passes=0)
    causal_block = getattr(model, "causal_block", None)
    config = config.for_pattern(causal_block)
    plan, device = config.plan(), torch.device(device)
    if causal_block is None:  # elsewhere a prompt's end decides what is cut
        _log_rounding(plan)
    layout = RowLayout.of(
        prompts,
        plan,
        causal_block,
        device,
        logit_shift=getattr(model, "logit_shift", 0),
        grows=config.variable_length,
    )
    forward = open_forward(
        model, layout, config.cache, cfg_scale=config.cfg_scale,
        mask_token_id=special_tokens.mask_token_id,
    )  # fmt: skip
    by_chance = STRATEGIES[config.remasking].independent  # acceptance rules go with scores only
    denoiser = Denoiser(
        layout=layout,
        forward=forward,
        predictor=Predictor(config, special_tokens, make_generators(row_seeds, device), device),
        accept=accept_independently if by_chance else config.acceptance.make(),
        progress=progress or StepListener(),
        early_stop=_make_stop(
            config, layout, special_tokens, is_complete, in_step=getattr(model, "is_split", False)
        ),
    )
    ids_BL = lay_out_rows(prompts, max(layout.row_lengths), special_tokens.mask_token_id)
    ids_BL, passes_B = denoiser.run(ids_BL.to(device))
    return SamplerOutput(
        token_ids=[
            row_L[start : start + plan.generation_length].tolist()
            for row_L, start in zip(ids_BL, layout.prompt_lengths, strict=True)
        ],
        num_forward_passes=forward.num_forward_passes,
        passes_per_prompt=passes_B.tolist(),
        num_full_passes=forward.num_full_passes,
    )


def _make_stop(
    config: SamplerConfig,
    layout: RowLayout,
    special_tokens: SpecialTokens,
    is_complete: IsComplete | None,
    *,
    in_step: bool,
) -> EarlyStop | None:
    """Return what ends a batch early: within blocks if so asked, after them where rows grow."""
    if not (config.early_stop or config.variable_length):
        return None
    return EarlyStop(
        layout.prompts_B,
        layout.num_masks,
        special_tokens,
        is_complete if config.early_stop else None,
        within_blocks=config.early_stop,
        in_step=in_step,
    )


def lay_out_rows(prompts: Sequence[Sequence[int]], row_length: int, mask_token_id: int) -> Tensor:
    """Lay out each row as its prompt, its masks and padding (the mask id too), int64 [B, L].

    Prompts ``[7, 8]`` and ``[9]`` and 4 tokens, M masks, give ``[7, 8, M, M]`` and
    ``[9, M, M, M]``.
    """
    ids_BL = torch.full((len(prompts), row_length), mask_token_id, dtype=torch.int64)
    for ids_L, prompt in zip(ids_BL, prompts, strict=True):
        if len(prompt):  # by way of an array, which is ten times as fast as from a list
            ids_L[: len(prompt)] = torch.frombuffer(array("q", prompt), dtype=torch.int64)
    return ids_BL


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
    if surplus := plan.padded_length - plan.generation_length:
        _logger.info(
            f"generation_length={plan.generation_length} is not a multiple of block_length="
            f"{plan.block_length}: {plan.padded_length} tokens are generated and the last "
            f"{surplus} are cut"
        )


@dataclass(kw_only=True)
class _Block:
    """What is revealed of the active block.

    Whether a position is revealed is never read off its token: a prompt may hold the mask id, and
    the model may predict it.
    """

    index: int
    starts_B: Tensor
    """First position of the block in each row, int64."""
    masked_BK: Tensor
    """Bool, True where the block's position is not revealed yet."""
    counts: tuple[int, ...]
    """Masked positions left in each row, known without asking the device."""
    finite: Tensor
    """Bool scalar, whether all logits so far were."""

    def offsets_BP(self) -> tuple[Tensor, Tensor]:
        """Return each row's masked positions in the block, filler behind, and which are none."""
        order_BK = self.masked_BK.logical_not().byte().argsort(dim=-1, stable=True)
        offsets_BP = order_BK[:, : max(self.counts)]
        if min(self.counts) == max(self.counts):
            return offsets_BP, torch.ones_like(offsets_BP, dtype=torch.bool)
        return offsets_BP, self.masked_BK.gather(1, offsets_BP)


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """Reveals the masks of one batch."""

    layout: RowLayout
    forward: BatchForward
    predictor: Predictor
    accept: Accept
    progress: StepListener
    early_stop: EarlyStop | None = None
    """Tells when the rest cannot change the answers; None goes on to the end."""

    def run(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Finish all blocks from left to right; return the tokens and each row's forward passes.

        Those are as many as alone: at which it had something to reveal and was not complete, and
        those that open its blocks.
        """
        self.progress.start_batch(len(ids_BL), self.layout.plan)
        try:
            passes_B = torch.zeros_like(self.layout.prompts_B)
            for index in range(self.layout.plan.num_blocks):
                ids_BL, block_passes_B, stopped = self._reveal_block(ids_BL, index)
                passes_B = passes_B + block_passes_B
                if stopped:
                    break
        finally:
            self.progress.finish_batch()
        if self.early_stop is not None:
            ids_BL = self.early_stop.fill(ids_BL)
        return ids_BL, passes_B

    def _reveal_block(self, ids_BL: Tensor, index: int) -> tuple[Tensor, Tensor, bool]:
        """Reveal a block; return tokens, each row's passes and whether all answers are complete."""
        stop, starts_B = self.early_stop, self.layout.starts_B(index)
        finished_B = starts_B - self.layout.prompts_B
        masked_BK, counts = self.layout.masked(index)
        block = _Block(
            index=index,
            starts_B=starts_B,
            masked_BK=masked_BK,
            counts=counts,
            finite=torch.ones((), dtype=torch.bool, device=starts_B.device),
        )
        goes_on_B = self.layout.has_block_B(index)
        if stop is not None:
            goes_on_B = goes_on_B & ~stop.complete_B
        opened_B, logits_B1V = self.forward.open_block(ids_BL, index)
        passes_B, stopped = goes_on_B * opened_B, False
        if logits_B1V is not None:
            ids_BL = self._take_first(ids_BL, block, logits_B1V)
            if stop is not None:
                stopped = stop.after_step(ids_BL, finished_B, block.masked_BK)
        for step in plan_steps(self.layout.plan):
            if stopped or not any(block.counts):
                break
            active_B, before = block.masked_BK.any(dim=1), self.forward.num_forward_passes
            if stop is not None:
                active_B = active_B & ~stop.complete_B
            ids_BL = self._take_step(ids_BL, block, step)
            passes_B = passes_B + active_B * (self.forward.num_forward_passes - before)
            self.progress.finish_step(index, step.index)
            if stop is not None:
                stopped = stop.after_step(ids_BL, finished_B, block.masked_BK)
        if not block.finite.item():
            raise FloatingPointError(
                f"the model's logits are not finite in block {index}; float16 overflows in LLaDA, "
                "load it in bfloat16 or float32, and check the checkpoint's weights"
            )
        if any(block.counts) and not stopped:
            raise RuntimeError(
                f"the acceptance rule left {block.counts} positions of block {index} masked; a "
                "rule must reveal at least the scheduled number at every step, or all at the last"
            )
        if stop is not None and not stopped:
            finished = [max(n, 0) for n in self.layout.num_finished(index + 1)]
            stopped = stop.after_block(ids_BL, finished)
        return ids_BL, passes_B, stopped

    def _take_first(self, ids_BL: Tensor, block: _Block, logits_B1V: Tensor) -> Tensor:
        """Write a block's likeliest first token in the rows where the block before gives it."""
        tokens_B1, finite_B1 = self.predictor.likeliest(logits_B1V)
        given = self.layout.has_given_first(block.index)
        given_B1 = torch.tensor(given, device=ids_BL.device)[:, None]
        block.finite = block.finite & (finite_B1 | ~given_B1).all()
        positions_B1 = block.starts_B[:, None]
        written_B1 = torch.where(given_B1, tokens_B1, ids_BL.gather(1, positions_B1))
        return ids_BL.scatter(1, positions_B1, written_B1)

    def _take_step(self, ids_BL: Tensor, block: _Block, step: StepPlan) -> Tensor:
        """Predict all masked positions, note in the block which are accepted, return new tokens."""
        offsets_BP, valid_BP = block.offsets_BP()
        positions_BP = block.starts_B[:, None] + offsets_BP
        logits_BPV = self.forward.logits(ids_BL, positions_BP, block.index)
        tokens_BP, scores_BP, finite_BP = self.predictor(logits_BPV, block.counts)
        context = StepContext(
            plan=step,
            scores_BP=scores_BP.masked_fill(~valid_BP, -torch.inf),
            tokens_BP=tokens_BP,
            logits_BPV=logits_BPV,
        )
        accepted_BP = self.accept(context) & valid_BP
        block.masked_BK = block.masked_BK.scatter(1, offsets_BP, valid_BP & ~accepted_BP)
        block.finite = block.finite & (finite_BP | ~valid_BP).all()
        if self.accept is accept_scheduled:  # known without reading the device
            block.counts = tuple(max(count - step.num_scheduled, 0) for count in block.counts)
        else:
            block.counts = tuple(block.masked_BK.sum(dim=1).tolist())
        written_BP = torch.where(accepted_BP, tokens_BP, ids_BL.gather(1, positions_BP))
        return ids_BL.scatter(1, positions_BP, written_BP)


class StepListener:
    """Is told of every step of a generation; this one shows nothing."""

    def start_batch(self, num_samples: int, plan: BlockPlan) -> None:
        """A batch of ``num_samples`` prompts begins."""

    def finish_step(self, block_index: int, step_index: int) -> None:
        """A denoising step of a block is done; both count from 0."""

    def finish_batch(self) -> None:
        """The batch is done, or has failed."""


class ProgressBar(StepListener):
    """A bar for each batch on stderr, e.g. ``sample 3-4 block 2/4 step 7/8``, cleared at its end.

    One object serves a whole run, so that samples are counted through; an outer bar over batches,
    such as OpenCompass's own, stays above it.
    """

    def __init__(self, delay: float = 0.5) -> None:
        """Let a batch's bar appear after ``delay`` seconds, so that quick ones do not flicker."""
        self._delay = delay
        self._num_samples = 0

    def start_batch(self, num_samples: int, plan: BlockPlan) -> None:
        """Open the bar of a batch."""
        first, last = self._num_samples + 1, self._num_samples + num_samples
        self._samples = f"{first}-{last}" if last > first else f"{first}"
        self._plan, self._num_samples = plan, last
        options: dict[str, Any] = {"unit": "step", "leave": False, "delay": self._delay}
        self._bar = tqdm(total=plan.num_steps, desc=self._describe(0, 0), **options)

    def finish_step(self, block_index: int, step_index: int) -> None:
        """Move the bar to a step; a block that ended early is skipped over."""
        self._bar.set_description_str(self._describe(block_index, step_index + 1), refresh=False)
        done = block_index * self._plan.steps_per_block + step_index + 1
        self._bar.update(done - self._bar.n)

    def finish_batch(self) -> None:
        """Clear the bar."""
        self._bar.close()

    def _describe(self, block_index: int, num_steps_done: int) -> str:
        return (
            f"sample {self._samples} block {block_index + 1}/{self._plan.num_blocks} "
            f"step {num_steps_done}/{self._plan.steps_per_block}"
        )


def make_progress() -> StepListener:
    """Make the bar if PROGRESS_VARIABLE (on, off, auto), or else a terminal at stderr, asks."""
    setting = os.environ.get(PROGRESS_VARIABLE, "auto").strip().lower() or "auto"
    reject_unknown(f"value of {PROGRESS_VARIABLE}", [setting], [*_PROGRESS_SETTINGS, "auto"])
    shown = _PROGRESS_SETTINGS[setting] if setting != "auto" else sys.stderr.isatty()
    return ProgressBar() if shown else StepListener()
