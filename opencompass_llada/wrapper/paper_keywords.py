"""The two forms of the wrapper's keywords, the papers' and the typed one, read into one.

One function for each thing that can be said in either form; saying it in both is an error. Reads
nothing from disk, and knows neither OpenCompass nor a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from opencompass_llada.devices import parse_device, parse_dtype
from opencompass_llada.engines import SamplerSettings
from opencompass_llada.logs import get_logger
from opencompass_llada.networks import check_backend_name
from opencompass_llada.options import check_value, reject_unknown, show
from opencompass_llada.prompting.truncate import check_truncation_policy
from opencompass_llada.rope.methods import RopeScaling, parse_rope_scaling
from opencompass_llada.sampling import SamplerConfig

logger = get_logger(__name__)

# The papers' names for sampler options: LLaDA's, then Dream's own.
_DIFFUSION_NAMES = {
    "steps": "num_steps",
    "gen_length": "generation_length",
    "block_length": "block_length",
    "temperature": "temperature",
    "cfg_scale": "cfg_scale",
    "remasking": "remasking",
    "logits_eos_inf": "suppress_eos_logits",
    "confidence_eos_eot_inf": "suppress_eos_eot_confidence",
    "alg": "remasking",
    "alg_temp": "remasking_temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "eps": "timestep_eps",
}
_MODEL_KWARGS = ("torch_dtype", "dtype", "flash_attention", "device_map", "trust_remote_code")


@dataclass(frozen=True, kw_only=True)
class LengthLimit:
    """How long a prompt may be and what happens to a longer one."""

    max_seq_len: int | None
    """Tokens; None for no limit."""

    policy: str
    """One of `truncation.TRUNCATION_POLICIES`."""

    prompt_only: bool
    """True: max_seq_len bounds the prompt, as the papers' and OpenCompass's drop_middle means it.
    False: it bounds prompt and generation together."""

    def prompt_limit(self, generation_length: int) -> int | None:
        """Return the most prompt tokens beside a generation; None for no limit.

        Raises:
            ValueError: If nothing is left for the prompt.
        """
        if self.max_seq_len is None or self.prompt_only:
            return self.max_seq_len
        limit = self.max_seq_len - generation_length
        if limit < 1:
            raise ValueError(
                f"max_seq_len={self.max_seq_len} leaves no room for a prompt beside "
                f"{generation_length} generated tokens; raise max_seq_len to "
                f"{generation_length + 1} or more, or lower max_out_len"
            )
        return limit


def parse_scaling(scaling_config: Any, rope_scaling: Any) -> RopeScaling:
    """Return the RoPE scaling from the papers' form or the typed one.

    Args:
        scaling_config: The papers': ``{'scaling_factor': lambda}``, 1 or nothing for none.
        rope_scaling: Ours: ``dict(type=..., ...)``.

    Returns:
        The scaling; the papers' lambda is ``ntk`` with that theta multiplier.

    Raises:
        ValueError: If both are given, a name is unknown or a value does not fit.
    """
    _reject_both("scaling_config", scaling_config, "rope_scaling", rope_scaling)
    if not scaling_config:
        return parse_rope_scaling(rope_scaling)
    _require_mapping("scaling_config", scaling_config)
    reject_unknown("scaling_config option", scaling_config, ["scaling_factor"])
    name = "scaling_config['scaling_factor']"
    factor = check_value(name, scaling_config.get("scaling_factor", 1), float)
    if factor <= 0:
        raise ValueError(
            f"scaling_config={{'scaling_factor': {factor!r}}} must be a positive number: it "
            "multiplies the RoPE base; use 1 for no scaling"
        )
    if factor == 1:
        return parse_rope_scaling(None)
    return parse_rope_scaling({"type": "ntk", "theta_multiplier": float(factor)})


def parse_sampler(
    diffusion_config: Any,
    sampler: Any,
    seed: int | None,
    *,
    defaults: Sequence[Mapping[str, Any]] = ({},),
    max_out_len: int | None = None,
) -> tuple[SamplerSettings, int | None]:
    """Return the sampler's settings from the papers' form or the typed one.

    Args:
        diffusion_config: The papers': ``{'steps', 'block_length', ...}``.
        sampler: Ours: the fields of `SamplerConfig`, or one.
        seed: The run's seed; None for the default.
        defaults: Sampler defaults of the families that the checkpoint may be of, in the form that
            is given.
        max_out_len: A generation length that the settings must fit; None for none.

    Returns:
        The settings, and the papers' ``mask_id`` if given, to compare with the checkpoint's.

    Raises:
        ValueError: If both are given, a name is unknown or a value does not fit.
    """
    _reject_both("diffusion_config", diffusion_config, "sampler", sampler)
    if isinstance(sampler, SamplerConfig):
        if seed is not None:
            raise ValueError(f"seed={seed} is given besides a SamplerConfig; set it in the config")
        return SamplerSettings.under_any(sampler, defaults, max_out_len), None
    mask_id = None
    if diffusion_config is not None:
        _require_mapping("diffusion_config", diffusion_config)
        reject_unknown("diffusion_config option", diffusion_config, [*_DIFFUSION_NAMES, "mask_id"])
        given = dict(diffusion_config)
        mask_id = check_value("diffusion_config['mask_id']", given.pop("mask_id", None), int | None)
        options = {_DIFFUSION_NAMES[name]: value for name, value in given.items()}
    else:
        if sampler is not None:
            _require_mapping("sampler", sampler)
        options = dict(sampler or {})
    if seed is not None:
        _reject_both("seed", seed, "sampler['seed']", options.get("seed"))
        options["seed"] = seed
    form = {"paper_form": diffusion_config is not None}
    return SamplerSettings.under_any(options, defaults, max_out_len, **form), mask_id


def parse_length_limit(
    max_seq_len: int | None, drop_middle: bool, truncation: str | None
) -> LengthLimit:
    """Return the limit on prompts from the papers' form or the typed one.

    Args:
        max_seq_len: Tokens; None for no limit.
        drop_middle: The papers': keep the first and the last half of a long prompt.
        truncation: Ours: a policy; None is ``error``.

    Returns:
        The limit.

    Raises:
        ValueError: If both forms are given or a value does not fit.
    """
    _reject_both("drop_middle", drop_middle or None, "truncation", truncation)
    if max_seq_len is not None and max_seq_len < 1:
        raise ValueError(f"max_seq_len={max_seq_len!r} must be a positive integer, or None")
    if max_seq_len is None and (drop_middle or truncation not in (None, "error")):
        form = "drop_middle=True" if drop_middle else f"truncation={truncation!r}"
        raise ValueError(f"{form} needs max_seq_len, the limit to shorten prompts to; give it")
    policy = "middle" if drop_middle else check_truncation_policy(truncation or "error")
    return LengthLimit(max_seq_len=max_seq_len, policy=policy, prompt_only=drop_middle)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how the weights are held, as asked for; None is an automatic choice."""

    dtype: torch.dtype | None
    device: torch.device | None
    attention_backend: str


