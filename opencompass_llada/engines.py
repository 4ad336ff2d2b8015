"""Prompt ids in, generated ids or likelihoods out: a model, its settings and its special tokens.

Knows token ids only; text, truncation and OpenCompass live above it. So far one engine, for
masked diffusion.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch

from opencompass_llada.likelihood import (
    Estimate,
    LikelihoodOptions,
    estimate_bound,
    estimate_longllada,
)
from opencompass_llada.likelihood.scoring import sliced_entropies
from opencompass_llada.logs import get_logger
from opencompass_llada.modeling import BidirectionalNetwork
from opencompass_llada.sampling import (
    Progress,
    SamplerConfig,
    SpecialTokens,
    cap_steps,
    derive_seed,
    make_progress,
    parse_sampler_config,
    plan_blocks,
    sample,
)

logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one prompt gave."""

    token_ids: list[int]
    """Generated ids, as many as were asked for; nothing is cut at an end token."""

    num_forward_passes: int
    """Forward passes that this row took part in (NFE)."""

    seconds: float
    """Wall time of the batch divided by its rows."""


class SamplerSettings:
    """Sampler options without a generation length, which each data set gives anew.

    Nothing here changes after construction: the steps that a short data set cannot use are capped
    in a config of its own (the seeds' wrapper lowers them in place, for every later data set too).
    """

    def __init__(self, options: Mapping[str, Any] | SamplerConfig | None = None) -> None:
        """Check the options as far as that is possible without a length.

        Args:
            options: Field names and values of `SamplerConfig`.

        Raises:
            ValueError: If a name is unknown or a value does not fit.
        """
        given = asdict(options) if isinstance(options, SamplerConfig) else dict(options or {})
        self.default_length: int | None = given.pop("generation_length", None)
        self._options = MappingProxyType(given)
        self._logged: set[int] = set()
        # How the steps fit the blocks is known only with a length; all else is checked here.
        self.seed: int = parse_sampler_config({**given, "num_steps": None}).seed
        steps = given.get("num_steps")
        if steps is not None and (
            isinstance(steps, bool) or not isinstance(steps, int) or steps < 1
        ):
            raise ValueError(f"num_steps={steps!r} must be a positive integer, or None")
        if self.default_length is not None:
            self.for_length(self.default_length)

    def for_length(self, generation_length: int) -> SamplerConfig:
        """Return the settings for one generation length.

        More steps than there are tokens are capped, as in the seeds; fewer that do not fit the
        blocks are an error.

        Args:
            generation_length: Tokens to generate, at least 1.

        Returns:
            A config of its own.

        Raises:
            ValueError: If the steps do not fit; the nearest values that do are named.
        """
        steps = self._options.get("num_steps")
        free = parse_sampler_config(
            {**self._options, "generation_length": generation_length, "num_steps": None}
        )
        if steps is None:
            return free
        tokens = plan_blocks(free).padded_length
        if steps > tokens:
            if generation_length not in self._logged:
                self._logged.add(generation_length)
                logger.info(
                    "num_steps=%d is capped at %d for generations of %d tokens, one token a step",
                    steps,
                    tokens,
                    generation_length,
                )
            steps = cap_steps(steps, generation_length, free.block_length)
        return parse_sampler_config(
            {**self._options, "generation_length": generation_length, "num_steps": steps}
        )


class MaskedDiffusionEngine:
    """Generates with a masked diffusion model and keeps count of what that took."""

    def __init__(
        self,
        model: BidirectionalNetwork,
        settings: SamplerSettings,
        special_tokens: SpecialTokens,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: The loaded network.
            settings: How to sample.
            special_tokens: Ids of the checkpoint.
            progress: Told of every step; None is a bar where stderr is a terminal.
        """
        self.model = model
        self.settings = settings
        self.special_tokens = special_tokens
        self.device: torch.device = next(model.parameters()).device
        self.num_prompts = 0
        self.num_generated_tokens = 0
        self.num_forward_passes = 0
        self.seconds = 0.0
        self._progress = make_progress() if progress is None else progress
        self._times_seen: Counter[int] = Counter()

    @property
    def longest_context(self) -> int | None:
        """Tokens up to which the model's RoPE was computed."""
        return self.model.resolved_rope.longest_context

    def generate(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int
    ) -> list[Generation]:
        """Generate after each prompt of one batch.

        A prompt's random numbers come from the run's seed, its own ids and how often this engine
        met it before, so that batches, shards and resuming do not change its answer while repeats
        of one prompt are different samples. Repeats are counted in this engine alone: a shard or
        a resumed run that begins between two repeats of a prompt numbers them anew.

        Args:
            prompts: Token ids; lengths may differ.
            max_new_tokens: Tokens to generate, at least 1.

        Returns:
            One generation a prompt, in order.

        Raises:
            ValueError: If the steps do not fit the length, or a prompt holds the mask's id.
            FloatingPointError: If the model's logits are not finite.
        """
        config = self.settings.for_length(max_new_tokens)
        self._check_prompts(prompts)
        start = time.perf_counter()
        output = sample(
            self.model.logits_at,
            prompts,
            config,
            self.special_tokens,
            seeds=[self._next_seed(prompt) for prompt in prompts],
            device=self.device,
            progress=self._progress,
        )
        seconds = time.perf_counter() - start
        self.num_prompts += len(prompts)
        self.num_generated_tokens += sum(map(len, output.token_ids))
        self.num_forward_passes += output.num_forward_passes
        self.seconds += seconds
        return [
            Generation(
                token_ids=token_ids,
                num_forward_passes=output.num_forward_passes,
                seconds=seconds / len(prompts),
            )
            for token_ids in output.token_ids
        ]

    def score(
        self, prefix: Sequence[int], target: Sequence[int], options: LikelihoodOptions
    ) -> Estimate:
        """Estimate the negative log-likelihood of a target given a clean prefix.

        Args:
            prefix: Ids before the target; may be empty.
            target: Ids to score, at least one.
            options: Which estimator, how many draws.

        Returns:
            The estimate; see `likelihood`.

        Raises:
            ValueError: If the target is empty, or the text holds the mask's id.
            FloatingPointError: If the model's logits are not finite.
        """
        estimate = estimate_bound if options.estimator == "bound" else estimate_longllada
        return estimate(
            sliced_entropies(self.model.hidden_states, self.model.get_output_embeddings()),
            prefix,
            target,
            options,
            mask_token_id=self.special_tokens.mask_token_id,
            device=self.device,
        )

    def describe_totals(self) -> str:
        """Return one line on everything generated so far; passes count once a batch."""
        rate = self.num_generated_tokens / self.seconds if self.seconds else 0.0
        return (
            f"{self.num_prompts} prompts, {self.num_generated_tokens} generated tokens, "
            f"{self.num_forward_passes} forward passes of a batch, {self.seconds:.1f} s "
            f"({rate:.1f} generated tokens/s)"
        )

    def _next_seed(self, prompt: Sequence[int]) -> int:
        first = derive_seed(self.settings.seed, prompt)
        repeat = self._times_seen[first]
        self._times_seen[first] += 1
        return first if repeat == 0 else derive_seed(first, [repeat])

    def _check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        mask = self.special_tokens.mask_token_id
        for index, prompt in enumerate(prompts):
            if mask in prompt:
                raise ValueError(
                    f"prompt {index} of the batch holds the mask id {mask}, which is no text; "
                    "encode it with tokenization.PromptEncoder"
                )
