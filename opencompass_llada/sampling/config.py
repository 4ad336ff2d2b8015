"""Settings of the sampler, checked when they are made, before any weight is read.

Holds no model, no tokenizer and no defaults that depend on a checkpoint: the ids of the special
tokens come from the checkpoint through :class:`SpecialTokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.options import build, check_fields, unknown_name_message
from opencompass_llada.sampling.acceptance import (
    AcceptanceOptions,
    parse_acceptance_options,
)
from opencompass_llada.sampling.block_cache import CacheOptions, parse_cache_options
from opencompass_llada.sampling.schedule import SCHEDULES, plan_blocks
from opencompass_llada.sampling.unmasking import (
    STRATEGIES,
)

PUBLISHED_TIMESTEP_EPS = 1e-3  # generation_config.json of Dream-org/Dream-v0-Instruct-7B
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How masked tokens are turned into text; the defaults are LLaDA's, with blocks of 32."""

    generation_length: int = 128
    """Tokens to generate. Not a multiple of ``block_length``: rounded up, the surplus is cut."""

    block_length: int | None = 32
    """Tokens in a block; blocks are finished left to right (semi-autoregressive). None is one
    block of all tokens."""

    num_steps: int | None = None
    """Denoising steps of the whole generation, the same number in each block; None is one token
    at each step."""

    temperature: float = 0.0
    """Sampling temperature; 0 takes the likeliest token."""

    top_p: float | None = None
    """Tokens are drawn from the fewest likeliest ones whose probabilities exceed this together;
    None from all."""

    top_k: int | None = None
    """Tokens are drawn from this many likeliest ones; None from all."""

    cfg_scale: float = 0.0
    """Scale of classifier-free guidance; 0 is none, anything above doubles the forward passes."""

    remasking: str = "low_confidence"
    """Which predictions a step keeps. LLaDA's: the most confident (``low_confidence``) or any
    (``random``). Dream's: each by its own chance (``origin``), or those with the highest
    probability (``maskgit_plus``), lead over the second likeliest token (``topk_margin``) or
    negative entropy (``entropy``) in the distribution that tokens are drawn from."""

    remasking_temperature: float = 0.0
    """Dream's ``alg_temp``: above 0 positions are drawn by softmax(score / this), not ranked."""

    schedule: str | None = None
    """How many predictions each step of a block keeps: an equal share (``even``, LLaDA's) or by
    Dream's ``timesteps``; None is the one that the remasking strategy was published with."""

    timestep_eps: float | None = None
    """Dream's ``eps``, where the timesteps end; None is the published 0.001."""

    seed: int = 0
    """Seed of every random number; only temperatures above 0 and remasking at random draw any."""

    suppress_eos_logits: bool = False
    """Never predict EOS (LLaDA's ``logits_eos_inf``; LLaDA, appendix B.4)."""

    suppress_eos_eot_confidence: bool = False
    """Reveal tokens predicted as EOS or EoT last (LLaDA's ``confidence_eos_eot_inf``; LLaDA,
    appendix B.4)."""

    acceptance: AcceptanceOptions = AcceptanceOptions()
    """What a step reveals beyond its schedule; may be given as a mapping or a rule's name. See
    `acceptance_options`."""

    early_stop: bool = False
    """Stop once everything up to an end token is revealed, or the caller says that the answer is
    complete; the rest is filled with end tokens, which the answer does not show."""

    cache: CacheOptions = CacheOptions()
    """What is kept between steps; may be given as a mapping or a type's name. See `cache`."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: For the first value that does not fit, with the rule and a value that fits.
        """
        object.__setattr__(self, "acceptance", parse_acceptance_options(self.acceptance))
        object.__setattr__(self, "cache", parse_cache_options(self.cache))
        check_fields(self)
        _check_integer("generation_length", self.generation_length, lowest=1)
        for name in ("block_length", "num_steps", "top_k"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), lowest=1)
        _check_integer("seed", self.seed, lowest=0, highest=_LARGEST_SEED)
        _check_not_negative("temperature", self.temperature)
        _check_not_negative("cfg_scale", self.cfg_scale)
        _check_not_negative("remasking_temperature", self.remasking_temperature)
        _check_fraction("top_p", self.top_p, includes_zero=False)
        _check_fraction("timestep_eps", self.timestep_eps, includes_zero=True)
        if self.remasking not in STRATEGIES:
            raise ValueError(unknown_name_message("remasking", self.remasking, STRATEGIES))
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise ValueError(unknown_name_message("schedule", str(self.schedule), SCHEDULES))
        check_combinations(self)
        self._check_fast_modes()
        plan_blocks(self)

    def _check_fast_modes(self) -> None:
        strategy = STRATEGIES[self.remasking]
        if self.acceptance.needs_probabilities and not strategy.of_token:
            raise ValueError(
                f"acceptance={self.acceptance.type!r} goes by the probability of the predicted "
                f"token, which remasking={self.remasking!r} does not give; use "
                "remasking='low_confidence' or acceptance='entropy_bound'"
            )
        if self.acceptance.type != "scheduled" and not strategy.confident:
            raise ValueError(
                f"acceptance={self.acceptance.type!r} ranks positions by what the model says, and "
                f"remasking={self.remasking!r} chooses them at random; use "
                "remasking='low_confidence'"
            )
        if self.cache.keeps and self.cfg_scale:
            raise ValueError(
                f"cfg_scale={self.cfg_scale} runs every step with and without the prompt, and "
                f"cache={self.cache.type!r} keeps keys and values of one of the two; use "
                "cache='none' or cfg_scale=0"
            )

    @property
    def draws(self) -> bool:
        """Whether any random number is drawn."""
        confident = STRATEGIES[self.remasking].confident
        return self.temperature > 0 or self.remasking_temperature > 0 or not confident

    @property
    def resolved_schedule(self) -> str:
        """The schedule's name, never None."""
        return self.schedule or STRATEGIES[self.remasking].schedule

    @property
    def resolved_timestep_eps(self) -> float | None:
        """Where the timesteps end; None for the schedule without timesteps."""
        if self.resolved_schedule != "timesteps":
            return None
        return PUBLISHED_TIMESTEP_EPS if self.timestep_eps is None else self.timestep_eps


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids that the sampler treats specially; they belong to a checkpoint."""

    mask_token_id: int
    """What stands at a position that is not revealed yet."""

    eos_token_id: int
    """End of the text."""

    eot_token_id: int | None = None
    """End of a chat turn; None where the checkpoint has none."""

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """EOS and, where there is one, EoT: ids at the first of which an answer ends."""
        return tuple(i for i in (self.eos_token_id, self.eot_token_id) if i is not None)

    def __post_init__(self) -> None:
        """Check that the ids are possible.

        Raises:
            ValueError: If an id is no integer or negative, or EOS or EoT is the mask.
        """
        check_fields(self)
        _check_integer("mask_token_id", self.mask_token_id, lowest=0)
        _check_integer("eos_token_id", self.eos_token_id, lowest=0)
        if self.eot_token_id is not None:
            _check_integer("eot_token_id", self.eot_token_id, lowest=0)
        for name in ("eos_token_id", "eot_token_id"):
            if getattr(self, name) == self.mask_token_id:
                raise ValueError(
                    f"{name}={self.mask_token_id} must differ from mask_token_id; take both from "
                    "the checkpoint's config.json and tokenizer"
                )


def parse_sampler_config(options: Mapping[str, Any] | SamplerConfig | None) -> SamplerConfig:
    """Make a sampler config of a mapping such as ``dict(block_length=32, num_steps=32)``.

    Args:
        options: Field names and values; None or an empty mapping gives the defaults, a config is
            returned as it is. The mapping is not changed.

    Returns:
        The checked config.

    Raises:
        ValueError: If a name is unknown (the nearest valid one is named) or a value does not fit.
    """
    return build(SamplerConfig, options, "sampler")


def _check_integer(name: str, value: int, *, lowest: int, highest: int | None = None) -> None:
    if value < lowest:
        raise ValueError(f"{name}={value} must be at least {lowest}; use {lowest} or more")
    if highest is not None and value > highest:
        raise ValueError(f"{name}={value} must be at most {highest}; use {highest} or less")


def _check_not_negative(name: str, value: float) -> None:
    if value < 0:
        raise ValueError(f"{name}={value!r} must be a finite number of at least 0; use 0 for none")


def _check_fraction(name: str, value: float | None, *, includes_zero: bool) -> None:
    if value is None:
        return
    if not 0 <= value < 1 or (value == 0 and not includes_zero):
        lowest = "at least 0" if includes_zero else "above 0"
        raise ValueError(f"{name}={value!r} must be {lowest} and below 1; use None to leave it out")


def check_combinations(config: SamplerConfig) -> None:
    """Refuse options that have no effect beside others; the published codes ignore them.

    Args:
        config: A config whose values are each valid.

    Raises:
        ValueError: For the first option without effect, with what to do instead.
    """
    strategy, name = STRATEGIES[config.remasking], config.remasking
    if config.suppress_eos_eot_confidence and not strategy.of_token:
        raise ValueError(
            f"suppress_eos_eot_confidence=True has no effect with remasking={name!r}, which "
            "uses no confidence of a token; use remasking='low_confidence' or 'maskgit_plus', or "
            "suppress_eos_logits=True"
        )
    if config.remasking_temperature and not strategy.confident:
        raise ValueError(
            f"remasking_temperature={config.remasking_temperature} has no effect with "
            f"remasking={name!r}, which chooses positions at random as it is; leave it out, or "
            "use remasking='entropy'"
        )
    for option in ("top_p", "top_k"):
        idle = config.temperature == 0 and not strategy.of_drawn_distribution
        if getattr(config, option) is not None and idle:
            raise ValueError(
                f"{option}={getattr(config, option)} has no effect at temperature=0 with "
                f"remasking={name!r}; use {option}=None, or a temperature above 0"
            )
    if config.timestep_eps is not None and config.resolved_schedule != "timesteps":
        raise ValueError(
            f"timestep_eps={config.timestep_eps} has no effect with schedule="
            f"{config.resolved_schedule!r}; leave it out, or use schedule='timesteps'"
        )
    if strategy.independent and config.resolved_schedule != "timesteps":
        raise ValueError(
            f"schedule={config.schedule!r} gives no probabilities, by which remasking={name!r} "
            "reveals; use schedule='timesteps' (or None), or remasking='random'"
        )