def parse_placement(
    model_kwargs: Mapping[str, Any] | None, dtype: Any, device: Any, attention_backend: str | None
) -> Placement:
    """Return dtype, device and attention backend from the papers' model_kwargs or the typed form.

    Args:
        model_kwargs: The papers': torch_dtype (or dtype), flash_attention, device_map and
            trust_remote_code, which is not needed and has no effect.
        dtype: Ours.
        device: Ours.
        attention_backend: Ours.

    Returns:
        What was asked for.

    Raises:
        ValueError: If one thing is given twice or a name is unknown.
    """
    given = dict(model_kwargs or {})
    reject_unknown("model_kwargs option", given, _MODEL_KWARGS)
    for name in ("flash_attention", "trust_remote_code"):
        check_value(f"model_kwargs[{name!r}]", given.get(name), bool | None)
    _reject_both(
        "model_kwargs['torch_dtype']",
        given.get("torch_dtype"),
        "model_kwargs['dtype']",
        given.get("dtype"),
    )
    asked_dtype = given.get("torch_dtype") or given.get("dtype")
    _reject_both("model_kwargs['torch_dtype']", asked_dtype, "dtype", dtype)
    _reject_both("model_kwargs['device_map']", given.get("device_map"), "device", device)
    if given.get("trust_remote_code"):
        logger.info("trust_remote_code has no effect: the model code is part of this package.")
    if given.get("flash_attention") is not None:
        _reject_both(
            "model_kwargs['flash_attention']", True, "attention_backend", attention_backend
        )
        logger.info(
            "model_kwargs['flash_attention']=%s: attention_backend='auto', in which PyTorch takes "
            "its own flash or cuDNN kernel on CUDA; attention_backend='flash_attn' asks for the "
            "flash-attn package.",
            given["flash_attention"],
        )
    return Placement(
        dtype=parse_dtype(dtype if asked_dtype is None else asked_dtype),
        device=parse_device(device if given.get("device_map") is None else given["device_map"]),
        attention_backend=check_backend_name(attention_backend or "auto"),
    )


def _reject_both(first: str, first_value: Any, second: str, second_value: Any) -> None:
    empty: tuple[Any, ...] = (None, {}, ())
    if first_value not in empty and second_value not in empty:
        raise ValueError(f"{first} and {second} are both given and say the same thing; keep one")


def _require_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={show(value)} must be a dict of options")
