"""Reads the keywords of LongLLaDA's and UltraLLaDA's wrappers; no other file knows their names.

One function for each thing that can be said in the papers' form or the typed one; saying it in both
is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from opencompass_llada.devices import parse_device, parse_dtype
from opencompass_llada.networks.attention import ATTENTION_BACKENDS
from opencompass_llada.options import check_value, reject_unknown
from opencompass_llada.prompting.truncate import LengthLimit
from opencompass_llada.rope.methods import RopeScaling, parse_rope_scaling
from opencompass_llada.sampling import SamplerConfig

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


@dataclass(frozen=True, kw_only=True)
class PaperKeywords:
    """The papers' keywords, as given."""

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


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how the weights are held, as asked for; None is an automatic choice."""

    dtype: torch.dtype | None
    device: torch.device | None
    attention_backend: str


def read_scaling(
    paper: PaperKeywords, rope_scaling: Mapping[str, Any] | RopeScaling | None
) -> RopeScaling:
    """Return the RoPE scaling; the papers' lambda is ``ntk`` with that theta multiplier."""
    config = paper.scaling_config
    _reject_both("scaling_config", config, "rope_scaling", rope_scaling)
    if not config:
        return parse_rope_scaling(rope_scaling)
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


def read_sampler(
    paper: PaperKeywords, sampler: Mapping[str, Any] | SamplerConfig | None, seed: int | None
) -> tuple[Mapping[str, Any] | SamplerConfig, int | None]:
    """Return the sampler's options under their own names, and the mask's id if it is given."""
    config = paper.diffusion_config
    _reject_both("diffusion_config", config, "sampler", sampler)
    if isinstance(sampler, SamplerConfig):
        if seed is not None:
            raise ValueError(f"seed={seed} is given besides a SamplerConfig; set it in the config")
        return sampler, None
    mask_id = None
    options = dict(sampler or {})
    if config is not None:
        reject_unknown("diffusion_config option", config, [*_DIFFUSION_NAMES, "mask_id"])
        given = dict(config)
        mask_id = check_value("diffusion_config['mask_id']", given.pop("mask_id", None), int | None)
        options = {_DIFFUSION_NAMES[name]: value for name, value in given.items()}
    if seed is not None:
        _reject_both("seed", seed, "sampler['seed']", options.get("seed"))
        options["seed"] = seed
    return options, mask_id


def read_length_limit(
    paper: PaperKeywords, max_seq_len: int | None, truncation: str | None
) -> LengthLimit:
    """Return the limit on prompts; by default too long a one is an error."""
    drops = paper.drop_middle
    _reject_both("drop_middle", drops or None, "truncation", truncation)
    policy = "middle" if drops else truncation or "error"
    if max_seq_len is None and policy != "error":
        form = "drop_middle=True" if drops else f"truncation={truncation!r}"
        raise ValueError(f"{form} needs max_seq_len, the limit to shorten prompts to; give it")
    return LengthLimit(max_seq_len=max_seq_len, policy=policy, prompt_only=drops)


def read_placement(
    paper: PaperKeywords, dtype: Any, device: Any, attention_backend: str | None
) -> Placement:
    """Return dtype, device and attention backend."""
    given = dict(paper.model_kwargs or {})
    reject_unknown("model_kwargs option", given, _MODEL_KWARGS)
    for name in ("flash_attention", "trust_remote_code"):
        check_value(f"model_kwargs[{name!r}]", given.get(name), bool | None)
    name = "model_kwargs['torch_dtype']"
    _reject_both(name, given.get("torch_dtype"), "model_kwargs['dtype']", given.get("dtype"))
    asked_dtype = given.get("torch_dtype") or given.get("dtype")
    _reject_both(name, asked_dtype, "dtype", dtype)
    _reject_both("model_kwargs['device_map']", given.get("device_map"), "device", device)
    if given.get("trust_remote_code"):
        logger.info("trust_remote_code has no effect: the model code is part of this package.")
    flash = given.get("flash_attention")
    if flash is not None:
        name = "model_kwargs['flash_attention']"
        _reject_both(name, True, "attention_backend", attention_backend)
        logger.info(
            f"{name}={flash}: attention_backend='auto', in which PyTorch takes its own flash or "
            "cuDNN kernel on CUDA; attention_backend='flash_attn' asks for the flash-attn package."
        )
    if paper.pad_token_id is not None:
        logger.info("pad_token_id has no effect: padding is never attended to.")
    backend = attention_backend or "auto"
    reject_unknown("attention backend", [backend], ATTENTION_BACKENDS)
    return Placement(
        dtype=parse_dtype(dtype if asked_dtype is None else asked_dtype),
        device=parse_device(device if given.get("device_map") is None else given["device_map"]),
        attention_backend=backend,
    )


def _reject_both(first: str, first_value: Any, second: str, second_value: Any) -> None:
    empty: tuple[Any, ...] = (None, {}, ())
    if first_value not in empty and second_value not in empty:
        raise ValueError(f"{first} and {second} are both given and say the same thing; keep one")
