"""Which model families there are, told apart by the checkpoint's config.json.

A table lookup: a new family is a file of its own in this folder and one more entry here. Reads
config.json, no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencompass_llada.families.autoregressive import AUTOREGRESSIVE
from opencompass_llada.families.base import EndTokens, Family, LoadRequest
from opencompass_llada.families.dream import DREAM
from opencompass_llada.families.llada import LLADA
from opencompass_llada.networks import is_causal_architecture
from opencompass_llada.options import unknown_name_message

#: config.json's model_type -> family; what is not here may still be an autoregressive network.
FAMILIES = {"llada": LLADA, "Dream": DREAM}

#: What the papers' configs pass as model_type (the first part of an abbreviation), and what people
#: call the models -> the family's name.
_OTHER_NAMES = {"ultra": "llada", "ultrallada": "llada", "llama3": "llama"}

__all__ = [
    "FAMILIES",
    "EndTokens",
    "Family",
    "LoadRequest",
    "check_model_type",
    "find_family",
    "generates_by",
    "possible_sampler_defaults",
]


def check_model_type(model_type: str | None) -> str | None:
    """Return what a `model_type` keyword names: a family, or an architecture of transformers.

    Args:
        model_type: ``llada``, ``dream``, ``autoregressive``, ``llama`` and the like, or a name
            that the papers' code uses; None for none.

    Returns:
        The name as config.json has it, or ``autoregressive``.

    Raises:
        ValueError: If it names none that is supported.
    """
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


def generates_by(model_type: str) -> str | None:
    """Return how models of a family generate: ``masked_diffusion`` or ``autoregressive``.

    Args:
        model_type: As config.json or the wrapper's keyword has it.

    Returns:
        None for one that is not supported.
    """
    try:
        name = check_model_type(model_type)
    except ValueError:
        return None
    return FAMILIES.get(str(name), AUTOREGRESSIVE).generates_by


def possible_sampler_defaults(
    name: str | None, *, paper_form: bool = False
) -> list[Mapping[str, Any]]:
    """Return the sampler defaults that may apply while config.json has not been read.

    Args:
        name: What check_model_type returned.
        paper_form: Whether the options come as the papers' diffusion_config.

    Returns:
        The named family's, or those of every family, LLaDA's first.
    """
    named = FAMILIES.values() if name is None else [FAMILIES.get(name, AUTOREGRESSIVE)]
    return [
        {**family.sampler_defaults, **(family.paper_defaults if paper_form else {})}
        for family in named
    ]


def find_family(config: Mapping[str, Any], path: str, model_type: str | None) -> Family:
    """Return a checkpoint's family.

    Args:
        config: Its config.json.
        path: Where it came from, for messages.
        model_type: What the user says it is; None to go by config.json alone.

    Returns:
        The family.

    Raises:
        ValueError: If the family is not supported, or is not the one that the user named.
    """
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
