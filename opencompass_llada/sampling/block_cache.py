"""Obtains the active block's logits, with keys and values cached between steps or without.

Decides at each step whether everything is recomputed or a span of each row, and which.
Shape suffixes: B rows, L row length, P masked positions of the active block, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from opencompass_llada.options import check_fields, reject_unknown, unknown_name_message
from opencompass_llada.sampling.row_layout import RowLayout

_REFRESH_NAMES = ("block", "never")


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """What is cached between denoising steps, in what dtype, and how often it is refreshed.

    ``prompt`` and ``dual`` are approximate (prefix and dual cache of Fast-dLLM, arXiv 2505.22618);
    ``prefix`` is exact, and for block-causal networks alone.
    """

    type: str = "none"
    """``none`` recomputes everything at every step; ``prompt`` caches keys and values of all that
    is before the active block; ``dual`` those of what follows it, too; ``prefix`` those of finished
    blocks, which see nothing that may still change."""
    refresh: str | int | None = None
    """When everything is computed and cached anew. ``block`` (the default): at the start of every
    block; a number: after that many steps, the refreshing one counted; ``never``: the first pass
    alone caches, and only the prompt counts as cached before the active block."""
    dtype: str | None = None
    """``bfloat16`` (the default): the network's own 16-bit or 32-bit dtype; ``float8``: half of
    16 bit, with a scale for each token and head."""

    def __post_init__(self) -> None:
        """Fill the defaults in and check every value."""
        check_fields(self, "cache ")
        reject_unknown("cache type", [self.type], ("none", "prompt", "dual", "prefix"))
        if self.type == "prefix" and self.refresh is not None:
            raise ValueError(
                f"cache refresh={self.refresh!r} has no effect with type='prefix', whose keys and "
                "values are final; leave it out"
            )
        for name, default in (("refresh", "block"), ("dtype", "bfloat16")):
            given = getattr(self, name)
            if self.enabled and given is None and (name, self.type) != ("refresh", "prefix"):
                object.__setattr__(self, name, default)
            elif given is not None and not self.enabled:
                raise ValueError(
                    f"cache {name}={given!r} has no effect with type='none', which keeps nothing; "
                    "leave it out, or use another type: 'prompt' or 'dual', in a block-causal "
                    "network 'prefix'"
                )
        if isinstance(self.refresh, str) and self.refresh not in _REFRESH_NAMES:
            names = [*_REFRESH_NAMES, "a number of steps"]
            raise ValueError(unknown_name_message("cache refresh", self.refresh, names))
        if isinstance(self.refresh, int) and self.refresh < 1:
            raise ValueError(
                f"cache refresh={self.refresh!r} must be 'block', 'never' or a number of steps; "
                "use 1 or more"
            )
        if self.dtype is not None:
            reject_unknown("cache dtype", [self.dtype], ("bfloat16", "float8"))

    @property
    def enabled(self) -> bool:
        """Whether anything is cached."""
        return self.type != "none"


LogitsFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``(input_ids_BL, positions_BP, lengths_B or None) -> logits_BPV``: one forward pass.

Rows are right-padded; ``lengths_B`` (int64) counts each row's real tokens, None is no padding.
That of a block-causal network has an attribute ``causal_block``, as a `PassProvider` has.
"""


@runtime_checkable
class PassProvider(Protocol):
    """Opens sessions; what a network offers to a sampler that caches keys and values."""

    logit_shift: int
    """How many positions before its token a prediction is made."""
    causal_block: int | None
    """Tokens of a block that all later blocks see; None where all tokens see each other."""

    @property
    def is_split(self) -> bool:
        """Whether several processes split its passes, each of which calls the same ones."""

    def open(self, *arguments: Any, **options: Any) -> Any:
        """Begin with a batch of rows of given lengths, masks included; see inference.session."""


class CallSession:
    """Full passes by a plain model call."""

    def __init__(self, call: LogitsFunction, row_lengths: Sequence[int], device: torch.device):
        """Begin with a batch of rows of given lengths."""
        self._call = call
        padded, self._longest = len(set(row_lengths)) > 1, max(row_lengths)
        self._lengths_B = torch.tensor(row_lengths, device=device) if padded else None

    def full_pass(self, ids_BL: Tensor, positions_BP: Tensor, *, keep: bool) -> Tensor:
        """Return the logits at some positions, whose shape is checked: [B, P, V]."""
        logits_BPV = self._call(ids_BL[:, : self._longest], positions_BP, self._lengths_B)
        if logits_BPV.ndim != 3 or logits_BPV.shape[:2] != positions_BP.shape:
            raise ValueError(
                f"the logits function returned shape {tuple(logits_BPV.shape)} but must return "
                f"[rows, positions, vocabulary] with {tuple(positions_BP.shape)} rows and "
                "positions; return logits for the asked positions only"
            )
        return logits_BPV


