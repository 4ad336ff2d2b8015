"""Which model families there are, told apart by the checkpoint's config.json.

A table lookup: a new family is one more entry. Reads config.json, no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from opencompass_llada.engines import MaskedDiffusionEngine, SamplerSettings
from opencompass_llada.modeling import load_checkpoint, open_checkpoint
from opencompass_llada.options import unknown_name_message
from opencompass_llada.prompting.tokenization import EOT_TOKEN, find_token_id
from opencompass_llada.rope_scaling import RopeScaling
from opencompass_llada.sampling import SpecialTokens, make_progress


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """Everything that is decided before weights load."""

    path: str
    config: Mapping[str, Any]
    tokenizer: PreTrainedTokenizerBase
    rope_scaling: RopeScaling
    settings: SamplerSettings
    dtype: torch.dtype
    device: torch.device
    attention_backend: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of checkpoint."""

    name: str
    """The family's name, as `model_type` of the wrapper takes it."""

    check: Callable[[str, RopeScaling], None]
    """Checks a checkpoint's files and the scaling as loading does, and reads no weights."""

    load: Callable[[LoadRequest], MaskedDiffusionEngine]
    """Loads the weights and returns the engine."""

    special_tokens: Callable[[Mapping[str, Any], PreTrainedTokenizerBase], SpecialTokens]
    """Reads the ids from config.json and the tokenizer."""


def _llada_special_tokens(
    config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> SpecialTokens:
    missing = [name for name in ("mask_token_id", "eos_token_id") if config.get(name) is None]
    if missing:
        raise ValueError(
            f"config.json has no {' and no '.join(missing)}; LLaDA's published checkpoints have "
            "both. Add them to the checkpoint's config.json."
        )
    return SpecialTokens(
        mask_token_id=config["mask_token_id"],
        eos_token_id=config["eos_token_id"],
        eot_token_id=find_token_id(tokenizer, EOT_TOKEN),
    )


def _check_llada(path: str, rope_scaling: RopeScaling) -> None:
    open_checkpoint(path, rope_scaling=rope_scaling)


def _load_llada_engine(request: LoadRequest) -> MaskedDiffusionEngine:
    progress = make_progress()  # reads a variable, whose fault shows before the weights load
    special_tokens = _llada_special_tokens(request.config, request.tokenizer)
    model = load_checkpoint(
        request.path,
        rope_scaling=request.rope_scaling,
        dtype=request.dtype,
        device=request.device,
        attention_backend=request.attention_backend,
    )
    return MaskedDiffusionEngine(model, request.settings, special_tokens, progress=progress)


FAMILIES = {
    "llada": Family(
        name="llada",
        check=_check_llada,
        load=_load_llada_engine,
        special_tokens=_llada_special_tokens,
    ),
}

# What the seeds' configs pass as model_type: the first part of an abbreviation ("ultra_llada").
_SEED_NAMES = {"ultra": "llada"}

# Families that the seeds evaluate and this package does not yet.
_PLANNED = ("dream", "llama")


def check_model_type(model_type: str | None) -> str | None:
    """Return the family that a `model_type` keyword names.

    Raises:
        ValueError: If it names none that is supported.
    """
    if model_type is None:
        return None
    name = _SEED_NAMES.get(str(model_type).lower(), str(model_type).lower())
    if name in FAMILIES:
        return name
    if name in _PLANNED:
        raise ValueError(_not_supported(f"model_type={model_type!r}"))
    raise ValueError(unknown_name_message("model_type", str(model_type), FAMILIES))


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
    found = str(config.get("model_type")).lower()
    expected = check_model_type(model_type)
    if found not in FAMILIES:
        raise ValueError(
            _not_supported(f"The checkpoint {path!r} (model_type={config.get('model_type')!r})")
        )
    if expected is not None and expected != found:
        raise ValueError(
            f"model_type={model_type!r}, but config.json of {path!r} says {found!r}; leave "
            "model_type out, or give the other checkpoint's path"
        )
    return FAMILIES[found]


def _not_supported(what: str) -> str:
    return (
        f"{what} is of a family that is not supported yet. Supported: {', '.join(FAMILIES)}. Use "
        "a checkpoint of one of them, or OpenCompass's own wrappers for autoregressive models."
    )
