"""Every autoregressive checkpoint that AutoModelForCausalLM loads without remote code.

The baselines of masked diffusion models: LLaMA-3 in both papers, tiny-ar here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from opencompass_llada.engines import AutoregressiveEngine, Engine, SamplerSettings
from opencompass_llada.families.base import Family, LoadRequest
from opencompass_llada.networks import check_causal, load_causal, locate_checkpoint
from opencompass_llada.networks.attention_pattern import CAUSAL
from opencompass_llada.prompting.encode import EOT_TOKEN, check_vocabulary, find_token_id
from opencompass_llada.rope.methods import RopeScaling

#: Ends of a turn of widespread chat formats, counted as ends where the tokenizer has them.
TURN_ENDS = (EOT_TOKEN, "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class CausalTokens:
    """Special tokens of an autoregressive checkpoint."""

    end_token_ids: tuple[int, ...]
    """Ids after which generation ends."""

    mask_token_id: None = None
    """There is no mask."""


def read_special_tokens(
    path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> CausalTokens:
    """Gather all end tokens: of config.json, generation_config.json, tokenizer and chat turns.

    Raises:
        ValueError: If there are none: generation would never end early, nor batches be padded; or
            if the tokenizer has ids beyond the network's embedding.
    """
    text = config.get("text_config")
    check_vocabulary(tokenizer, (text if isinstance(text, dict) else config).get("vocab_size"))
    ends = [config.get("eos_token_id"), _generation_end(path), tokenizer.eos_token_id]
    ends += [find_token_id(tokenizer, token) for token in TURN_ENDS]
    ids = _flatten(ends)
    if not ids:
        raise ValueError(
            "config.json has no eos_token_id and the tokenizer no end of sequence; add "
            "eos_token_id to the checkpoint's config.json"
        )
    return CausalTokens(end_token_ids=ids)


def _generation_end(path: str) -> Any:
    """Return the end tokens of generation_config.json, where chat checkpoints list theirs."""
    name = "generation_config.json"
    file = locate_checkpoint(path, files=["config.json", name]) / name
    if not file.is_file():
        return None
    return json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")


def _flatten(groups: Iterable[Any]) -> tuple[int, ...]:
    """Join numbers and lists of numbers, without repeats and None."""
    found: dict[int, None] = {}
    for group in groups:
        for item in group if isinstance(group, list | tuple) else [group]:
            if item is not None:
                found[int(item)] = None
    return tuple(found)


def _check(path: str, rope_scaling: RopeScaling, settings: SamplerSettings) -> None:
    if settings.given:
        raise ValueError(
            f"sampler options ({', '.join(settings.given)}) say how a masked diffusion model "
            f"samples, and {path!r} is autoregressive: it decodes greedily, one token a step. "
            "Leave sampler (or diffusion_config) out."
        )
    check_causal(path, rope_scaling=rope_scaling)


def _load(request: LoadRequest) -> Engine:
    _check(request.path, request.rope_scaling, request.settings)
    tokens = read_special_tokens(request.path, request.config, request.tokenizer)
    model, rope = load_causal(
        request.path,
        rope_scaling=request.rope_scaling,
        dtype=request.dtype,
        device=request.device,
        attention_backend=request.attention_backend,
    )
    pad = request.tokenizer.pad_token_id
    return AutoregressiveEngine(
        model,
        end_token_ids=tokens.end_token_ids,
        pad_token_id=tokens.end_token_ids[0] if pad is None else pad,
        rope=rope,
    )


AUTOREGRESSIVE = Family(
    name="autoregressive",
    generates_by="autoregressive",
    check=_check,
    load=_load,
    special_tokens=read_special_tokens,
    attention_pattern=CAUSAL,
)
