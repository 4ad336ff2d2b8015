"""All of the wrapper's keywords as one checked set.

Everything that depends on arguments alone is checked here, before a file is opened. Reads nothing
from disk, and knows neither OpenCompass nor a model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from opencompass_llada.engines import SamplerSettings
from opencompass_llada.families import check_model_type, possible_sampler_defaults
from opencompass_llada.likelihood import LikelihoodOptions, parse_scoring
from opencompass_llada.logs import get_logger
from opencompass_llada.networks import AdapterSource, parse_adapter
from opencompass_llada.options import check_call
from opencompass_llada.prompting.chat import ChatOptions, parse_chat
from opencompass_llada.prompting.stop import merge_stop_strings
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.sampling import SamplerConfig
from opencompass_llada.wrapper.paper_keywords import (
    LengthLimit,
    Placement,
    parse_length_limit,
    parse_placement,
    parse_sampler,
    parse_scaling,
)

logger = get_logger(__name__)

_DEFAULT_OUT_LEN = 128


@dataclass(frozen=True, kw_only=True)
class WrapperOptions:
    """All of the wrapper's keywords that do not belong to OpenCompass's base class, checked."""

    path: str
    family: str | None
    rope_scaling: RopeScaling
    settings: SamplerSettings
    mask_token_id: int | None
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


def parse_wrapper_options(
    path: str,
    *,
    model_type: str | None = None,
    scaling_config: Mapping[str, Any] | None = None,
    rope_scaling: Mapping[str, Any] | RopeScaling | None = None,
    diffusion_config: Mapping[str, Any] | None = None,
    sampler: Mapping[str, Any] | SamplerConfig | None = None,
    seed: int | None = None,
    max_seq_len: int | None = None,
    drop_middle: bool = False,
    truncation: str | None = None,
    max_out_len: int | None = None,
    batch_size: int | None = None,
    stop_words: Sequence[str] | str | None = None,
    chat: Any = None,
    likelihood: Mapping[str, Any] | None = None,
    tokenizer_path: str | None = None,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    add_bos: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | int | torch.device | None = None,
    attention_backend: str | None = None,
    peft_path: str | None = None,
    peft_kwargs: Mapping[str, Any] | None = None,
    pad_token_id: int | None = None,
) -> WrapperOptions:
    """Check the wrapper's keywords; `wrapper.LLaDACausalLM` documents each.

    Returns:
        The checked set.

    Raises:
        ValueError: For the first keyword that does not fit; the message says what to do.
    """
    given = check_call(parse_wrapper_options, locals())
    path, seed = given["path"], given["seed"]
    if not path:
        raise ValueError("path='' must name a checkpoint: its folder, a hub id or asset:NAME")
    max_out_len, batch_size, max_seq_len = (
        given[name] for name in ("max_out_len", "batch_size", "max_seq_len")
    )
    if pad_token_id is not None:
        logger.info("pad_token_id has no effect: padding is never attended to.")
    for name, value in (("max_out_len", max_out_len), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value!r} must be a positive integer")
    family = check_model_type(model_type)
    settings, mask_token_id = parse_sampler(
        diffusion_config,
        sampler,
        seed,
        defaults=possible_sampler_defaults(family, paper_form=diffusion_config is not None),
        max_out_len=max_out_len,
    )
    length_limit = parse_length_limit(max_seq_len, drop_middle, truncation)
    chat_options = parse_chat(chat)
    if chat_options is not None and length_limit.policy in ("left", "right"):
        raise ValueError(
            f"truncation={length_limit.policy!r} would cut off an end of the chat template, where "
            "turns are opened; use truncation='middle' with chat"
        )
    if not isinstance(add_bos, bool):
        raise ValueError(f"add_bos={add_bos!r} must be True or False")
    if add_bos and chat_options is not None:
        raise ValueError(
            "add_bos=True has no effect with chat, whose template writes all that stands before "
            "the first turn; leave it out"
        )
    if max_out_len is not None:
        length_limit.prompt_limit(max_out_len)
    return WrapperOptions(
        path=path,
        family=family,
        rope_scaling=parse_scaling(scaling_config, rope_scaling),
        settings=settings,
        mask_token_id=mask_token_id,
        length_limit=length_limit,
        placement=parse_placement(model_kwargs, dtype, device, attention_backend),
        stop_words=merge_stop_strings(stop_words),
        max_out_len=max_out_len,
        batch_size=batch_size,
        tokenizer_path=given["tokenizer_path"] or path,
        tokenizer_kwargs=dict(tokenizer_kwargs or {}),
        add_bos=add_bos,
        chat=chat_options,
        likelihood=parse_scoring(likelihood),
        adapter=parse_adapter(peft_path, peft_kwargs),
    )


KEYWORDS = tuple(inspect.signature(parse_wrapper_options).parameters)
