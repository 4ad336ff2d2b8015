"""Generates and scores with a masked diffusion model.

Sampling is `sampling`'s business, likelihoods are `likelihood`'s; here the model, its settings and
its special tokens come together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from opencompass_llada.engines.base import Generation, Totals
from opencompass_llada.engines.settings import SamplerSettings
from opencompass_llada.inference import FastNetwork, PassOptions, PassServer
from opencompass_llada.likelihood import (
    EntropyFunction,
    Estimate,
    LikelihoodOptions,
    enumerate_bound,
    estimate_bound,
    estimate_longllada,
    is_enumerable,
    score_alternatives,
)
from opencompass_llada.likelihood.bound import sliced_entropies
from opencompass_llada.networks import BidirectionalNetwork
from opencompass_llada.sampling import (
    IsComplete,
    Progress,
    SpecialTokens,
    derive_seed,
    make_progress,
    sample,
)


class MaskedDiffusionEngine:
    """Generates with a masked diffusion model and keeps count of what that took."""

    generates_by = "masked_diffusion"

    def __init__(
        self,
        model: BidirectionalNetwork,
        settings: SamplerSettings,
        special_tokens: SpecialTokens,
        *,
        progress: Progress | None = None,
        pass_options: PassOptions | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: The loaded network.
            settings: How to sample.
            special_tokens: Ids of the checkpoint.
            progress: Told of every step; None is a bar where stderr is a terminal.
            pass_options: How passes are arranged; nothing of it changes an answer.
        """
        self.model = model
        self.settings = settings
        self.special_tokens = special_tokens
        self.device: torch.device = next(model.parameters()).device
        self.totals = Totals()
        self._pass_options = pass_options
        self._server: PassServer | None = None
        self._progress = make_progress() if progress is None else progress
        self._times_seen: Counter[int] = Counter()

    @property
    def server(self) -> PassServer:
        """The fast passes; made when first asked for, since adapters replace parameters before."""
        if self._server is None:
            self._server = PassServer(FastNetwork(self.model, self._pass_options))
        return self._server

    @property
    def longest_context(self) -> int | None:
        """Tokens up to which the model's RoPE was computed."""
        return self.model.resolved_rope.longest_context

    @property
    def is_scaled(self) -> bool:
        """Whether a RoPE scaling is at work."""
        return self.model.resolved_rope.method != "none"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        is_complete: IsComplete | None = None,
    ) -> list[Generation]:
        """Generate after each prompt of one batch.

        A prompt's random numbers come from the run's seed, its own ids and how often this engine
        met it before, so that batches, shards and resuming do not change its answer while repeats
        of one prompt are different samples. Repeats are counted in this engine alone: a shard or
        a resumed run that begins between two repeats of a prompt numbers them anew.

        Args:
            prompts: Token ids; lengths may differ.
            max_new_tokens: Tokens to generate, at least 1.
            is_complete: With the sampler's ``early_stop``, a test of when an answer is complete.

        Returns:
            One generation a prompt, in order.

        Raises:
            MemoryPlanError: If the batch does not fit the card.
            ValueError: If the steps do not fit the length, or a prompt holds the mask's id.
            FloatingPointError: If the model's logits are not finite.
        """
        config = self.settings.for_length(max_new_tokens)
        self._check_prompts(prompts)
        start = time.perf_counter()
        output = sample(
            self.server,
            prompts,
            config,
            self.special_tokens,
            seeds=[self._next_seed(prompt) for prompt in prompts] if config.draws else None,
            device=self.device,
            progress=self._progress,
            is_complete=is_complete,
        )
        seconds = time.perf_counter() - start
        generations = [
            Generation(
                token_ids=token_ids,
                num_forward_passes=passes,
                seconds=seconds / len(prompts),
            )
            for token_ids, passes in zip(output.token_ids, output.passes_per_prompt, strict=True)
        ]
        self.totals.add(generations, output.num_forward_passes)
        return generations

    def score(
        self,
        prefix: Sequence[int],
        target: Sequence[int],
        options: LikelihoodOptions,
        draw_key: Sequence[int] | None = None,
    ) -> Estimate:
        """Estimate the negative log-likelihood of a target given a clean prefix.

        A target with no more masks than there are draws is not estimated but computed.

        Args:
            prefix: Ids before the target; may be empty.
            target: Ids to score, at least one.
            options: Which estimator, how many draws.
            draw_key: What the masks depend on in the target's place; see `estimate_bound`.

        Returns:
            The estimate; see `likelihood`.

        Raises:
            ValueError: If the target is empty, or the text holds the mask's id.
            FloatingPointError: If the model's logits are not finite.
        """
        entropies = self._entropies()
        place: dict[str, Any] = {
            "mask_token_id": self.special_tokens.mask_token_id,
            "device": self.device,
        }
        if options.estimator == "longllada":
            return estimate_longllada(entropies, prefix, target, options, **place)
        if is_enumerable(len(target), options):
            return enumerate_bound(entropies, prefix, target, options, **place)
        return estimate_bound(entropies, prefix, target, options, **place, draw_key=draw_key)

    def score_next(self, prefix: Sequence[int], candidates: Sequence[int]) -> list[Estimate]:
        """Score several single tokens after a prefix in one pass; see `Engine.score_next`.

        Raises:
            ValueError: If the prefix or a candidate is the mask's id.
            FloatingPointError: If the model's logits are not finite.
        """
        self._check_prompts([[*prefix, *candidates]])
        return score_alternatives(
            self._entropies(),
            [*prefix, self.special_tokens.mask_token_id],
            len(prefix),
            candidates,
            estimator="bound",
            device=self.device,
        )

    def _entropies(self) -> EntropyFunction:
        return sliced_entropies(self.model.hidden_states, self.model.get_output_embeddings())

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
