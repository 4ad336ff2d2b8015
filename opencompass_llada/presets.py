"""Names sets of options that make answers faster, and says which models have a use for an option.

`PRESETS` is the one table of them: the wrapper's ``sampler="fast"``, LLADA_SAMPLER, the commands,
messages and docs read it. docs/experiments/fast_modes.md says what each was chosen by.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.options import check_value, nearest, show

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"cache": {"type": "prompt", "dtype": "float8"}, "early_stop": True},
}
"""Name -> options of the sampler, and of the model where `OF_MODEL` has them."""

OF_MODEL = ("precision", "prefill")
"""Options that are keywords of the model, and not of its sampler."""


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """What of a model decides which options it has a use for."""

    is_autoregressive: bool = False
    is_native: bool = True
    """Whether it runs in a network of this package."""
    is_block_causal: bool = False


@dataclass(frozen=True, kw_only=True)
class FittedPreset:
    """What a preset stands for in one model."""

    name: str
    options: Mapping[str, Any]
    """Those that the model has a use for."""
    misfits: Mapping[str, str]
    """The others, and why it has none, after "it"."""
    is_certain: bool
    """False where the model's kind is not known, and nothing is left out."""

    def describe(self) -> str:
        """Return one line for the log: what is taken, and what is left out for which reason."""
        shown = f"sampler={self.name!r} is {write_options(self.options) or 'without effect here'}"
        return "; ".join([shown, *tell_misfits(self.misfits)])


def find_misfit(name: str, kind: ModelKind) -> str:
    """Say why a model has no use for an option, after 'it'; '' where it has."""
    if kind.is_autoregressive:
        return "is autoregressive"
    if not kind.is_native:
        return "runs in transformers' own network"
    if kind.is_block_causal and name == "cache":
        return "is block-causal, and keeps its finished blocks exactly"
    if kind.is_block_causal and name == "prefill":
        return "is block-causal, and its tokens do not all see each other"
    return ""


def tell_misfits(misfits: Mapping[str, str]) -> list[str]:
    """Return ``without NAMES, since it WHY`` for each reason that options have no use for."""
    by_reason: dict[str, list[str]] = {}
    for name, why in misfits.items():
        by_reason.setdefault(why, []).append(name)
    return [f"without {', '.join(names)}, since it {why}" for why, names in by_reason.items()]


def fit_preset(name: str, kind: ModelKind | None) -> FittedPreset:
    """Return what a preset stands for in a model, of a kind that is not known if None."""
    options = copy.deepcopy(dict(PRESETS[name]))  # configs are written into
    faults = {option: find_misfit(option, kind or ModelKind()) for option in options}
    return FittedPreset(
        name=name,
        options={option: value for option, value in options.items() if not faults[option]},
        misfits={option: why for option, why in faults.items() if why},
        is_certain=kind is not None,
    )


def as_options(sampler: Any) -> dict[str, Any]:
    """Return what a config gives as ``sampler`` as a mapping: ``"fast"`` as ``preset="fast"``.

    None, and what is no sampler at all, has no options.
    """
    if isinstance(sampler, str):
        return {"preset": sampler}
    if dataclasses.is_dataclass(sampler) and not isinstance(sampler, type):
        return dataclasses.asdict(sampler)
    return dict(sampler) if isinstance(sampler, Mapping) else {}


def names_preset(sampler: Any) -> bool:
    """Tell whether what a config gives as ``sampler`` names a preset, be the name a wrong one."""
    return "preset" in as_options(sampler)


def split_preset(sampler: Any) -> tuple[str | None, dict[str, Any]]:
    """Return the preset's name in what a config gives as ``sampler``, and the options beside it."""
    options = as_options(sampler)
    return options.pop("preset", None), options


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return which of some options are the sampler's, and which are keywords of the model."""
    of_sampler = {name: value for name, value in options.items() if name not in OF_MODEL}
    return of_sampler, {name: value for name, value in options.items() if name in OF_MODEL}


def put_in(model: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's config with options in it; those of its sampler take a preset's place."""
    _, own = split_preset(model.get("sampler"))
    of_sampler, of_model = split_options(options)
    sampler = {**own, **of_sampler}
    is_there = bool(sampler) or "sampler" in model
    return {**model, **of_model, **({"sampler": sampler} if is_there else {})}


def check_preset(name: Any, beside: Iterable[str] = ()) -> str:
    """Return the name of a preset; the names of options that are given beside it are none of its.

    Raises:
        ValueError: For a name that there is not, or an option that the preset sets, too.
    """
    known = ", ".join(PRESETS)
    name = check_value(
        "sampler preset", name, str, f"give a preset's name ({known}), or leave it out"
    )
    if name not in PRESETS:
        guess = nearest(name.lower(), PRESETS)
        hint = f"Did you mean {guess!r}? " if guess else ""
        raise ValueError(
            f"Unknown sampler preset {name!r}. {hint}Valid: {known}; or give options, "
            "sampler=dict(...)."
        )
    for option in beside:
        if option in PRESETS[name]:
            raise ValueError(
                f"{option} is given beside the sampler preset {name!r}, which sets it: a preset is "
                f"the same everywhere. Leave one of the two out; the preset is "
                f"{write_options(PRESETS[name])}"
            )
    return name


def write_options(options: Mapping[str, Any]) -> str:
    """Return options as a config gives them: ``cache=dict(type='prompt'), early_stop=True``."""

    def write(value: Any) -> str:
        if not isinstance(value, Mapping):
            return show(value)
        return f"dict({write_options(value)})"

    return ", ".join(f"{name}={write(value)}" for name, value in options.items())