class BatchForward:
    """Passes over one batch; a subclass decides what each of them runs."""

    def __init__(self, session: Any, layout: RowLayout) -> None:
        """Begin with a batch."""
        self._session, self._layout = session, layout
        #: Passes so far, in each of which all rows take part, and those that ran every token.
        self.num_forward_passes = self.num_full_passes = 0

    def open_block(self, ids_BL: Tensor, block_index: int) -> tuple[Tensor, Tensor | None]:
        """Run what comes before a block, once all before it is final.

        Returns each row's passes, int64 [B], and, where the block before gives the block's first
        token, the logits of that, [B, 1, V].
        """
        raise NotImplementedError

    def logits(self, ids_BL: Tensor, positions_BP: Tensor, block_index: int) -> Tensor:
        """Return the logits at masked positions of the active block, which ascend: [B, P, V]."""
        raise NotImplementedError


class BlockForward(BatchForward):
    """Full passes over one batch, and partial ones between them as far as the cache allows.

    A worked example: prompt of 5, blocks of 2, two of them (row of 9), refresh each block. Block 0
    starts with a full pass; its later steps recompute positions 5 to 8 (``prompt``) or 5 and 6
    (``dual``). Block 1 starts with a full pass; its later steps recompute 7 and 8. With refresh
    ``never`` block 1 has no full pass, and all its steps recompute 5 to 8 under both.

    Classifier-free guidance takes a second pass with the prompt masked: ``logits = unconditional +
    (scale + 1) * (conditional - unconditional)``, in the model's float type (arXiv:2410.18514).
    """

    def __init__(
        self, session: Any, shift: int, layout: RowLayout, options: CacheOptions, cfg_scale: float,
        mask_token_id: int,
    ) -> None:  # fmt: skip
        """Begin with a batch; ``mask_token_id`` hides the prompt where ``cfg_scale`` is above 0."""
        super().__init__(session, layout)
        self._shift, self._plan, self._options = shift, layout.plan, options
        self._cfg_scale, self._mask_token_id = cfg_scale, mask_token_id
        self._cached_block: int | None = None  # the active block of the last full pass
        self._steps_since_refresh = 0

    def open_block(self, ids_BL: Tensor, block_index: int) -> tuple[Tensor, Tensor | None]:
        """Run a full pass if the block's first token is given, else nothing."""
        given, before = self._layout.has_given_first(block_index), self.num_forward_passes
        if not any(given):
            return torch.zeros_like(self._layout.prompts_B), None
        logits_B1V = self._full_pass(ids_BL, self._layout.starts_B(block_index)[:, None])
        passes = self.num_forward_passes - before
        return torch.tensor(given, device=ids_BL.device) * passes, logits_B1V

    def logits(self, ids_BL: Tensor, positions_BP: Tensor, block_index: int) -> Tensor:
        """Return the logits at masked positions of the active block, which ascend: [B, P, V]."""
        if self._refresh_is_due(block_index):
            self._cached_block, self._steps_since_refresh = block_index, 1
            return self._full_pass(ids_BL, positions_BP)
        self.num_forward_passes += 1
        self._steps_since_refresh += 1
        options, length = self._options, self._plan.block_length
        cached_before, block_end = (self._cached_block or 0) * length, (block_index + 1) * length
        goes_on = options.type == "prompt" and not self._layout.grows
        end = self._plan.padded_length if goes_on else block_end
        starts = [prompt + cached_before - self._shift for prompt in self._layout.prompt_lengths]
        num_tokens = end - cached_before + self._shift
        # One span serves all blocks of a prompt that is never refreshed: one graph, too.
        whole = options.type == "prompt" and options.refresh == "never"
        num_wanted = None if whole else block_end - cached_before
        return self._session.partial_pass(ids_BL, starts, num_tokens, positions_BP, num_wanted)

    def _refresh_is_due(self, block_index: int) -> bool:
        if not self._options.enabled or self._cached_block is None:
            return True
        refresh = self._options.refresh
        if isinstance(refresh, int):
            return self._steps_since_refresh >= refresh
        return refresh == "block" and self._cached_block != block_index

    def _full_pass(self, ids_BL: Tensor, positions_BP: Tensor) -> Tensor:
        def run(ids_BL: Tensor) -> Tensor:
            self.num_forward_passes += 1
            self.num_full_passes += 1
            return self._session.full_pass(ids_BL, positions_BP, keep=self._options.enabled)

        conditional_BPV = run(ids_BL)
        if not self._cfg_scale:
            return conditional_BPV
        columns_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        is_prompt_BL = columns_L < self._layout.prompts_B[:, None]
        unconditional_BPV = run(torch.where(is_prompt_BL, self._mask_token_id, ids_BL))
        guided_BPV = conditional_BPV - unconditional_BPV
        guided_BPV *= self._cfg_scale + 1.0  # in place: three tensors of logits at once, not five
        guided_BPV += unconditional_BPV
        return guided_BPV


