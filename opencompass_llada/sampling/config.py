"""Checks the sampler's settings when they are made, before any weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from opencompass_llada.options import build, check_at_least, check_fields, reject_unknown
from opencompass_llada.sampling.block_cache import CacheOptions
from opencompass_llada.sampling.schedule import SCHEDULES, BlockPlan, count_blocks
from opencompass_llada.sampling.unmasking import (
    ACCEPTANCE_RULES,
    RULE_HINTS,
    STRATEGIES,
    AcceptanceOptions,
)

_PUBLISHED_EPS = 1e-3  # generation_config.json of Dream-org/Dream-v0-Instruct-7B
_THRESHOLD = "It is acceptance=dict(type='threshold', value=...) here."
#: Options of SDAR's, LLaDA2's and Fast-dLLM's codes -> what to say where one is given.
OPTION_HINTS = {
    "remasking_strategy": "It is remasking here, with acceptance; docs/reference/sampler_names.md "
    "has SDAR's strategies.",
    **dict.fromkeys(("confidence_threshold", "threshold"), _THRESHOLD),
    "denoising_steps": "It counts the steps of a block, and num_steps those of the whole "
    "generation: as many for each of its blocks.",
    "small_block_size": "It is sub_block_length here.",
}


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How masked tokens are turned into text; the defaults are LLaDA's, with blocks of 32."""

    generation_length: int = 128
    """Tokens to generate. Not a multiple of ``block_length``: rounded up, the surplus is cut."""
    block_length: int | None = 32
    """Tokens in a block; blocks are finished left to right. None is one block of all tokens."""
    sub_block_length: int | None = None
    """Tokens of a block-causal network's block that are denoised together, from left to right
    (Fast-dLLM v2's ``small_block_size``); None is the whole block."""
    num_steps: int | None = None
    """Of the whole generation, the same number in each block; None is one token at each step."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float | None = None
    """Tokens are drawn from the fewest likeliest ones whose probabilities exceed this together;
    None from all."""
    top_k: int | None = None
    """Tokens are drawn from this many likeliest ones; None from all."""
    cfg_scale: float = 0.0
    """Scale of classifier-free guidance; 0 is none, anything above doubles the forward passes."""
    remasking: str = "low_confidence"
    """Which predictions a step reveals. LLaDA's: the most confident (``low_confidence``) or any
    (``random``). Dream's: each by its own chance (``origin``), or those with the highest
    probability (``maskgit_plus``), lead over the second likeliest token (``topk_margin``) or
    negative entropy (``entropy``) in the distribution that tokens are drawn from. SDAR's: the
    leftmost (``sequential``); its others are ``maskgit_plus`` with ``schedule='even'``."""
    remasking_temperature: float = 0.0
    """Dream's ``alg_temp``: above 0 positions are drawn by softmax(score / this), not ranked."""
    schedule: str | None = None
    """How many predictions each step of a block reveals: an equal share (``even``, LLaDA's) or by
    Dream's ``timesteps``; None is the one that the remasking strategy was published with."""
    timestep_eps: float | None = None
    """Dream's ``eps``, where the timesteps end; None is the published 0.001."""
    seed: int = 0
    """Seed of every random number; only temperatures above 0 and remasking at random draw any."""
    suppress_eos_logits: bool = False
    """Never predict EOS (LLaDA's ``logits_eos_inf``; LLaDA, appendix B.4)."""
    suppress_eos_eot_confidence: bool = False
    """Reveal tokens predicted as EOS or EoT last (its ``confidence_eos_eot_inf``)."""
    acceptance: AcceptanceOptions = AcceptanceOptions()
    """What a step reveals beyond its schedule: ``dict(type='threshold', value=0.9)`` or a name."""
    early_stop: bool = False
    """Stop once everything up to an end token is revealed, or the caller says that the answer is
    complete; the rest is filled with end tokens, which the answer does not show."""
    variable_length: bool = False
    """Append the masks of a block once the one before it is finished, until an end token is among
    the finished ones; so iLLaDA is read. ``generation_length`` is the most. What follows the end
    token is filled with end tokens. Else all masks are there from the start."""
    cache: CacheOptions = CacheOptions()
    """What is cached between steps: ``dict(type='prompt', refresh=8)`` or a type's name."""

    def __post_init__(self) -> None:
        """Check every value, and that none is without effect beside the others."""
        for name, options in (("acceptance", AcceptanceOptions), ("cache", CacheOptions)):
            built = build(options, getattr(self, name), name, by_name="type")
            object.__setattr__(self, name, built)
        check_fields(self)
        self._check_ranges()
        for is_wrong, fault in self._faults_together():
            if is_wrong:
                raise ValueError(fault)
        self.plan()

    def _check_ranges(self) -> None:
        check_at_least(self, 1, "generation_length", "block_length", "sub_block_length")
        check_at_least(self, 1, "num_steps")
        if self.top_k is not None and self.top_k < 1:  # other codes' 0
            raise ValueError(f"top_k={self.top_k} must be at least 1; use None to draw from all")
        check_at_least(self, 0, "seed", "temperature", "cfg_scale", "remasking_temperature")
        for name, lowest in (("top_p", "above 0"), ("timestep_eps", "at least 0")):
            value = getattr(self, name)
            if value is not None and not (0 < value < 1 or (value == 0 and name != "top_p")):
                raise ValueError(
                    f"{name}={value!r} must be {lowest} and below 1; use None to leave it out"
                )
        reject_unknown("remasking", [self.remasking], STRATEGIES, RULE_HINTS)
        if self.schedule is not None:
            reject_unknown("schedule", [self.schedule], SCHEDULES)

    def _faults_together(self) -> Iterator[tuple[bool, str]]:
        """Yield what excludes each other or has no effect, which the published codes ignore."""
        strategy, rule = STRATEGIES[self.remasking], ACCEPTANCE_RULES.get(self.acceptance.type)
        name, schedule, way = self.remasking, self.resolved_schedule, self.acceptance.type
        yield (
            self.suppress_eos_eot_confidence and not strategy.of_token,
            f"suppress_eos_eot_confidence=True has no effect with remasking={name!r}, which uses "
            "no confidence of a token; use remasking='low_confidence' or 'maskgit_plus', or "
            "suppress_eos_logits=True",
        )
        yield (
            self.remasking_temperature > 0 and strategy.score is None,
            f"remasking_temperature={self.remasking_temperature} has no effect with remasking="
            f"{name!r}, which chooses positions at random as it is; leave it out, or use "
            "remasking='entropy'",
        )
        for option in ("top_p", "top_k"):
            yield (
                getattr(self, option) is not None
                and self.temperature == 0
                and not strategy.of_drawn_distribution,
                f"{option}={getattr(self, option)} has no effect at temperature=0 with "
                f"remasking={name!r}; use {option}=None, or a temperature above 0",
            )
        yield (
            self.timestep_eps is not None and schedule != "timesteps",
            f"timestep_eps={self.timestep_eps} has no effect with schedule={schedule!r}; leave it "
            "out, or use schedule='timesteps'",
        )
        yield (
            strategy.independent and schedule != "timesteps",
            f"schedule={self.schedule!r} gives no probabilities, by which remasking={name!r} "
            "reveals; use schedule='timesteps' (or None), or remasking='random'",
        )
        yield (
            rule is not None and strategy.score is None,
            f"acceptance={way!r} ranks positions by what the model says, and remasking={name!r} "
            "chooses them at random; use acceptance='scheduled', or "
            "remasking='low_confidence'",
        )
        yield (
            rule is not None and rule.needs_probabilities and not strategy.of_token,
            f"acceptance={way!r} goes by the probability of the predicted token, which remasking="
            f"{name!r} does not give; use acceptance='scheduled' or 'entropy_bound', or "
            "remasking='low_confidence'",
        )
        yield (
            rule is not None and rule.needs_probabilities and self.remasking_temperature > 0,
            f"acceptance={way!r} goes by the probability of the predicted token, which "
            f"remasking_temperature={self.remasking_temperature} blurs; leave one of them out",
        )
        yield (
            self.cache.enabled and self.cfg_scale > 0,
            f"cfg_scale={self.cfg_scale} runs every step with and without the prompt, and cache="
            f"{self.cache.type!r} keeps keys and values of one of the two; use cache='none' or "
            "cfg_scale=0",
        )

        yield (
            self.variable_length and self.block_length is None,
            "variable_length=True appends one block after the other, and block_length=None is one "
            "block of all tokens; give block_length, e.g. 32 (a block-causal network has its own "
            "blocks, and early_stop=True ends there at an end token)",
        )
        yield (
            self.variable_length and self.cache.type == "dual",
            "cache='dual' caches what follows the active block, too, and with variable_length=True "
            "nothing does; use cache='prompt'",
        )
        yield (
            self.variable_length and self.cache.refresh == "never",
            "cache refresh='never' runs the whole row once, and with variable_length=True it is "
            "not there yet; use refresh='block'",
        )

    def for_pattern(self, causal_block: int | None) -> SamplerConfig:
        """Return the config for a network, given its block length if it is block-causal.

        There the sampler's blocks are the network's; what does not fit the network is a ValueError.
        """
        way, part = self.cache.type, self.sub_block_length
        if causal_block is None:
            if part is not None:
                raise ValueError(
                    f"sub_block_length={part} cuts the blocks of a block-causal network, and this "
                    f"one is fully bidirectional; use block_length={part}"
                )
            if way == "prefix":
                raise ValueError(
                    "cache='prefix' keeps blocks that nothing later changes, and in a fully "
                    "bidirectional network every token changes with every other; use cache='none', "
                    "or 'prompt' or 'dual', which are approximate"
                )
            return self
        if self.variable_length:
            raise ValueError(
                "variable_length=True has no effect: no block of a block-causal network sees a "
                "later one; use early_stop=True to end at an end token"
            )
        if self.block_length not in (None, causal_block):
            raise ValueError(
                f"block_length={self.block_length} differs from the {causal_block} tokens of the "
                "network's blocks: block_length of the sampler is how many tokens are denoised "
                "together, attention_block of the model (else config.json) how many see each "
                "other, and a block-causal network has one length for both. Leave block_length "
                "out, or, where the checkpoint was trained on such blocks, too, load it with "
                f"attention_block={self.block_length}"
            )
        if way in ("prompt", "dual"):
            raise ValueError(
                f"cache={way!r} approximates what a block-causal network has exactly; use "
                "cache='prefix'"
            )
        if causal_block % (part or 1):
            raise ValueError(
                f"sub_block_length={part} must divide the {causal_block} tokens of the "
                "network's blocks, which config.json or attention_block gives; use "
                f"{math.gcd(part or 1, causal_block)}, or None"
            )
        return replace(self, block_length=causal_block)

    @property
    def draws(self) -> bool:
        """Whether any random number is drawn."""
        by_chance = STRATEGIES[self.remasking].score is None
        return self.temperature > 0 or self.remasking_temperature > 0 or by_chance

    @property
    def resolved_schedule(self) -> str:
        """The schedule's name, never None."""
        return self.schedule or STRATEGIES[self.remasking].schedule

    def plan(self) -> BlockPlan:
        """Cut the generation into blocks and steps; steps that do not fit are a ValueError."""
        length = self.generation_length
        block_length = self.sub_block_length or self.block_length or length
        eps = _PUBLISHED_EPS if self.timestep_eps is None else self.timestep_eps
        one_a_token = count_blocks(length, block_length) * block_length
        return BlockPlan(
            generation_length=length,
            block_length=block_length,
            num_steps=one_a_token if self.num_steps is None else self.num_steps,
            timestep_eps=eps if self.resolved_schedule == "timesteps" else None,
        )


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids that the sampler treats specially; they belong to a checkpoint."""

    mask_token_id: int
    eos_token_id: int
    eot_token_id: int | None = None
    """End of a chat turn; None where the checkpoint has none."""

    def __post_init__(self) -> None:
        """Check that the ids are possible."""
        check_fields(self)
        check_at_least(self, 0, "mask_token_id", "eos_token_id", "eot_token_id")
        for name in ("eos_token_id", "eot_token_id"):
            if getattr(self, name) == self.mask_token_id:
                raise ValueError(
                    f"{name}={self.mask_token_id} must differ from mask_token_id; take both from "
                    "the checkpoint's config.json and tokenizer"
                )

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """EOS and, where there is one, EoT: ids at the first of which an answer ends."""
        return tuple(i for i in (self.eos_token_id, self.eot_token_id) if i is not None)
