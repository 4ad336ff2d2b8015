"""Checks all keywords of LLaDACausalLM, as far as they, and config.json, can tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opencompass_llada.assets import resolve_path
from opencompass_llada.engines import Family, SamplerSettings
from opencompass_llada.families import check_model_type, find_family, possible_families
from opencompass_llada.likelihood import LikelihoodOptions, parse_scoring
from opencompass_llada.networks import read_model_config
from opencompass_llada.networks.adapters import AdapterSource, parse_adapter
from opencompass_llada.options import build, check_fields
from opencompass_llada.prompting.chat import ChatOptions, parse_chat
from opencompass_llada.prompting.stop import merge_stop_strings
from opencompass_llada.prompting.truncate import LengthLimit
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.sampling import SamplerConfig
from opencompass_llada.wrapper.paper_keywords import (
    PaperKeywords,
    Placement,
    read_length_limit,
    read_placement,
    read_sampler,
    read_scaling,
)

_DEFAULT_OUT_LEN = 128


@dataclass(frozen=True, kw_only=True)
class Keywords(PaperKeywords):
    """The keywords as given, their types checked."""

    path: str
    model_type: str | None = None
    rope_scaling: Mapping[str, Any] | RopeScaling | None = None
    sampler: Mapping[str, Any] | SamplerConfig | None = None
    seed: int | None = None
    max_seq_len: int | None = None
    truncation: str | None = None
    max_out_len: int | None = None
    batch_size: int | None = None
    stop_words: Sequence[str] | str | None = None
    chat: Any = None
    likelihood: Mapping[str, Any] | None = None
    tokenizer_path: str | None = None
    tokenizer_kwargs: Mapping[str, Any] | None = None
    add_bos: bool = False
    dtype: str | torch.dtype | None = None
    device: str | int | torch.device | None = None
    attention_backend: str | None = None
    peft_path: str | None = None
    peft_kwargs: Mapping[str, Any] | None = None
    # OpenCompass's own.
    meta_template: Mapping[str, Any] | None = None
    tokenizer_only: bool = False
    sync_rank: bool = False
    generation_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check types, and what no other keyword decides."""
        check_fields(self)
        if not self.path:
            raise ValueError("path='' must name a checkpoint: its folder, a hub id or asset:NAME")
        for name in ("max_out_len", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value!r} must be a positive integer")
        extra = {k: v for k, v in (self.generation_kwargs or {}).items() if v is not None}
        if extra not in ({}, {"num_return_sequences": 1}):
            raise ValueError(
                f"generation_kwargs={extra} is for autoregressive models; say how to generate with "
                "sampler=dict(temperature=..., num_steps=..., ...)"
            )


_HOST = ("meta_template", "tokenizer_only", "sync_rank", "generation_kwargs")
KEYWORDS = tuple(f.name for f in dataclasses.fields(Keywords) if f.name not in _HOST)


@dataclass(frozen=True, kw_only=True)
class WrapperOptions:
    """What the keywords say together, whichever form they were given in."""

    path: str
    family: str | None
    """What model_type names; None where config.json alone decides."""
    rope_scaling: RopeScaling
    settings: SamplerSettings
    mask_token_id: int | None
    """As given, to be compared with the checkpoint's."""
    length_limit: LengthLimit
    placement: Placement
    stop_words: tuple[str, ...]
    max_out_len: int | None
    batch_size: int | None
    tokenizer_path: str
    tokenizer_kwargs: Mapping[str, Any]
    add_bos: bool
    chat: ChatOptions | None
    likelihood: LikelihoodOptions
    adapter: AdapterSource | None

    def generation_length(self, max_out_len: int | None) -> int:
        """Return the tokens to generate: the data set's number, else the model's own."""
        own = self.max_out_len or self.settings.default_length
        return max_out_len or own or _DEFAULT_OUT_LEN


def parse_keywords(keywords: Mapping[str, Any], *, fetch: bool) -> WrapperOptions:
    """Read config.json, if it can be had, and check the keywords of `LLaDACausalLM` by it.

    With ``fetch`` config.json of a hub id may be downloaded. The first keyword that does not fit is
    a ValueError.
    """
    given = build(Keywords, keywords, "LLaDACausalLM")
    family = check_model_type(given.model_type)
    candidates = _possible_families(given, fetch)
    sampler, mask_token_id = read_sampler(given, given.sampler, given.seed)
    paper_form = given.diffusion_config is not None
    settings = SamplerSettings.over_any(
        sampler, [each.defaults(paper_form=paper_form) for each in candidates], given.max_out_len
    )
    length_limit = read_length_limit(given, given.max_seq_len, given.truncation)
    if given.max_out_len is not None:
        length_limit.prompt_limit(given.max_out_len)
    return WrapperOptions(
        path=given.path,
        family=family,
        rope_scaling=read_scaling(given, given.rope_scaling),
        settings=settings,
        mask_token_id=mask_token_id,
        length_limit=length_limit,
        placement=read_placement(given, given.dtype, given.device, given.attention_backend),
        stop_words=merge_stop_strings(given.stop_words),
        max_out_len=given.max_out_len,
        batch_size=given.batch_size,
        tokenizer_path=given.tokenizer_path or given.path,
        tokenizer_kwargs=dict(given.tokenizer_kwargs or {}),
        add_bos=given.add_bos,
        chat=_read_chat(given, length_limit),
        likelihood=parse_scoring(given.likelihood),
        adapter=parse_adapter(given.peft_path, given.peft_kwargs),
    )


def _possible_families(given: Keywords, fetch: bool) -> list[Family]:
    """Return the family that config.json names; those that it may be where that cannot be read."""
    with suppress(ValueError):  # what is wrong is said when the model is loaded
        folder = resolve_path(given.path)
        if fetch or Path(folder).expanduser().is_dir():
            return [find_family(read_model_config(folder), given.path, given.model_type)]
    return possible_families(given.model_type)


def _read_chat(given: Keywords, length_limit: LengthLimit) -> ChatOptions | None:
    chat = parse_chat(given.chat)
    if chat is None:
        return None
    if length_limit.policy in ("left", "right"):
        raise ValueError(
            f"truncation={length_limit.policy!r} would cut off an end of the chat template, where "
            "turns are opened; use truncation='middle' with chat"
        )
    if given.add_bos:
        raise ValueError(
            "add_bos=True has no effect with chat, whose template writes all that stands before "
            "the first turn; leave it out"
        )
    if given.meta_template:
        raise ValueError(
            "chat and meta_template are both given and say the same thing; keep chat for the "
            "checkpoint's own template, or meta_template for one that the config spells out"
        )
    return chat
