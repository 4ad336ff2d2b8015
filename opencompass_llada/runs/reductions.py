"""Puts what passes may give up into model configs: cache, acceptance, precision and prefill.

Each is a setting of every run, LLADA_CACHE and so on. All is exact by default. A model that has no
use for one runs without it, which is said; one that fits none of a run's models is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from opencompass_llada.options import build
from opencompass_llada.runs.model_table import KnownModel
from opencompass_llada.runs.settings import Settings, text

logger = logging.getLogger(__name__)

_FORM = "TYPE or TYPE:option=value"
SETTINGS = {
    "cache": text(
        f"{_FORM}, of masked diffusion models: keys and values that are kept between steps, "
        "prompt or dual; approximate. Default none"
    ),
    "acceptance": text(
        f"{_FORM}, of masked diffusion models: a rule that reveals several tokens a step, such as "
        "threshold:value=0.9; approximate. Default scheduled"
    ),
    "precision": text(
        "float8: weights and inputs of linear layers in 8 bit, of this package's diffusion "
        "networks; approximate. Default: in dtype",
        "float8",
    ),
    "prefill": text(
        f"{_FORM}, of models in which all tokens see each other: how full passes attend, float8 "
        "or sparse:keep=0.3; approximate. Default exact"
    ),
}
_OF_SAMPLER = ("cache", "acceptance")


@dataclass(frozen=True, kw_only=True)
class Reductions:
    """What was asked for, by the settings' names; nothing by default."""

    asked: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Settings) -> Reductions:
        """Read the settings; a ValueError names a wrong option."""
        asked = {name: values[name] for name in SETTINGS if values[name]}
        return cls(asked={name: parse(name, written) for name, written in asked.items()})

    def check(self, models: Iterable[KnownModel]) -> None:
        """Refuse what fits none of a run's models; tell which models run without it."""
        known = list(models)
        for name in self.asked:
            misfits = {facts.title: why for facts in known if (why := find_misfit(name, facts))}
            if len(misfits) == len(known):
                title, why = next(iter(misfits.items()))
                raise ValueError(
                    f"{name} fits none of the models: {title} {why}; leave LLADA_{name.upper()} out"
                )
            for title, why in misfits.items():
                logger.warning("%s runs without %s: it %s", title, name, why)

    def apply(self, config: Mapping[str, Any], facts: KnownModel) -> dict[str, Any]:
        """Return a model's config with what it has a use for."""
        fitting = {k: v for k, v in self.asked.items() if not find_misfit(k, facts)}
        sampler = {name: fitting.pop(name) for name in _OF_SAMPLER if name in fitting}
        if sampler:
            fitting["sampler"] = {**config.get("sampler", {}), **sampler}
        return {**config, **fitting}


def parse(name: str, written: str) -> Any:
    """Read ``TYPE`` or ``TYPE:option=value[:option=value]`` as the options of a setting.

    Values are numbers, or texts such as ``block`` and ``float8``. Example:
    ``prompt:dtype=float8`` gives ``{'type': 'prompt', 'dtype': 'float8'}``.
    """
    # They import torch, which a mistake in another setting need not wait for.
    from opencompass_llada.inference import PassOptions, PrefillOptions
    from opencompass_llada.sampling import CacheOptions
    from opencompass_llada.sampling.unmasking import AcceptanceOptions

    if name == "precision":
        return PassOptions(precision=written).precision
    classes = {"cache": CacheOptions, "acceptance": AcceptanceOptions, "prefill": PrefillOptions}
    kind, *parts = written.strip().split(":")
    options: dict[str, Any] = {"type": kind}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(
                f"LLADA_{name.upper()}={written!r}: {part!r} must be option=value, as in "
                "prompt:dtype=float8 or threshold:value=0.9"
            )
        options[key] = _number_or_text(value)
    build(classes[name], options, name)
    return options


def _number_or_text(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def find_misfit(name: str, facts: KnownModel) -> str:
    """Say why a model has no use for a setting, after 'it'; '' where it has."""
    if facts.is_autoregressive:
        return "is autoregressive"
    if not facts.takes_scaling:
        return "runs in transformers' own network"
    if facts.block_length is not None and name == "cache":
        return "is block-causal, and keeps its finished blocks exactly"
    if facts.block_length is not None and name == "prefill":
        return "is block-causal, and its tokens do not all see each other"
    return ""
