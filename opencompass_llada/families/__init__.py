"""Tells model families apart by a checkpoint's config.json; reads no weights.

Each file of this folder describes one family, as its ``FAMILY``, and is found by being here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from opencompass_llada.engines import AutoregressiveFamily, Family
from opencompass_llada.networks import is_causal_architecture
from opencompass_llada.options import unknown_name_message

AUTOREGRESSIVE = AutoregressiveFamily(name="autoregressive")
_FILES = (f"{__name__}.{file.name}" for file in pkgutil.iter_modules(__path__))
_FOUND = [importlib.import_module(file).FAMILY for file in _FILES]
#: config.json's model_type -> family. Those with our sampler, and by its own defaults, come first,
#: since options are checked by them where the family is not known.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in sorted(_FOUND, key=lambda one: (not one.has_sampler, len(one.sampler_defaults)))
}

#: What the papers' configs pass as model_type (the first part of an abbreviation), and what people
#: call the models -> the name of config.json, in small letters.
_OTHER_NAMES = {"ultra": "llada", "ultrallada": "llada", "llama3": "llama"}


def check_model_type(model_type: str | None) -> str | None:
    """Return what a `model_type` keyword names, as config.json has it, or ``autoregressive``."""
    if model_type is None:
        return None
    name = str(model_type).lower()
    name = _OTHER_NAMES.get(name, name)
    own = {known.lower(): known for known in FAMILIES}
    if name in own:
        return own[name]
    if name == AUTOREGRESSIVE.name or is_causal_architecture(name):
        return name
    names = [*own, *_OTHER_NAMES, AUTOREGRESSIVE.name, "llama", "qwen2"]
    raise ValueError(unknown_name_message("model_type", str(model_type), names))


def possible_families(model_type: str | None) -> list[Family]:
    """Return the families that a checkpoint may be of while its config.json is not at hand."""
    name = check_model_type(model_type)
    return list(FAMILIES.values()) if name is None else [FAMILIES.get(name, AUTOREGRESSIVE)]


def generates_by(model_type: str) -> str | None:
    """Return how models of a type generate, e.g. ``masked_diffusion``; None for unknown ones."""
    try:
        return possible_families(model_type)[0].generates_by
    except ValueError:
        return None


def find_family(config: Mapping[str, Any], path: str, model_type: str | None) -> Family:
    """Return the family that a config.json names, which must be what model_type names, if given."""
    found = config.get("model_type")
    family = FAMILIES.get(str(found))
    if family is None and is_causal_architecture(found):
        family = AUTOREGRESSIVE
    if family is None:
        raise ValueError(
            f"The checkpoint {path!r} has model_type={found!r} in its config.json, which is no "
            f"family that is supported: {', '.join(FAMILIES)}, and every autoregressive network "
            "of transformers (llama, qwen2, ...). Give another checkpoint, or add the family "
            "(CONTRIBUTING.md says how)."
        )
    expected = check_model_type(model_type)
    if expected not in (None, found, family.name):
        raise ValueError(
            f"model_type={model_type!r}, but config.json of {path!r} says {found!r}; leave "
            "model_type out, or give the other checkpoint's path"
        )
    return family
