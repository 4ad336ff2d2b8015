"""A setting on the command line: ``cache=prompt num_steps=16 dtype=bfloat16``."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from opencompass_llada.options import reject_unknown
from opencompass_llada.sampling import SamplerConfig
from opencompass_llada.wrapper.keywords import KEYWORDS

_SAMPLER_NAMES = tuple(field.name for field in dataclasses.fields(SamplerConfig))


def parse_setting(words: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` words.

    Args:
        words: Names are sampler options or keywords of ``LLaDACausalLM``; values are Python
            literals, or else text: ``cache=prompt``, ``cache={'type':'prompt','refresh':8}``.

    Returns:
        Names and values.

    Raises:
        ValueError: For a word without ``=``, or an unknown name (the nearest is given).
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} must be name=value, such as cache=prompt or num_steps=16")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    reject_unknown("sampler option or model keyword", found, [*_SAMPLER_NAMES, *KEYWORDS])
    return found


def apply_setting(model: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's config with a setting in it.

    Args:
        model: A model's config of ``LLaDACausalLM``; not changed.
        setting: From `parse_setting`; sampler options go into ``sampler``, over the papers' form.

    Raises:
        ValueError: If the model has the papers' ``diffusion_config`` and a sampler option is given.
    """
    options = {name: value for name, value in setting.items() if name in _SAMPLER_NAMES}
    # A seed is both; as a keyword it serves every family.
    keywords = {name: value for name, value in setting.items() if name not in options}
    if options and model.get("diffusion_config"):
        raise ValueError(
            f"the model has diffusion_config={dict(model['diffusion_config'])}, beside which "
            f"{sorted(options)} cannot be set; write it as sampler=dict(...)"
        )
    sampler = {**dict(model.get("sampler") or {}), **options}
    return {**model, **keywords, **({"sampler": sampler} if sampler else {})}
