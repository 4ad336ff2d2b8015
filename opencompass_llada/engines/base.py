"""Defines what an engine answers, and what a family of checkpoints gives to become one."""

from __future__ import annotations

import copy
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from opencompass_llada.inference import PassOptions
from opencompass_llada.likelihood import BlockScorer, CausalScorer, MaskedScorer
from opencompass_llada.networks.attention_pattern import AttentionPattern, Blocks
from opencompass_llada.options import build, check_value
from opencompass_llada.rope.frequencies import ResolvedRope
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.sampling import (
    OPTION_HINTS,
    IsComplete,
    SamplerConfig,
    SamplerOutput,
    SpecialTokens,
    cap_steps,
    derive_seed,
)

logger = logging.getLogger(__name__)


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
    """``masked_diffusion``, ``uniform_diffusion`` or ``autoregressive``; recorded with each run."""
    scorer: MaskedScorer | BlockScorer | CausalScorer
    """Scores token ids with the network."""

    def __init__(self, model: Any, rope: ResolvedRope | None) -> None:
        """Take the network, in evaluation mode, and the RoPE scaling that it has, if known."""
        self.model = model
        self.device: torch.device = next(model.parameters()).device
        self.totals = Totals()
        self.rope = rope

    def begin_data_set(self) -> None:  # noqa: B027
        """Answer what follows as a process of its own would; most engines remember nothing."""

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
        A batch that does not fit the card is a MemoryPlanError, logits that are not finite a
        FloatingPointError; a prompt or a length that cannot be taken is a ValueError.
        """
        if not prompts:
            return []
        start = time.perf_counter()
        output = self._generate(prompts, max_new_tokens, is_complete)
        seconds = time.perf_counter() - start
        self.totals.num_prompts += len(prompts)
        self.totals.num_generated_tokens += sum(map(len, output.token_ids))
        self.totals.num_forward_passes += sum(output.passes_per_prompt)
        self.totals.num_batch_passes += output.num_forward_passes
        self.totals.seconds += seconds
        return [
            Generation(token_ids=ids, num_forward_passes=passes, seconds=seconds / len(prompts))
            for ids, passes in zip(output.token_ids, output.passes_per_prompt, strict=True)
        ]

    def finish_loading(self) -> None:
        """Do what must wait until adapters are merged; called once, before anything runs."""
        return

    @abstractmethod
    def _generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, is_complete: IsComplete | None
    ) -> SamplerOutput:
        """Return the generated ids and the passes that they took."""


class SamplerSettings:
    """Options of the sampler over a family's defaults, without a length, which each data set gives.

    Steps that a short data set cannot use are capped in a config of its own (the papers' wrapper
    lowers them in place, for every later data set too).
    """

    def __init__(
        self,
        options: Mapping[str, Any] | SamplerConfig | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Check field names and values of `SamplerConfig`, the family's defaults under them."""
        own = asdict(options) if isinstance(options, SamplerConfig) else dict(options or {})
        self.given: tuple[str, ...] = tuple(name for name in own if name != "seed")
        self.unset = {k: v for k, v in (defaults or {}).items() if k not in own}
        values = {**self.unset, **own}
        self._num_steps = check_value("num_steps", values.pop("num_steps", None), int | None)
        if self._num_steps is not None and self._num_steps < 1:
            raise ValueError(f"num_steps={self._num_steps} must be a positive integer, or None")
        # How the steps fit the blocks is known only with a length; all else is checked here.
        self.resolved: SamplerConfig = build(SamplerConfig, values, "sampler", hints=OPTION_HINTS)
        self.seed: int = self.resolved.seed
        self._logged: set[int] = set()
        self.default_length: int | None = None
        if "generation_length" in values:
            self.default_length = self.resolved.generation_length
            self.for_length(self.default_length)

    def for_pattern(self, pattern: AttentionPattern) -> SamplerSettings:
        """Return them for a network; what does not fit it is a ValueError.

        A block-causal network's blocks are the sampler's, and finished ones are cached unless the
        options say otherwise.
        """
        block = pattern.block_length if isinstance(pattern, Blocks) else None
        own: dict[str, Any] = {} if block is None else {"block_length": block}
        if block is not None and self.resolved.cfg_scale == 0:  # guidance excludes a cache
            own["cache"] = "prefix"
        own = {name: value for name, value in own.items() if name not in self.given}
        fitted = copy.copy(self)
        fitted.unset = {**self.unset, **own}
        fitted.resolved = replace(self.resolved, **own).for_pattern(block)
        if self.default_length is not None:
            fitted.for_length(self.default_length)
        return fitted

    def for_length(self, generation_length: int) -> SamplerConfig:
        """Return a config of its own for one generation length, in tokens.

        More steps than tokens are capped, as in the papers' code; others must fit the blocks.
        """
        free, steps = replace(self.resolved, generation_length=generation_length), self._num_steps
        if steps is None:
            return free
        tokens = free.plan().padded_length
        if steps > tokens:
            if generation_length not in self._logged:
                self._logged.add(generation_length)
                what = (
                    "num_steps=%d is lowered to %d: every step reveals a token at least, so an "
                    "answer of %d tokens takes no more steps"
                )
                logger.info(what, steps, tokens, generation_length)
            steps = cap_steps(steps, generation_length, free.plan().block_length)
        return replace(free, num_steps=steps)


