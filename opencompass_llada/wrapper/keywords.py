"""Checks all keywords of LLaDACausalLM, as far as they, and config.json, can tell.

One function for each thing that can be said in the papers' form (LongLLaDA's and UltraLLaDA's
wrappers) or the typed one; saying it in both is an error. No other file knows the papers' names.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opencompass_llada.assets import resolve_path
from opencompass_llada.devices import parse_device, parse_dtype
from opencompass_llada.engines import Family, SamplerSettings
from opencompass_llada.families import check_model_type, find_family, possible_families
from opencompass_llada.inference import PassOptions, PrefillOptions
from opencompass_llada.likelihood import LikelihoodOptions, parse_scoring
from opencompass_llada.networks.adapted_config import read_adapted_config
from opencompass_llada.networks.adapters import AdapterSource, parse_adapter
from opencompass_llada.networks.attention import ATTENTION_BACKENDS
from opencompass_llada.networks.attention_pattern import AttentionPattern, Blocks, with_blocks
from opencompass_llada.options import build, check_fields, check_value, reject_unknown, show
from opencompass_llada.presets import (
    OF_MODEL,
    FittedPreset,
    ModelKind,
    as_options,
    check_preset,
    fit_preset,
    names_preset,
    split_options,
    split_preset,
)
from opencompass_llada.prompting.chat import ChatOptions, parse_chat
from opencompass_llada.prompting.encode import check_token_id
from opencompass_llada.prompting.truncate import LengthLimit, merge_stop_strings
from opencompass_llada.rope.methods import RopeScaling, parse_rope_scaling
from opencompass_llada.sampling import OPTION_HINTS, SamplerConfig

logger = logging.getLogger(__name__)

#: The papers' names for sampler options: those that are ours, too, LLaDA's, then Dream's own.
_DIFFUSION_NAMES = {
    **{n: n for n in ("block_length", "temperature", "cfg_scale", "remasking", "top_p", "top_k")},
    "steps": "num_steps",
    "gen_length": "generation_length",
    "logits_eos_inf": "suppress_eos_logits",
    "confidence_eos_eot_inf": "suppress_eos_eot_confidence",
    "alg": "remasking",
    "alg_temp": "remasking_temperature",
    "eps": "timestep_eps",
}
_MODEL_KWARGS = ("torch_dtype", "dtype", "flash_attention", "device_map", "trust_remote_code")
_HOST = ("meta_template", "tokenizer_only", "sync_rank", "generation_kwargs")


@dataclass(frozen=True, kw_only=True)
class Keywords:
    """The keywords as given, their types checked."""

    path: str
    """A folder, a hub id (`org/name`) or `asset:NAME` for a shipped model."""
    model_type: str | None = None
    """The family, if it should be checked against config.json."""
    rope_scaling: Mapping[str, Any] | RopeScaling | None = None
    """How RoPE is scaled: ``dict(type='ntk', target_length=8192)``; None for no scaling."""
    sampler: Mapping[str, Any] | SamplerConfig | str | None = None
    """Options of the sampler, in place of the defaults of the family; or a preset's name, and
    ``dict(preset='fast', num_steps=32)`` for a preset with options that it does not set."""
    seed: int | None = None
    """Seed of the sampler's random numbers; the same as ``sampler=dict(seed=...)``."""
    max_seq_len: int | None = None
    """The most tokens of a prompt and its answer together; None for no limit."""
    truncation: str | None = None
    """What happens to a longer prompt: ``error``, or the side that is cut (``left``, ``right``,
    ``middle``); None is ``error``."""
    max_out_len: int | None = None
    """Tokens to generate where the data set gives no number; None is the sampler's
    ``generation_length``."""
    batch_size: int | None = None
    """Prompts that are generated together; None for as many as OpenCompass gives at once."""
    stop_words: Sequence[str] | str | None = None
    """Answers are cut before the first of these texts."""
    chat: Any = None
    """True puts the checkpoint's chat template around every prompt, with roles as turns; a dict
    holds fields of `ChatOptions`."""
    likelihood: Mapping[str, Any] | None = None
    """How a masked diffusion model scores texts: ``dict(estimator='bound', num_draws=128)`` and
    other fields of `LikelihoodOptions`."""
    tokenizer_path: str | None = None
    """Where the tokenizer is read; None for the checkpoint's own."""
    tokenizer_kwargs: Mapping[str, Any] | None = None
    """Options of transformers' ``from_pretrained`` for the tokenizer."""
    add_bos: bool = False
    """Begin prompts with the tokenizer's beginning-of-text token, once."""
    dtype: str | torch.dtype | None = None
    """Precision of the weights; None is bfloat16 on CUDA and float32 on a CPU."""
    device: str | int | torch.device | None = None
    """Where the model runs: ``cuda:0``, ``cpu``; None for the first GPU, else the CPU."""
    attention_backend: str | None = None
    """The attention kernel; None lets PyTorch choose."""
    sequence_parallel: int = 1
    """Processes with a GPU each that split every pass, for prompts too long for one GPU:
    ``run_cfg=dict(num_gpus=N, num_procs=N)`` beside it starts them for a task."""
    attention_block: int | None = None
    """Block length to run a block-causal checkpoint with, in place of its own, for one that was
    trained on several (SDAR): how many tokens see each other. The sampler follows."""
    precision: str | None = None
    """``float8``: weights of the linear layers in 8 bit, and their inputs but in small passes of at
    most 64 tokens a prompt, approximate; None: in dtype."""
    prefill: Mapping[str, Any] | PrefillOptions | None = None
    """How full passes compute attention: ``dict(type='sparse', keep=0.3)`` and other fields of
    `PrefillOptions`; None is exact."""
    mask_token_id: int | None = None
    """The mask's id where config.json has none; another than config.json's is an error."""
    peft_path: str | None = None
    """LoRA adapter of peft's format, a folder or a hub id; merged when the model is loaded."""
    peft_kwargs: Mapping[str, Any] | None = None
    """``revision`` and ``subfolder`` of the adapter."""
    # The papers'.
    scaling_config: Mapping[str, Any] | None = None
    """``{'scaling_factor': lambda}``, what multiplies the RoPE base; 1 or nothing for none."""
    diffusion_config: Mapping[str, Any] | None = None
    """``{'steps', 'block_length', ...}`` and ``mask_id``, which must be the checkpoint's."""
    drop_middle: bool = False
    """Take the first and last half of a prompt longer than max_seq_len, which bounds it alone."""
    model_kwargs: Mapping[str, Any] | None = None
    """torch_dtype (or dtype), flash_attention, device_map, and trust_remote_code without effect."""
    pad_token_id: int | None = None
    """Without effect."""
    # OpenCompass's own.
    meta_template: Mapping[str, Any] | None = None
    """OpenCompass's own turns around prompts, in place of ``chat``."""
    tokenizer_only: bool = False
    """Load no weights; only tokens can be counted."""
    sync_rank: bool = False
    """Taken as OpenCompass takes it; a model has one process here, so that it has no effect."""
    generation_kwargs: Mapping[str, Any] | None = None
    """Options of transformers' ``generate``, which are refused but for those without effect."""

    def __post_init__(self) -> None:
        """Check types, and what no other keyword decides."""
        _check_mask_id("mask_token_id", self.mask_token_id)
        check_fields(self)
        if not self.path:
            raise ValueError("path='' must name a checkpoint: its folder, a hub id or asset:NAME")
        for name in ("max_out_len", "batch_size", "attention_block", "sequence_parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(
                    f"{name}={value!r} must be a positive integer; use 1 or more, or leave it out"
                )
        extra = {k: v for k, v in (self.generation_kwargs or {}).items() if v is not None}
        if extra not in ({}, {"num_return_sequences": 1}):
            raise ValueError(
                f"generation_kwargs={show(extra)} are options of transformers' generate, which are "
                "not taken here: a diffusion model generates by sampler=dict(temperature=..., "
                "num_steps=..., ...), an autoregressive one greedily; leave them out"
            )


