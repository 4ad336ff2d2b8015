"""The forward policy over passes that can keep keys and values: full ones and partial ones.

Decides at each step whether everything is recomputed or a span of each row, and which. Knows no
network: passes come from a `PassProvider`.

Shape letters: B rows, L row length, P masked positions of the active block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from opencompass_llada.sampling.cache import CacheOptions


class PassSession(Protocol):
    """Passes over one batch; see modeling.inference.session."""

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
