"""LLaDA-8B-Base, LLaDA-8B-Instruct, LLaDA-1.5, UltraLLaDA and every checkpoint of their format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from opencompass_llada.engines import Engine, MaskedDiffusionEngine, SamplerSettings
from opencompass_llada.families.base import Family, LoadRequest
from opencompass_llada.modeling import load_checkpoint, open_checkpoint
from opencompass_llada.prompting.tokenization import EOT_TOKEN, find_token_id
from opencompass_llada.rope_scaling import RopeScaling
from opencompass_llada.sampling import SpecialTokens, make_progress


def read_special_tokens(
    path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> SpecialTokens:
    """Read mask and end of text from config.json, and the end of a turn from the tokenizer.

    Raises:
        ValueError: If config.json does not name the mask or the end of text.
    """
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


def _check(path: str, rope_scaling: RopeScaling, settings: SamplerSettings) -> None:
    open_checkpoint(path, rope_scaling=rope_scaling)


def _load(request: LoadRequest) -> Engine:
    progress = make_progress()  # reads a variable, whose fault shows before the weights load
    special_tokens = read_special_tokens(request.path, request.config, request.tokenizer)
    model = load_checkpoint(
        request.path,
        rope_scaling=request.rope_scaling,
        dtype=request.dtype,
        device=request.device,
        attention_backend=request.attention_backend,
    )
    return MaskedDiffusionEngine(model, request.settings, special_tokens, progress=progress)


LLADA = Family(
    name="llada",
    generates_by="masked_diffusion",
    check=_check,
    load=_load,
    special_tokens=read_special_tokens,
)