KEYWORDS = tuple(f.name for f in dataclasses.fields(Keywords) if f.name not in _HOST)
_SAMPLER_OPTIONS = ("preset", *(f.name for f in dataclasses.fields(SamplerConfig)))
_TWO_BLOCKS = (
    "sampler=dict(block_length=...) is how many tokens are denoised together; attention_block=..., "
    "a keyword of the model, how many see each other in a block-causal network, whose sampler then "
    "takes the same blocks by itself."
)
_ENDS = (
    "Answers end where the checkpoint's files say: at eos_token_id of config.json, at the end of a "
    "turn that the tokenizer has, and without a mask also at what generation_config.json lists. "
    "Leave it out, or give further ends as texts: stop_words=[...]."
)
#: What to say of names given in the wrong place: as a keyword, and as an option of the sampler.
_KEYWORD_HINTS = {
    **{n: f"It is an option of the sampler: sampler=dict({n}=...)." for n in _SAMPLER_OPTIONS},
    **dict.fromkeys(("block_length", "block_size"), _TWO_BLOCKS),
    "eos_token_id": _ENDS,
}
_SAMPLER_HINTS = {
    **{n: f"It is a keyword of the model, beside sampler: {n}=... ." for n in KEYWORDS},
    "attention_block": _TWO_BLOCKS,
    **dict.fromkeys(("eos_token_id", "stopping_criteria_idx"), _ENDS),
    **OPTION_HINTS,
}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how the weights are held, as asked for; None is an automatic choice."""

    dtype: torch.dtype | None
    device: torch.device | None
    attention_backend: str
    sequence_parallel: int
    """Processes that split passes."""


@dataclass(frozen=True, kw_only=True)
class WrapperOptions:
    """What the keywords say together, whichever form they were given in."""

    path: str
    family: str | None
    """What model_type names; None where config.json alone decides."""
    rope_scaling: RopeScaling
    settings: SamplerSettings
    mask_token_id: int | None
    """As given; the checkpoint's, where its config.json has one."""
    attention_block: int | None
    """In place of a block-causal checkpoint's own block length."""
    length_limit: LengthLimit
    placement: Placement
    stop_words: tuple[str, ...]
    max_out_len: int | None
    batch_size: int | None
    tokenizer_path: str
    tokenizer_kwargs: Mapping[str, Any]
    add_bos: bool
    chat: ChatOptions | None
    likelihood: LikelihoodOptions
    adapter: AdapterSource | None
    passes: PassOptions
    preset: FittedPreset | None
    """What the sampler's preset, if one is named, put into ``settings`` and ``passes``."""

    def refuse_scoring(self) -> None:
        """Raise a ValueError for options without effect where texts are scored."""
        self.passes.refuse_scoring()
        if (ranks := self.placement.sequence_parallel) > 1:
            raise ValueError(
                f"sequence_parallel={ranks} has no effect where texts are scored, whose passes "
                "each process would run whole; leave it out of models that are scored"
            )

    def generation_length(self, max_out_len: int | None) -> int:
        """Return the tokens to generate: the data set's number, else the model's own."""
        given = check_value("max_out_len", max_out_len, int | None)
        if given is None:
            own = self.max_out_len or self.settings.default_length
            return own or SamplerConfig.generation_length
        if given < 1:
            raise ValueError(
                f"max_out_len={given} must be at least 1, the tokens to generate; use 1 or more, "
                "or None for the model's own number"
            )
        return int(given)


