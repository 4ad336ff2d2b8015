"""What the families of native masked diffusion networks share: a network, a mask, a sampler.

A family of this kind says how its end of a turn is written and how it samples by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerBase

from opencompass_llada.engines import Engine, MaskedDiffusionEngine, SamplerSettings
from opencompass_llada.families.base import Family, LoadRequest
from opencompass_llada.inference import (
    MemoryPlan,
    NetworkSize,
    PassOptions,
    card_budget,
    check_plan,
)
from opencompass_llada.logs import get_logger
from opencompass_llada.networks import load_checkpoint, open_checkpoint
from opencompass_llada.networks.attention_pattern import FULL, AttentionPattern
from opencompass_llada.prompting.encode import check_vocabulary, find_token_id
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.sampling import SpecialTokens, make_progress

logger = get_logger(__name__)


def masked_diffusion_family(
    *,
    name: str,
    label: str,
    turn_end: str,
    attention_pattern: AttentionPattern = FULL,
    sampler_defaults: Mapping[str, Any] = MappingProxyType({}),
    paper_defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Family:
    """Describe a family of masked diffusion models.

    Args:
        name: The family's name, as `model_type` of the wrapper takes it.
        label: Its name in messages.
        turn_end: Text of the token that ends a chat turn; a tokenizer without it has none.
        attention_pattern: Who sees whom in its networks.
        sampler_defaults: Sampler options that differ from `SamplerConfig`'s.
        paper_defaults: Those of the papers' wrapper, for options given in its form.

    Returns:
        The family.
    """

    def special_tokens(
        path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> SpecialTokens:
        missing = [
            field for field in ("mask_token_id", "eos_token_id") if config.get(field) is None
        ]
        if missing:
            raise ValueError(
                f"config.json has no {' and no '.join(missing)}; {label}'s published checkpoints "
                "have both. Add them to the checkpoint's config.json."
            )
        check_vocabulary(tokenizer, config.get("embedding_size") or config.get("vocab_size"))
        return SpecialTokens(
            mask_token_id=config["mask_token_id"],
            eos_token_id=config["eos_token_id"],
            eot_token_id=find_token_id(tokenizer, turn_end),
        )

    def check(path: str, rope_scaling: RopeScaling, settings: SamplerSettings) -> None:
        settings.with_defaults(sampler_defaults, paper_defaults)
        open_checkpoint(path, rope_scaling=rope_scaling)

    def load(request: LoadRequest) -> Engine:
        progress = make_progress()  # reads a variable, whose fault shows before the weights load
        settings = request.settings.with_defaults(sampler_defaults, paper_defaults)
        own = {**sampler_defaults, **(paper_defaults if settings.paper_form else {})}
        unset = {k: v for k, v in own.items() if k not in request.settings.given}
        if unset:
            logger.info("Sampler options that are not given are %s's own: %s", label, unset)
        tokens = special_tokens(request.path, request.config, request.tokenizer)
        _plan_memory(request, settings)
        model = load_checkpoint(
            request.path,
            rope_scaling=request.rope_scaling,
            dtype=request.dtype,
            device=request.device,
            attention_backend=request.attention_backend,
            attention_pattern=attention_pattern,
        )
        return MaskedDiffusionEngine(model, settings, tokens, progress=progress)

    return Family(
        name=name,
        generates_by="masked_diffusion",
        check=check,
        load=load,
        special_tokens=special_tokens,
        attention_pattern=attention_pattern,
        sampler_defaults=sampler_defaults,
        paper_defaults=paper_defaults,
    )


def _plan_memory(request: LoadRequest, settings: SamplerSettings) -> None:
    """Log what one row of the longest context will take, or refuse it, before weights load.

    Raises:
        MemoryPlanError: If it does not fit the card; names the nearest plan that does.
    """
    budget = card_budget(request.device)
    if request.context_length is None or budget is None:
        return
    network, _ = open_checkpoint(request.path, rope_scaling=request.rope_scaling)
    sampler = settings.for_length(settings.default_length or 1)
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
