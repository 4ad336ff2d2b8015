"""Forward policies: how logits of the active block are obtained, with a cache or without.

The sampler asks a policy for logits and never calls the model itself, so that caches can be added
as further policies (`KeptForward`) without a change to the loop. Here are the two of the
reference mode: a full pass for every step, with or without classifier-free guidance.

Decides at each step whether everything is recomputed or a span of each row, and which. Knows no
network: passes come from a `PassProvider`.

Shape suffixes: B rows, L row length, P masked positions of the active block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from opencompass_llada.sampling.block_cache import CacheOptions

LogitsFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``(input_ids_BL, positions_BP, lengths_B or None) -> logits_BPV``: one forward pass.

Rows are right-padded; ``lengths_B`` (int64) counts each row's real tokens and None means that no
row is padded. Positions count from 0 in each row. The result is of any float type.
"""


class ForwardPolicy(Protocol):
    """Turns the current tokens into logits at the asked positions."""

    @property
    def num_forward_passes(self) -> int:
        """Forward passes so far; each row of the batch takes part in every one."""
        ...

    @property
    def num_full_passes(self) -> int:
        """Those of them that ran every token."""
        ...

    def start_block(self, ids_BL: Tensor, block_start_B: Tensor, block_length: int) -> None:
        """Take note that a block begins; a cache drops or rebuilds what it holds here.

        Args:
            ids_BL: Current tokens, int64.
            block_start_B: First position of the block in each row, int64.
            block_length: Tokens in the block.
        """
        ...

    def logits(self, ids_BL: Tensor, positions_BP: Tensor) -> Tensor:
        """Return the logits at positions of the active block.

        Args:
            ids_BL: Current tokens, int64; never written to.
            positions_BP: Positions from 0 in each row, ascending, int64.

        Returns:
            Logits [B, P, V] of any float type.
        """
        ...


class FullForward:
    """One pass over the whole sequence for every step."""

    def __init__(self, logits_function: LogitsFunction, lengths_B: Tensor | None) -> None:
        """Keep the model call.

        Args:
            logits_function: The model call.
            lengths_B: Real tokens of each row, int64; None if no row is padded.
        """
        self._logits_function = logits_function
        self._lengths_B = lengths_B
        self._num_forward_passes = 0

    @property
    def num_forward_passes(self) -> int:
        """Passes so far, one for each call of the model."""
        return self._num_forward_passes

    @property
    def num_full_passes(self) -> int:
        """All of them."""
        return self._num_forward_passes

    def start_block(self, ids_BL: Tensor, block_start_B: Tensor, block_length: int) -> None:
        """Do nothing: nothing is kept from one pass to the next."""

    def logits(self, ids_BL: Tensor, positions_BP: Tensor) -> Tensor:
        """Return the logits at the positions; see :class:`ForwardPolicy`.

        Raises:
            ValueError: If the model call returns another shape than [B, P, V].
        """
        logits_BPV = self._logits_function(ids_BL, positions_BP, self._lengths_B)
        if logits_BPV.ndim != 3 or logits_BPV.shape[:2] != positions_BP.shape:
            raise ValueError(
                f"the logits function returned shape {tuple(logits_BPV.shape)} but must return "
                f"[rows, positions, vocabulary] with {tuple(positions_BP.shape)} rows and "
                "positions; return logits for the asked positions only"
            )
        self._num_forward_passes += 1
        return logits_BPV


class GuidedForward:
    """Classifier-free guidance over another policy; takes a second pass with the prompt masked.

    ``logits = unconditional + (scale + 1) * (conditional - unconditional)``, in the model's float
    type as in the published code (unsupervised guidance of masked diffusion models,
    arXiv:2410.18514). The published code runs both halves as one batch of twice the rows; two
    passes need half the memory and do the same work.
    """

    def __init__(
        self,
        conditional: ForwardPolicy,
        unconditional: ForwardPolicy,
        *,
        cfg_scale: float,
        prompt_mask_BL: Tensor,
        mask_token_id: int,
    ) -> None:
        """Keep what is needed to hide the prompt.

        Args:
            conditional: Policy for the tokens as they are.
            unconditional: Policy for the tokens without the prompt; another object, since a
                policy may keep state of what it has seen.
            cfg_scale: Above 0.
            prompt_mask_BL: bool, True at each row's prompt.
            mask_token_id: What replaces the prompt's tokens.
        """
        self._conditional = conditional
        self._unconditional = unconditional
        self._cfg_scale = cfg_scale
        self._prompt_mask_BL = prompt_mask_BL
        self._mask_token_id = mask_token_id

    @property
    def num_forward_passes(self) -> int:
        """Passes of both halves."""
        return self._conditional.num_forward_passes + self._unconditional.num_forward_passes

    @property
    def num_full_passes(self) -> int:
        """Full passes of both halves."""
        return self._conditional.num_full_passes + self._unconditional.num_full_passes

    def start_block(self, ids_BL: Tensor, block_start_B: Tensor, block_length: int) -> None:
        """Tell both halves that a block begins; see :class:`ForwardPolicy`."""
        self._conditional.start_block(ids_BL, block_start_B, block_length)
        self._unconditional.start_block(self._hide_prompt(ids_BL), block_start_B, block_length)

    def logits(self, ids_BL: Tensor, positions_BP: Tensor) -> Tensor:
        """Return the guided logits at the positions; see :class:`ForwardPolicy`."""
        conditional_BPV = self._conditional.logits(ids_BL, positions_BP)
        unconditional_BPV = self._unconditional.logits(self._hide_prompt(ids_BL), positions_BP)
        guided_BPV = conditional_BPV - unconditional_BPV
        guided_BPV *= self._cfg_scale + 1.0  # in place: three tensors of logits at once, not five
        guided_BPV += unconditional_BPV
        return guided_BPV

    def _hide_prompt(self, ids_BL: Tensor) -> Tensor:
        return torch.where(self._prompt_mask_BL, self._mask_token_id, ids_BL)