def parse_keywords(keywords: Mapping[str, Any], *, fetch: bool) -> WrapperOptions:
    """Read config.json, if it can be had, and check the keywords of `LLaDACausalLM` by it.

    With ``fetch`` config.json of a hub id may be downloaded. The first keyword that does not fit is
    a ValueError.
    """
    given = build(Keywords, keywords, "LLaDACausalLM", hints=_KEYWORD_HINTS)
    family = check_model_type(given.model_type)
    sampler, mask_token_id = _read_sampler(given)
    families, pattern = _read_checkpoint(given, mask_token_id, fetch)
    preset, sampler = _read_preset(given, sampler, families, pattern)
    if preset is not None:
        given = dataclasses.replace(given, **split_options(preset.options)[1])
    settings = _over_defaults(given, sampler, families, pattern)
    length_limit = _read_length_limit(given)
    return WrapperOptions(
        path=given.path,
        family=family,
        rope_scaling=_read_scaling(given),
        settings=settings,
        mask_token_id=mask_token_id,
        attention_block=given.attention_block,
        length_limit=length_limit,
        placement=_read_placement(given),
        stop_words=merge_stop_strings(given.stop_words),
        max_out_len=given.max_out_len,
        batch_size=given.batch_size,
        tokenizer_path=given.tokenizer_path or given.path,
        tokenizer_kwargs=dict(given.tokenizer_kwargs or {}),
        add_bos=given.add_bos,
        chat=_read_chat(given, length_limit),
        likelihood=parse_scoring(given.likelihood),
        adapter=parse_adapter(given.peft_path, given.peft_kwargs),
        passes=_read_passes(given),
        preset=preset,
    )


