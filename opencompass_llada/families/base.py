"""What a family of checkpoints has to say of itself.

One file in this package a family; the table of them all is in ``families/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from opencompass_llada.engines import Engine, SamplerSettings
from opencompass_llada.networks.attention_pattern import FULL, AttentionPattern
from opencompass_llada.rope.methods import RopeScaling


class EndTokens(Protocol):
    """The special tokens that text handling needs; `sampling.SpecialTokens` is one."""

    @property
    def mask_token_id(self) -> int | None:
        """The mask, which no prompt may hold; None for an autoregressive family."""
        ...

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Ids at the first of which an answer ends."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """Everything that is decided before weights load."""

    path: str
    """Folder or hub id."""
    config: Mapping[str, Any]
    """The checkpoint's config.json."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    rope_scaling: RopeScaling
    """The scaling asked for."""
    settings: SamplerSettings
    """How to sample; only masked diffusion models read it."""
    dtype: torch.dtype
    """dtype of the weights in memory."""
    device: torch.device
    """Where the model goes."""
    attention_backend: str
    """See networks.attention."""
    context_length: int | None = None
    """Tokens of the longest prompt and generation to come, if it is known."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of checkpoint."""

    name: str
    """The family's name, as `model_type` of the wrapper takes it."""

    generates_by: str
    """``masked_diffusion`` or ``autoregressive``."""

    check: Callable[[str, RopeScaling, SamplerSettings], None]
    """Checks a checkpoint's files, the scaling and the sampler's options as loading does, and
    reads no weights."""

    load: Callable[[LoadRequest], Engine]
    """Loads the weights and returns the engine."""

    special_tokens: Callable[[str, Mapping[str, Any], PreTrainedTokenizerBase], EndTokens]
    """Reads the ids from the checkpoint's path, its config.json and the tokenizer."""

    attention_pattern: AttentionPattern = FULL
    """Who sees whom; a native network is built with it, one of transformers has its own kernels."""

    sampler_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampler options that take the place of `SamplerConfig`'s defaults."""

    paper_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the papers' wrapper takes for this family where their diffusion_config is silent."""
