"""Acceptance rules: which predictions of a denoising step are revealed and which are masked again.

A rule is a callable of its own file or class; the loop in ``sampler.py`` stays as it is for
any rule that keeps the contract of :class:`AcceptanceRule`. Ships the published rule only: as many
as scheduled, the highest scores first. The score itself (confidence or a random number) is made in
``prediction.py``.

Shape letters: B rows, P masked positions of the active block (of the row that has most).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class AcceptanceRule(Protocol):
    """Chooses the predictions to reveal at one step.

    A rule reveals, in every row, at least ``num_scheduled`` of the positions that are still masked
    (or all that are left), so that a block is finished within its schedule. It may reveal more;
    the block then ends early. It looks at each row alone, or a batch would change a row's result.
    """

    @property
    def reveals_as_scheduled(self) -> bool:
        """Whether every row reveals exactly ``num_scheduled`` positions at every step.

        If so, the loop knows the counts without reading the device; if not, it reads them once a
        step and gives rows with fewer masked positions filler.
        """
        ...

    def __call__(self, scores_BP: Tensor, num_scheduled: int) -> Tensor:
        """Choose.

        Args:
            scores_BP: float64, higher is surer; minus infinity marks filler, which the loop
                ignores whether chosen or not. Positions ascend within a row.
            num_scheduled: Reveals that the schedule plans for this step, at most P.

        Returns:
            bool [B, P], True where the prediction is revealed.
        """
        ...


class ScheduledAcceptance:
    """Reveals exactly the scheduled number of positions, the highest scores first.

    Of equal scores the leftmost position is revealed first. The published code leaves that to
    ``torch.topk``, which promises no order.
    """

    reveals_as_scheduled = True

    def __call__(self, scores_BP: Tensor, num_scheduled: int) -> Tensor:
        """Choose the ``num_scheduled`` highest scores of each row; see :class:`AcceptanceRule`."""
        order_BP = scores_BP.argsort(dim=-1, descending=True, stable=True)
        accepted_BP = torch.zeros_like(scores_BP, dtype=torch.bool)
        return accepted_BP.scatter(1, order_BP[:, :num_scheduled], True)