def _read_checkpoint(
    given: Keywords, mask_token_id: int | None, fetch: bool
) -> tuple[list[Family], AttentionPattern | None]:
    """Return the family that config.json names and who sees whom in its network.

    Those that it may be, and None, where config.json cannot be read.
    """
    families = possible_families(given.model_type)
    with suppress(ValueError):  # what is wrong is said when the model is loaded
        folder = resolve_path(given.path)
        if fetch or Path(folder).expanduser().is_dir():
            adapter = parse_adapter(given.peft_path, given.peft_kwargs)
            config = read_adapted_config(folder, mask_token_id, adapter, fetch=fetch)
            families = [find_family(config, given.path, given.model_type)]
            return families, families[0].read_pattern(config)
    return families, None


def _read_preset(
    given: Keywords,
    sampler: Mapping[str, Any] | SamplerConfig,
    families: Sequence[Family],
    pattern: AttentionPattern | None,
) -> tuple[FittedPreset | None, Mapping[str, Any] | SamplerConfig]:
    """Return the preset that the sampler's options name, and these with the preset's own."""
    if not names_preset(sampler):
        return None, sampler
    name, options = split_preset(sampler)
    name = check_preset(name, [*options, *(n for n in OF_MODEL if getattr(given, n) is not None)])
    kind = None
    if len(families) == 1 and (pattern is not None or not families[0].has_sampler):
        kind = ModelKind(
            is_autoregressive=families[0].generates_by == "autoregressive",
            is_native=families[0].has_sampler,
            is_block_causal=isinstance(pattern, Blocks),
        )
    fitted = fit_preset(name, kind)
    return fitted, {**options, **split_options(fitted.options)[0]}


def _over_defaults(
    given: Keywords,
    sampler: Mapping[str, Any] | SamplerConfig,
    families: Sequence[Family],
    pattern: AttentionPattern | None,
) -> SamplerSettings:
    """Return the sampler's options over the first family's defaults that they fit."""
    if pattern is not None:
        pattern = with_blocks(pattern, given.attention_block)
    faults: list[ValueError] = []
    for family in families:
        try:
            defaults = family.defaults(paper_form=given.diffusion_config is not None)
            settings = SamplerSettings(sampler, defaults)
            if pattern is not None:
                settings = settings.for_pattern(pattern)
            if given.max_out_len is not None:
                settings.for_length(given.max_out_len)
            return settings
        except ValueError as fault:
            faults.append(fault)
    raise faults[0]


def _read_scaling(given: Keywords) -> RopeScaling:
    """Return the RoPE scaling; the papers' lambda is ``ntk`` with that theta multiplier."""
    config = given.scaling_config
    _reject_both("scaling_config", config, "rope_scaling", given.rope_scaling)
    if not config:
        return parse_rope_scaling(given.rope_scaling)
    reject_unknown("scaling_config option", config, ["scaling_factor"])
    name = "scaling_config['scaling_factor']"
    factor = check_value(name, config.get("scaling_factor", 1), float)
    if factor <= 0:
        raise ValueError(
            f"scaling_config={{'scaling_factor': {factor!r}}} must be a positive number: it "
            "multiplies the RoPE base; use 1 for no scaling"
        )
    scaling = {"type": "ntk", "theta_multiplier": float(factor)}
    return parse_rope_scaling(None if factor == 1 else scaling)


def _read_sampler(given: Keywords) -> tuple[Mapping[str, Any] | SamplerConfig, int | None]:
    """Return the sampler's options under their own names, and the mask's id if it is given."""
    config, sampler, seed = given.diffusion_config, given.sampler, given.seed
    _reject_both("diffusion_config", config, "sampler", sampler)
    if isinstance(sampler, SamplerConfig):
        if seed is not None:
            raise ValueError(f"seed={seed} is given besides a SamplerConfig; set it in the config")
        return sampler, given.mask_token_id
    paper = dict(config or {})
    options = as_options(sampler)
    reject_unknown("sampler option", options, _SAMPLER_OPTIONS, _SAMPLER_HINTS)
    hints = {name: hint for name, hint in _SAMPLER_HINTS.items() if name != "mask_token_id"}
    reject_unknown("diffusion_config option", paper, [*_DIFFUSION_NAMES, "mask_id"], hints)
    mask_id = _check_mask_id("diffusion_config['mask_id']", paper.pop("mask_id", None))
    _reject_both("mask_token_id", given.mask_token_id, "diffusion_config['mask_id']", mask_id)
    mask_id = given.mask_token_id if mask_id is None else mask_id
    own = {_DIFFUSION_NAMES[name]: value for name, value in paper.items()}
    options = options if config is None else own
    if seed is not None:
        _reject_both("seed", seed, "sampler['seed']", options.get("seed"))
        options["seed"] = seed
    return options, mask_id


