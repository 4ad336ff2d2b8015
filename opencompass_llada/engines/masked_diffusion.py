"""Loads masked diffusion checkpoints; generates and scores with them.

Sampling is `sampling`'s business, likelihoods are `likelihood`'s; here the network, its settings
and its special tokens come together.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from opencompass_llada.engines.base import Engine, Family, LoadRequest
from opencompass_llada.engines.sampler_settings import SamplerSettings
from opencompass_llada.inference import (
    FastNetwork,
    MemoryPlan,
    NetworkSize,
    PassOptions,
    PassServer,
    card_budget,
    check_plan,
)
from opencompass_llada.likelihood import (
    EntropyFunction,
    Estimate,
    LikelihoodOptions,
    enumerate_bound,
    estimate_bound,
    estimate_longllada,
    is_enumerable,
    score_alternatives,
    sliced_entropies,
)
from opencompass_llada.networks import BidirectionalNetwork, load_checkpoint, open_checkpoint
from opencompass_llada.prompting.encode import check_vocabulary, find_token_id
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.sampling import (
    IsComplete,
    SamplerOutput,
    SpecialTokens,
    StepListener,
    derive_seed,
    make_progress,
    sample,
)

logger = logging.getLogger(__name__)


class MaskedDiffusionEngine(Engine):
    """Generates and scores with a masked diffusion model."""

    generates_by = "masked_diffusion"

    def __init__(
        self,
        model: BidirectionalNetwork,
        settings: SamplerSettings,
        special_tokens: SpecialTokens,
        *,
        progress: StepListener | None = None,
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
        super().__init__(model, model.resolved_rope)
        self.settings = settings
        self.special_tokens = special_tokens
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

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        is_complete: IsComplete | None,
    ) -> SamplerOutput:
        config = self.settings.for_length(max_new_tokens)
        self._check_prompts(prompts)
        return sample(
            self.server,
            prompts,
            config,
            self.special_tokens,
            seeds=[self._next_seed(prompt) for prompt in prompts] if config.draws else None,
            device=self.device,
            progress=self._progress,
            is_complete=is_complete,
        )

    def score(
        self,
        prefix: Sequence[int],
        target: Sequence[int],
        options: LikelihoodOptions,
        draw_key: Sequence[int] | None = None,
    ) -> Estimate:
        """Estimate the negative log-likelihood of a target given a clean prefix.

        A target with no more masks than there are draws is not estimated but computed.
        """
        entropies, mask_id = self._entropies(), self.special_tokens.mask_token_id
        place: dict[str, Any] = {"mask_token_id": mask_id, "device": self.device}
        if options.estimator == "longllada":
            return estimate_longllada(entropies, prefix, target, options, **place)
        if is_enumerable(len(target), options):
            return enumerate_bound(entropies, prefix, target, options, **place)
        return estimate_bound(entropies, prefix, target, options, **place, draw_key=draw_key)

    def score_next(self, prefix: Sequence[int], candidates: Sequence[int]) -> list[Estimate]:
        """Score several single tokens after a prefix in one pass; see `Engine.score_next`."""
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
        """Derive a seed of the run's, a prompt's ids and how often this engine met it before.

        So batches, shards and resuming do not change its answer, and repeats of one prompt are
        different samples. A shard or a resumed run that begins between two repeats of a prompt
        numbers them anew.
        """
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
                    "encode it with prompting.encode.PromptEncoder"
                )


@dataclass(frozen=True, kw_only=True)
class MaskedDiffusionFamily(Family):
    """A family of native masked diffusion networks: a network, a mask, a sampler."""

    engine: ClassVar[type[Engine]] = MaskedDiffusionEngine

    label: str
    """Its name in messages."""
    turn_end: str
    """Text of the token that ends a chat turn; a tokenizer without it has none."""

    def special_tokens(
        self, path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> SpecialTokens:
        """Read mask and end of text from config.json, the end of a turn from the tokenizer."""
        needed = ("mask_token_id", "eos_token_id")
        missing = [name for name in needed if config.get(name) is None]
        if missing:
            raise ValueError(
                f"config.json has no {' and no '.join(missing)}; {self.label}'s published "
                "checkpoints have both. Add them to the checkpoint's config.json."
            )
        check_vocabulary(tokenizer, config.get("embedding_size") or config.get("vocab_size"))
        return SpecialTokens(
            mask_token_id=config["mask_token_id"],
            eos_token_id=config["eos_token_id"],
            eot_token_id=find_token_id(tokenizer, self.turn_end),
        )

    def check(self, path: str, rope_scaling: RopeScaling, settings: SamplerSettings) -> None:
        """Check files and scaling; the settings are checked as they are made."""
        open_checkpoint(path, rope_scaling=rope_scaling)

    def load(self, request: LoadRequest) -> MaskedDiffusionEngine:
        """Load the weights, if one row at least fits the card."""
        progress = make_progress()  # reads a variable, whose fault shows before the weights load
        settings = request.settings
        if settings.unset:
            what = "Sampler options that are not given are %s's own: %s"
            logger.info(what, self.label, settings.unset)
        tokens = self.special_tokens(request.path, request.config, request.tokenizer)
        _plan_memory(request)
        model = load_checkpoint(
            request.path,
            rope_scaling=request.rope_scaling,
            dtype=request.dtype,
            device=request.device,
            attention_backend=request.attention_backend,
            attention_pattern=self.attention_pattern,
        )
        return MaskedDiffusionEngine(model, settings, tokens, progress=progress)


def _plan_memory(request: LoadRequest) -> None:
    """Log what one row of the longest context will take, or refuse it, before weights load."""
    budget = card_budget(request.device)
    if request.context_length is None or budget is None:
        return
    network, _ = open_checkpoint(request.path, rope_scaling=request.rope_scaling)
    sampler = request.settings.for_length(request.settings.default_length or 1)
    plan = MemoryPlan(
        size=NetworkSize.of(network, request.dtype),
        row_lengths=(request.context_length,),
        block_length=sampler.block_length or sampler.generation_length,
        cache_dtype=sampler.cache.dtype,
        mlp_chunk=PassOptions().mlp_chunk,
        guided=sampler.cfg_scale > 0,
    )
    plan = check_plan(plan, budget)
    logger.info("Memory plan: %s, of %.1f GB at hand", plan.describe(), budget / 1e9)
