"""Stops before all masks are revealed, once the rest cannot change the answer.

An answer is complete when everything up to its first end token is revealed, or the caller says so
of finished blocks. What follows is end tokens, whatever the timing and the batch.
Shape letters: B rows, L row length, N generated positions, K block length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from opencompass_llada.sampling.config import SpecialTokens

IsComplete = Callable[[list[int]], bool]
"""Whether the answer is complete, given a row's ids of finished blocks; once True, True for all
longer ones, whatever follows."""


class EarlyStop:
    """Watches one batch."""

    def __init__(
        self,
        prompt_lengths_B: Tensor,
        num_masks: int,
        special_tokens: SpecialTokens,
        is_complete: IsComplete | None,
        *,
        within_blocks: bool = True,
        in_step: bool = False,
    ) -> None:
        """Note where the generated tokens stand: ``num_masks`` of them after each prompt.

        Without ``within_blocks`` an end token counts once its block is finished. Processes that
        split passes stop ``in_step``: all after the same pass.
        """
        device, num_rows = prompt_lengths_B.device, len(prompt_lengths_B)
        self._offsets_N = torch.arange(num_masks, device=device)
        self._positions_BN = prompt_lengths_B[:, None] + self._offsets_N
        self._ends_E = torch.tensor(special_tokens.end_token_ids, device=device)
        self._eos = special_tokens.eos_token_id
        self._is_complete, self._within_blocks = is_complete, within_blocks
        #: Tokens that the caller said make each row's answer complete; all of them until it does.
        self._complete_from = [num_masks] * num_rows
        self._flag = LaggedFlag(device, in_step=in_step)
        #: Rows whose answers are complete, bool [B].
        self.complete_B = torch.zeros(num_rows, dtype=torch.bool, device=device)

    def after_step(self, ids_BL: Tensor, finished_B: Tensor, masked_BK: Tensor) -> bool:
        """Return whether every row was seen to be complete; on CUDA it may say so some steps late.

        The active block follows so many finished tokens of each row; below 0 it begins as far
        before the prompt's end.
        """
        if not self._within_blocks:
            return False
        places_BN = self._offsets_N - finished_B[:, None]
        length = masked_BK.shape[1]
        is_masked_BN = masked_BK.gather(1, places_BN.clamp(0, length - 1)) | (places_BN >= length)
        known_BN = ((places_BN < 0) | ~is_masked_BN).cumprod(dim=1).bool()
        self.complete_B = self.complete_B | (self._is_end(ids_BL) & known_BN).any(dim=1)
        return self._flag.submit(self.complete_B.all())

    def after_block(self, ids_BL: Tensor, num_finished: Sequence[int]) -> bool:
        """Return whether every row is complete, given how many of its tokens are finished."""
        rows = ids_BL.gather(1, self._positions_BN).tolist()
        is_end = self._is_end(ids_BL).tolist()
        done = []
        for row, finished in enumerate(num_finished):
            ended = any(is_end[row][:finished])
            is_open = not ended and self._complete_from[row] > finished
            if is_open and self._is_complete and self._is_complete(rows[row][:finished]):
                self._complete_from[row] = finished
            done.append(ended or self._complete_from[row] <= finished)
        self.complete_B = torch.tensor(done, device=ids_BL.device)
        return all(done)

    def fill(self, ids_BL: Tensor) -> Tensor:
        """Return the tokens with end tokens after each answer's end."""
        is_end_BN = self._is_end(ids_BL).long()
        from_B1 = torch.tensor(self._complete_from, device=ids_BL.device)[:, None]
        beyond_BN = (is_end_BN.cumsum(dim=1) > is_end_BN) | (self._offsets_N >= from_B1)
        tokens_BN = ids_BL.gather(1, self._positions_BN).masked_fill(beyond_BN, self._eos)
        return ids_BL.scatter(1, self._positions_BN, tokens_BN)

    def _is_end(self, ids_BL: Tensor) -> Tensor:
        return torch.isin(ids_BL.gather(1, self._positions_BN), self._ends_E)


class LaggedFlag:
    """A device's boolean, read on the host without waiting for its newest value."""

    def __init__(self, device: torch.device, *, in_step: bool = False) -> None:
        """Take page-locked memory on CUDA.

        ``in_step`` reads the value before the newest, for which it waits: which value is read does
        not depend on the device's speed then.
        """
        self._seen, self._cuda = False, device.type == "cuda"
        self._in_step = in_step
        self._host = torch.zeros((), dtype=torch.bool, pin_memory=self._cuda)
        self._pending: torch.cuda.Event | None = None

    def submit(self, flag: Tensor) -> bool:
        """Hand in the newest value and return whether one that has arrived was True."""
        if not self._cuda:
            self._seen |= bool(flag)
            return self._seen
        if self._pending is not None and self._in_step:
            self._pending.synchronize()
        if self._pending is not None and self._pending.query():
            self._seen |= bool(self._host)
            self._pending = None
        if self._pending is None:
            self._host.copy_(flag, non_blocking=True)
            self._pending = torch.cuda.Event()
            self._pending.record()
        return self._seen