def _read_length_limit(given: Keywords) -> LengthLimit:
    """Return the limit on prompts; by default too long a one is an error."""
    drops, truncation = given.drop_middle, given.truncation
    _reject_both("drop_middle", drops or None, "truncation", truncation)
    policy = "middle" if drops else truncation or "error"
    if given.max_seq_len is None and policy != "error":
        form = "drop_middle=True" if drops else f"truncation={truncation!r}"
        raise ValueError(f"{form} needs max_seq_len, the limit to shorten prompts to; give it")
    limit = LengthLimit(max_seq_len=given.max_seq_len, policy=policy, prompt_only=drops)
    if given.max_out_len is not None:
        limit.prompt_limit(given.max_out_len)
    return limit


def _read_placement(given: Keywords) -> Placement:
    paper = dict(given.model_kwargs or {})
    reject_unknown("model_kwargs option", paper, _MODEL_KWARGS)
    torch_dtype, dtype, flash, device, remote_code = (paper.get(name) for name in _MODEL_KWARGS)
    check_value("model_kwargs['flash_attention']", flash, bool | None)
    check_value("model_kwargs['trust_remote_code']", remote_code, bool | None)
    name = "model_kwargs['torch_dtype']"
    _reject_both(name, torch_dtype, "model_kwargs['dtype']", dtype)
    paper_dtype = torch_dtype or dtype
    _reject_both(name, paper_dtype, "dtype", given.dtype)
    _reject_both("model_kwargs['device_map']", device, "device", given.device)
    if remote_code:
        logger.info("trust_remote_code has no effect: the model code is part of this package.")
    if flash is not None:
        name = "model_kwargs['flash_attention']"
        _reject_both(name, True, "attention_backend", given.attention_backend)
        logger.info(
            f"{name}={flash}: attention_backend='auto', in which PyTorch takes its own flash or "
            "cuDNN kernel on CUDA; attention_backend='flash_attn' asks for the flash-attn package."
        )
    if given.pad_token_id is not None:
        logger.info("pad_token_id has no effect: padding is never attended to.")
    backend = given.attention_backend or "auto"
    reject_unknown("attention backend", [backend], ATTENTION_BACKENDS)
    place = parse_device(given.device if device is None else device)
    if given.sequence_parallel > 1 and place is not None and place.index is not None:
        raise ValueError(
            f"device={str(place)!r} is one GPU, and each of the processes of "
            f"sequence_parallel={given.sequence_parallel} takes its own; leave device out"
        )
    return Placement(
        dtype=parse_dtype(given.dtype if paper_dtype is None else paper_dtype),
        device=place,
        attention_backend=backend,
        sequence_parallel=given.sequence_parallel,
    )


def _read_passes(given: Keywords) -> PassOptions:
    prefill = given.prefill
    if not isinstance(prefill, PrefillOptions):
        prefill = build(PrefillOptions, dict(prefill or {}), "prefill")
    return PassOptions(precision=given.precision, prefill=prefill)


def _read_chat(given: Keywords, length_limit: LengthLimit) -> ChatOptions | None:
    chat = parse_chat(given.chat)
    if chat is None:
        return None
    if length_limit.policy in ("left", "right"):
        raise ValueError(
            f"truncation={length_limit.policy!r} would cut off an end of the chat template, where "
            "turns are opened; use truncation='middle' with chat"
        )
    if given.add_bos:
        raise ValueError(
            "add_bos=True has no effect with chat, whose template writes all that stands before "
            "the first turn; leave it out"
        )
    if given.meta_template:
        raise ValueError(
            "chat and meta_template are both given and say the same thing; keep chat for the "
            "checkpoint's own template, or meta_template for one that the config spells out"
        )
    return chat


def _check_mask_id(name: str, value: Any) -> int | None:
    remedy = "give the mask's, as the tokenizer has it, or leave it out for config.json's"
    return None if value is None else check_token_id(name, value, remedy)


def _reject_both(first: str, first_value: Any, second: str, second_value: Any) -> None:
    empty: tuple[Any, ...] = (None, {}, ())
    if first_value not in empty and second_value not in empty:
        raise ValueError(f"{first} and {second} are both given and say the same thing; keep one")