class GrowingForward(BlockForward):
    """Passes over rows that end with the active block, each block in a session of its own.

    So the first pass of every block is a full one, whatever the refresh.
    """

    def __init__(self, open_session: Callable[[Sequence[int]], Any], *arguments: Any) -> None:
        """Begin with a batch; sessions are opened by their rows' lengths."""
        super().__init__(None, *arguments)
        self._open_session = open_session

    def open_block(self, ids_BL: Tensor, block_index: int) -> tuple[Tensor, Tensor | None]:
        """Open the block's session, in which nothing is cached yet."""
        self._session = self._open_session(self._layout.lengths_at(block_index))
        self._cached_block = None
        return super().open_block(ids_BL, block_index)


class PrefixForward(BatchForward):
    """Passes over one batch of a block-causal network, on the final keys and values before a block.

    The prompts' whole blocks are run once, all rows' together; each step runs the active block, the
    first one beside the block before it, whose final keys and values it leaves. The published
    samplers run that block in a pass of its own, as is done here where it gives the next one's
    first token.
    """

    def __init__(self, session: Any, layout: RowLayout) -> None:
        """Begin with a batch."""
        super().__init__(session, layout)
        self._finished: list[int] = []  # where each row's block begins whose keys are to be left

    def open_block(self, ids_BL: Tensor, block_index: int) -> tuple[Tensor, Tensor | None]:
        """Leave the final keys and values of all before a block, or note what is to be left.

        Where a prompt ends with a block that gives the next one's first token, that runs again.
        """
        layout, starts = self._layout, self._layout.starts(block_index)
        given, length = layout.has_given_first(block_index), layout.pass_length
        passes, logits_B1V = [0] * len(starts), None
        if block_index == 0 and any(starts):
            self._session.prefill(ids_BL, starts)
            self.num_forward_passes += 1
            self.num_full_passes += 1
            passes = [int(start > 0) for start in starts]
        before = [max(start - length, 0) for start in starts]  # a row without one runs in vain
        is_finished = block_index > 0 and layout.opens_pass(block_index)
        if layout.gives_first and (is_finished or any(given)):
            self.num_forward_passes += 1
            next_B1 = torch.tensor(before, device=ids_BL.device)[:, None] + length
            logits_B1V = self._session.partial_pass(ids_BL, before, length, next_B1)
            passes = [n + int(is_finished or g) for n, g in zip(passes, given, strict=True)]
        elif is_finished:
            self._finished = before
        return torch.tensor(passes, device=ids_BL.device), logits_B1V

    def logits(self, ids_BL: Tensor, positions_BP: Tensor, block_index: int) -> Tensor:
        """Return the logits at masked positions of the active block, which ascend: [B, P, V]."""
        self.num_forward_passes += 1
        starts, length = self._layout.pass_starts(block_index), self._layout.pass_length
        finished, self._finished = self._finished, []
        return self._session.partial_pass(ids_BL, starts, length, positions_BP, finished=finished)


def open_forward(
    model: LogitsFunction | PassProvider,
    layout: RowLayout,
    options: CacheOptions,
    *,
    cfg_scale: float,
    mask_token_id: int,
) -> BatchForward:
    """Begin with a batch on a model call, or on what opens passes that can cache."""
    shift, opener = 0, _session_opener(model, layout, options, guided=cfg_scale > 0)
    if isinstance(model, PassProvider):
        shift = model.logit_shift
        shortest = min(layout.prompt_lengths)
        if options.type in ("prompt", "dual") and shortest < max(shift, 1):
            raise ValueError(
                f"cache={options.type!r} keeps the prompt, but a prompt has {shortest} tokens; use "
                "cache='none' for empty prompts"
            )
    elif options.enabled:
        raise ValueError(
            f"cache={options.type!r} needs a model that keeps keys and values, and got a mere "
            "call; give inference.PassServer, or use cache='none'"
        )
    if layout.grows:
        return GrowingForward(opener, shift, layout, options, cfg_scale, mask_token_id)
    session = opener(layout.row_lengths)
    if options.type == "prefix":
        return PrefixForward(session, layout)
    return BlockForward(session, shift, layout, options, cfg_scale, mask_token_id)


def _session_opener(
    model: LogitsFunction | PassProvider, layout: RowLayout, options: CacheOptions, *, guided: bool
) -> Callable[[Sequence[int]], Any]:
    """Return what opens a session on rows of given lengths."""
    plan, device = layout.plan, layout.prompts_B.device
    if not isinstance(model, PassProvider):
        return lambda row_lengths: CallSession(model, row_lengths, device)
    passes = plan.num_blocks if options.enabled else plan.num_steps
    return functools.partial(
        model.open,
        block_length=layout.pass_length,
        cache_dtype=options.dtype,
        passes=passes // plan.num_blocks if layout.grows else passes,
        guided=guided,
        final_lengths=layout.row_lengths if layout.grows else None,
    )