class PassSession(Protocol):
    """Passes over one batch; see inference.session."""

    def full_pass(self, ids_BL: Tensor, positions_BP: Tensor, *, keep: bool) -> Tensor:
        """Run every token, keep all keys and values if asked, return logits [B, P, V]."""
        ...

    def partial_pass(
        self,
        ids_BL: Tensor,
        starts: Sequence[int],
        num_tokens: int,
        positions_BP: Tensor,
        num_wanted: int | None = None,
    ) -> Tensor:
        """Run a span of each row against what is kept, return logits [B, P, V].

        Only states of the ``num_wanted`` leading tokens of the span are asked for.
        """
        ...


@runtime_checkable
class PassProvider(Protocol):
    """Opens sessions; what a network offers to a sampler that keeps keys and values."""

    @property
    def logit_shift(self) -> int:
        """How many positions before its token a prediction is made."""
        ...

    def open(
        self,
        row_lengths: Sequence[int],
        *,
        block_length: int,
        cache_dtype: str | None,
        passes: int,
        guided: bool,
    ) -> PassSession:
        """Begin with a batch of rows of these lengths, masks included."""
        ...


class KeptForward:
    """Full passes, and partial ones between them as far as the options allow.

    A worked example: prompt of 5, blocks of 2, two of them (row of 9), refresh each block. Block 0
    starts with a full pass; its later steps recompute positions 5 to 8 (``prompt``) or 5 and 6
    (``dual``). Block 1 starts with a full pass; its later steps recompute 7 and 8. With refresh
    ``never`` block 1 has no full pass, and all its steps recompute 5 to 8 under both.
    """

    def __init__(
        self,
        provider: PassProvider,
        options: CacheOptions,
        *,
        prompt_lengths: Sequence[int],
        num_masks: int,
        block_length: int,
        full_passes: int,
        guided: bool = False,
    ) -> None:
        """Open a session.

        Args:
            provider: Where passes come from.
            options: What is kept.
            prompt_lengths: Tokens of each prompt.
            num_masks: Tokens that are generated after each.
            block_length: Tokens in a block.
            full_passes: Full passes to expect.
            guided: Whether this is one half of classifier-free guidance.

        Raises:
            ValueError: If a prompt is too short for a kept part before the first block.
        """
        self._options = options
        self._shift = provider.logit_shift
        self._prompt_lengths = tuple(prompt_lengths)
        self._num_masks = num_masks
        if options.keeps and min(self._prompt_lengths) < max(self._shift, 1):
            raise ValueError(
                f"cache={options.type!r} keeps the prompt, but a prompt has "
                f"{min(self._prompt_lengths)} tokens; use cache='none' for empty prompts"
            )
        self._session = provider.open(
            [length + num_masks for length in prompt_lengths],
            block_length=block_length,
            cache_dtype=options.dtype,
            passes=full_passes,
            guided=guided,
        )
        self._num_full = 0
        self._num_partial = 0
        self._block_start = 0
        self._block_end = 0
        self._kept_before = 0
        self._steps_since_refresh: int | None = None

    @property
    def num_forward_passes(self) -> int:
        """Passes so far, full and partial."""
        return self._num_full + self._num_partial

    @property
    def num_full_passes(self) -> int:
        """Full passes so far."""
        return self._num_full

    def start_block(self, ids_BL: Tensor, block_start_B: Tensor, block_length: int) -> None:
        """Take note that the next block begins; blocks come left to right."""
        self._block_start = self._block_end
        self._block_end = self._block_start + block_length
        if self._options.refresh == "block":
            self._steps_since_refresh = None

    def logits(self, ids_BL: Tensor, positions_BP: Tensor) -> Tensor:
        """Return the logits at positions of the active block; see `ForwardPolicy`."""
        if self._refresh_is_due():
            self._num_full += 1
            self._steps_since_refresh = 1
            self._kept_before = self._block_start
            return self._session.full_pass(ids_BL, positions_BP, keep=self._options.keeps)
        assert self._steps_since_refresh is not None
        self._num_partial += 1
        self._steps_since_refresh += 1
        end = self._block_end if self._options.type == "dual" else self._num_masks
        starts = [length + self._kept_before - self._shift for length in self._prompt_lengths]
        num_tokens = end - self._kept_before + self._shift
        # One span serves all blocks of a prompt that is never refreshed: one graph, too.
        whole = self._options.type == "prompt" and self._options.refresh == "never"
        num_wanted = None if whole else self._block_end - self._kept_before
        return self._session.partial_pass(ids_BL, starts, num_tokens, positions_BP, num_wanted)

    def _refresh_is_due(self) -> bool:
        if not self._options.keeps or self._steps_since_refresh is None:
            return True
        refresh = self._options.refresh
        return isinstance(refresh, int) and self._steps_since_refresh >= refresh
