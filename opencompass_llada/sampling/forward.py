"""Forward policies: how logits of the active block are obtained, and how many passes that takes.

The sampler asks a policy for logits and never calls the model itself, so that caches can be added
as further policies (``kept_forward.py``) without a change to the loop. Here are the two of the
reference mode: a full pass for every step, with or without classifier-free guidance.

Shape letters: B rows, L row length, P masked positions of the active block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

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
