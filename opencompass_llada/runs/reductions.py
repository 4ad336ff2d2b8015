"""Puts what passes may give up into model configs: cache, acceptance, precision and prefill.

Each is a setting of every run, LLADA_CACHE and so on, and LLADA_SAMPLER names several together. All
is exact by default. A model that has no use for one runs without it, which is said; one that fits
none of a run's models is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from opencompass_llada import presets
from opencompass_llada.options import build
from opencompass_llada.presets import PRESETS, ModelKind
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.model_table import KnownModel
from opencompass_llada.runs.settings import Settings, text

logger = logging.getLogger(__name__)

_FORM = "TYPE or TYPE:option=value"
SETTINGS = {
    "sampler": text(
        "a named set of the options below and of the sampler's, of the models that have a use for "
        "them; approximate (docs/reference/keywords.md, presets). Default none",
        *PRESETS,
    ),
    "cache": text(
        f"{_FORM}, of masked diffusion models: keys and values that are kept between steps, "
        "prompt or dual; approximate. Default none"
    ),
    "acceptance": text(
        f"{_FORM}, of masked diffusion models: a rule that reveals several tokens a step, such as "
        "threshold:value=0.9; approximate. Default scheduled"
    ),
    "precision": text(
        "float8: weights of linear layers in 8 bit, and their inputs but in small passes of at "
        "most 64 tokens a prompt, of this package's diffusion networks; approximate. Default: in "
        "dtype",
        "float8",
    ),
    "prefill": text(
        f"{_FORM}, of models in which all tokens see each other: how full passes attend, float8 "
        "or sparse:keep=0.3; approximate. Default exact"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Reductions:
    """What was asked for, by the options' names; nothing by default."""

    asked: Mapping[str, Any] = field(default_factory=dict)
    """Options of the settings of their names."""
    preset: str | None = None
    """The setting ``sampler``; it sets no option that is asked for by itself."""

    @classmethod
    def read(cls, values: Settings) -> Reductions:
        """Read the settings; a ValueError names a wrong option."""
        given = {name: values[name] for name in SETTINGS if name != "sampler" and values[name]}
        preset = values["sampler"] or None
        if preset is not None:
            presets.check_preset(preset, given)
        return cls(
            asked={name: parse(name, written) for name, written in given.items()}, preset=preset
        )

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
        if self.preset is not None:
            self._check_preset(self.preset, known)

    def _check_preset(self, name: str, known: Iterable[KnownModel]) -> None:
        """Do the same for a preset, of whose options one at least has to fit a model."""
        fitted = {facts.title: presets.fit_preset(name, _kind_of(facts)) for facts in known}
        if not any(own.options for own in fitted.values()):
            title, own = next(iter(fitted.items()))
            raise ValueError(
                f"sampler={name!r} fits none of the models: {title} "
                f"{next(iter(own.misfits.values()))}; leave LLADA_SAMPLER out"
            )
        for title, own in fitted.items():
            if own.misfits:
                logger.warning("%s: %s", title, own.describe())

    @property
    def _of_answers(self) -> dict[str, Any]:
        """What has no effect on scores of texts, whose products alone may be in float8."""
        asked = {name: value for name, value in self.asked.items() if name != "precision"}
        return asked if self.preset is None else {**asked, "sampler": self.preset}

    def refuse_scoring(self) -> None:
        """Refuse what changes how answers are made, where nothing but scores of texts is."""
        for name, value in self._of_answers.items():
            raise ValueError(
                f"LLADA_{name.upper()}={value!r} has no effect here: it changes how answers are "
                "made, and this run scores texts and makes none; leave it out"
            )

    def for_scores(self, benchmark: str) -> Reductions:
        """Return what has an effect on scores of texts; tell what a benchmark runs without."""
        if left_out := self._of_answers:
            what = "%s runs without %s: it scores texts and makes no answers"
            logger.warning(what, benchmark, ", ".join(left_out))
        asked = {**presets.PRESETS.get(self.preset or "", {}), **self.asked}
        return Reductions(asked={k: v for k, v in asked.items() if k == "precision"})

    def apply(self, config: Mapping[str, Any], facts: KnownModel) -> dict[str, Any]:
        """Return a model's config with what it has a use for."""
        fitting = {k: v for k, v in self.asked.items() if not find_misfit(k, facts)}
        if self.preset is not None:
            fitting |= presets.fit_preset(self.preset, _kind_of(facts)).options
        return presets.put_in(config, fitting)


def find_preset(model: Mapping[str, Any]) -> presets.FittedPreset | None:
    """Return what a model's config names as its sampler's preset; None for none, or not ours."""
    if not recorded.is_ours(model) or not presets.names_preset(model.get("sampler")):
        return None
    from opencompass_llada.wrapper import LLaDACausalLM

    return LLaDACausalLM.check_arguments(**recorded.model_keywords(model)).preset


def write_out(model: Mapping[str, Any], told: set[str] | None = None) -> Mapping[str, Any]:
    """Return a model's config with what its preset stands for in the place of its name.

    So that a dumped config says what was run; the log says it, too, unless it is among what was
    ``told``. As it is comes back what names no preset, and a model whose config.json is not on this
    machine, so that what fits it is not known: it says so itself when it is loaded.
    """
    fitted, told = find_preset(model), set() if told is None else told
    if fitted is None or not fitted.is_certain:
        return model
    line = f"{recorded.model_name(model)}: {fitted.describe()}"
    if line not in told:
        logger.log(logging.WARNING if fitted.misfits else logging.INFO, "%s", line)
        told.add(line)
    return presets.put_in(model, fitted.options)


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
        if key in options:
            raise ValueError(
                f"LLADA_{name.upper()}={written!r}: {key} is there twice; give each option once, "
                "the type as the first word"
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
    return presets.find_misfit(name, _kind_of(facts))


def _kind_of(facts: KnownModel) -> ModelKind:
    return ModelKind(
        is_autoregressive=facts.is_autoregressive,
        is_native=facts.takes_scaling,
        is_block_causal=facts.block_length is not None,
    )