class PromptSeeds:
    """Derives a seed for each prompt, of the run's, its ids and how often it was met before.

    So batches and resuming do not change an answer, and repeats are different samples.
    """

    def __init__(self, seed: int) -> None:
        """Begin with the run's seed."""
        self._seed = seed
        self._times_seen: Counter[int] = Counter()

    def restart(self) -> None:
        """Forget the prompts that were met."""
        self._times_seen.clear()

    def next(self, prompt: Sequence[int]) -> int:
        """Return the seed of a prompt that is met."""
        first = derive_seed(self._seed, prompt)
        repeat = self._times_seen[first]
        self._times_seen[first] += 1
        return first if repeat == 0 else derive_seed(first, [repeat])


class CausalTokens(NamedTuple):
    """Special tokens of a checkpoint without a mask."""

    end_token_ids: tuple[int, ...]
    mask_token_id: None = None


EndTokens = SpecialTokens | CausalTokens


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """What decides whether a checkpoint and the options for it go together."""

    path: str
    config: Mapping[str, Any]
    """The checkpoint's config.json, from `networks.read_model_config`."""
    rope_scaling: RopeScaling
    settings: SamplerSettings
    """Only masked diffusion models read it."""
    attention_block: int | None = None
    """In place of a block-causal checkpoint's own block length; None takes its own."""
    passes: PassOptions = PassOptions()
    """What passes give up of the exact arithmetic."""
    sequence_parallel: int = 1
    """Processes that split every pass."""

    def refuse_pass_options(self, why: str) -> None:
        """Raise a ValueError if there are any of passes, for a checkpoint that cannot have them."""
        self.passes.refuse(self.path, why)
        if self.sequence_parallel > 1:
            raise ValueError(
                f"sequence_parallel={self.sequence_parallel} splits the passes of this package's "
                f"masked diffusion networks, and {self.path!r} {why}; leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class LoadRequest(CheckRequest):
    """Everything that is decided before weights load."""

    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    device: torch.device
    attention_backend: str
    context_length: int | None = None
    """Of the longest prompt and generation to come, if it is known."""
    group: dist.ProcessGroup | None = None
    """The processes that split passes, connected; None where there is one."""


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """One kind of checkpoint: how its files are read, checked and loaded."""

    name: str
    """``model_type`` of its config.json."""
    sampler_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampler options that take the place of `SamplerConfig`'s defaults."""
    paper_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the papers' wrapper takes for this family where their diffusion_config is silent."""

    generates_by: ClassVar[str]
    has_sampler: ClassVar[bool] = False
    """Whether this package's sampler serves it, which takes the sampler's options."""

    def defaults(self, *, paper_form: bool = False) -> dict[str, Any]:
        """Return the sampler's defaults, for options in the papers' form or the typed one."""
        return {**self.sampler_defaults, **(self.paper_defaults if paper_form else {})}

    @abstractmethod
    def special_tokens(
        self, path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> EndTokens:
        """Read the ids from the checkpoint's path, its config.json and the tokenizer."""

    def read_pattern(self, config: Mapping[str, Any]) -> AttentionPattern | None:
        """Return who sees whom by config.json; None where the network is transformers' own."""
        return None

    @abstractmethod
    def check(self, request: CheckRequest) -> None:
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
