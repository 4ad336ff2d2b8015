"""Defines what an engine answers, and what a family of checkpoints gives to become one."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from opencompass_llada.engines.sampler_settings import SamplerSettings
from opencompass_llada.likelihood import CausalScorer, MaskedScorer
from opencompass_llada.networks.attention_pattern import FULL, AttentionPattern
from opencompass_llada.rope.frequencies import ResolvedRope
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.sampling import IsComplete, SamplerOutput, SpecialTokens


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one prompt gave."""

    token_ids: list[int]
    """A diffusion model gives as many as were asked for, an autoregressive one stops at an end."""
    num_forward_passes: int
    """Those until its answer was complete (NFE), whatever batch the row was in."""
    seconds: float
    """Wall time of the batch divided by its rows."""


@dataclass(kw_only=True)
class Totals:
    """Counts of everything that an engine generated; passes of prompts and of whole batches."""

    num_prompts: int = 0
    num_generated_tokens: int = 0
    num_forward_passes: int = 0
    num_batch_passes: int = 0
    seconds: float = 0.0

    def add(self, generations: Sequence[Generation], num_batch_passes: int) -> None:
        """Count a batch."""
        self.num_prompts += len(generations)
        self.num_generated_tokens += sum(len(g.token_ids) for g in generations)
        self.num_forward_passes += sum(g.num_forward_passes for g in generations)
        self.num_batch_passes += num_batch_passes
        self.seconds += sum(g.seconds for g in generations)

    def describe(self) -> str:
        """Return one line."""
        rate = self.num_generated_tokens / self.seconds if self.seconds else 0.0
        return (
            f"{self.num_prompts} prompts, {self.num_generated_tokens} generated tokens, "
            f"{self.num_forward_passes} forward passes of prompts in {self.num_batch_passes} of "
            f"batches, {self.seconds:.1f} s ({rate:.1f} generated tokens/s)"
        )


class Engine(ABC):
    """A loaded network that generates and scores, and counts what that took."""

    generates_by: ClassVar[str]
    """``masked_diffusion`` or ``autoregressive``; recorded with every run."""
    scorer: MaskedScorer | CausalScorer
    """Scores token ids with the network."""

    def __init__(self, model: Any, rope: ResolvedRope | None) -> None:
        """Take the network, in evaluation mode, and the RoPE scaling that it has, if known."""
        self.model = model
        self.device: torch.device = next(model.parameters()).device
        self.totals = Totals()
        self.rope = rope

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        is_complete: IsComplete | None = None,
    ) -> list[Generation]:
        """Generate at least one token after each prompt of one batch; their lengths may differ.

        Each generation equals that of the prompt alone. Where ``is_complete``, given the first ids
        of an answer, an engine may stop early, and must not let it change an answer before its end.

        Raises:
            MemoryPlanError: If the batch does not fit the card.
            ValueError: If a prompt cannot be read, or the steps do not fit the length.
            FloatingPointError: If the model's logits are not finite.
        """
        if not prompts:
            return []
        start = time.perf_counter()
        output = self._generate(prompts, max_new_tokens, is_complete)
        seconds = (time.perf_counter() - start) / len(prompts)
        generations = [
            Generation(token_ids=token_ids, num_forward_passes=passes, seconds=seconds)
            for token_ids, passes in zip(output.token_ids, output.passes_per_prompt, strict=True)
        ]
        self.totals.add(generations, output.num_forward_passes)
        return generations

    @abstractmethod
    def _generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, is_complete: IsComplete | None
    ) -> SamplerOutput:
        """Return the generated ids and the passes that they took."""


class CausalTokens(NamedTuple):
    """Special tokens of an autoregressive checkpoint, which has no mask."""

    end_token_ids: tuple[int, ...]
    mask_token_id: None = None


EndTokens = SpecialTokens | CausalTokens


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """Everything that is decided before weights load."""

    path: str
    config: Mapping[str, Any]
    """The checkpoint's config.json."""
    tokenizer: PreTrainedTokenizerBase
    rope_scaling: RopeScaling
    settings: SamplerSettings
    """Only masked diffusion models read it."""
    dtype: torch.dtype
    device: torch.device
    attention_backend: str
    context_length: int | None = None
    """Of the longest prompt and generation to come, if it is known."""


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """One kind of checkpoint: how its files are read, checked and loaded."""

    name: str
    """``model_type`` of its config.json."""
    attention_pattern: AttentionPattern = FULL
    """Who sees whom; one of transformers' networks has its own kernels."""
    sampler_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampler options that take the place of `SamplerConfig`'s defaults."""
    paper_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the papers' wrapper takes for this family where their diffusion_config is silent."""

    generates_by: ClassVar[str]

    def defaults(self, *, paper_form: bool = False) -> dict[str, Any]:
        """Return the sampler's defaults, for options in the papers' form or the typed one."""
        return {**self.sampler_defaults, **(self.paper_defaults if paper_form else {})}

    @abstractmethod
    def special_tokens(
        self, path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> EndTokens:
        """Read the ids from the checkpoint's path, its config.json and the tokenizer."""

    @abstractmethod
    def check(self, path: str, rope_scaling: RopeScaling, settings: SamplerSettings) -> None:
        """Check files, scaling and sampler options as loading does, and read no weights."""

    @abstractmethod
    def load(self, request: LoadRequest) -> Engine:
        """Load the weights."""


def length_buckets(
    lengths: Sequence[int], batch_size: int, *, spread: float = 2.0
) -> list[list[int]]:
    """Sort prompts into batches of similar lengths, shortest first; return their places.

    Rows of a batch share their small passes, whose time goes by the longest row. Lengths 5, 90, 6,
    80 in batches of 3 give ``[[0, 2], [3, 1]]``. ``spread`` is the most that the longest may be
    over the shortest of a batch, empty prompts counting as 1; equal lengths keep order.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        length = max(lengths[place], 1)
        last = batches[-1] if batches else None
        if last and len(last) < batch_size and length <= spread * max(lengths[last[0]], 1):
            last.append(place)
        else:
            batches.append([place])
    return batches
