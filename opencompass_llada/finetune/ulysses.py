"""Ulysses sequence parallelism: each rank holds a stretch of every row, attention sees whole rows.

Source: DeepSpeed-Ulysses, arXiv 2309.14509: before attention ranks exchange stretches for heads,
after it heads for stretches. Exact: the same arithmetic as on one device.

Shape suffixes: B rows, H heads, L positions of a row, S of this rank's stretch, D head size, R
ranks, K heads of this rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from opencompass_llada.modeling.block import Attend


class _Exchange(torch.autograd.Function):
    """All-to-all over the first dimension; its gradient is the exchange back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        out = torch.empty_like(x)
        dist.all_to_all_single(out, x, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(grads[0].contiguous(), ctx.group), None


def _to_heads(x_BHSD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Give away heads, get the whole rows: [B, H, S, D] to [B, K, L, D]."""
    ranks = dist.get_world_size(group)
    x_RBKSD = x_BHSD.unflatten(1, (ranks, -1)).movedim(1, 0).contiguous()
    x_RBKSD = _Exchange.apply(x_RBKSD, group)
    return x_RBKSD.movedim(0, 2).flatten(2, 3)


def _to_stretches(x_BKLD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Give away positions, get all heads: [B, K, L, D] to [B, H, S, D]."""
    ranks = dist.get_world_size(group)
    x_RBKSD = x_BKLD.unflatten(2, (ranks, -1)).movedim(2, 0).contiguous()
    x_RBKSD = _Exchange.apply(x_RBKSD, group)
    return x_RBKSD.movedim(0, 1).flatten(1, 2)


def ulysses_attend(attend: Attend, group: dist.ProcessGroup) -> Attend:
    """Return attention over whole rows for ranks that hold stretches of them.

    Args:
        attend: Attention over whole rows with some of the heads.
        group: The ranks that share rows, in the order of their stretches.

    Returns:
        A function of this rank's queries, keys and values [B, H, S, D].
    """

    def exchanging(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
        return _to_stretches(
            attend(*(_to_heads(x, group) for x in (q_BHSD, k_BHSD, v_BHSD))), group
        )

    return exchanging


def check_heads(num_heads: int, num_kv_heads: int, ranks: int) -> None:
    """Refuse more ranks than heads can be given to.

    Raises:
        ValueError: If heads do not divide evenly.
    """
    for name, heads in (("n_heads", num_heads), ("n_kv_heads", num_kv_heads)):
        if heads % ranks:
            allowed = [n for n in range(1, heads + 1) if heads % n == 0]
            raise ValueError(
                f"sequence_parallel={ranks} must divide {name}={heads}: attention gives each "
                f"device whole heads. Use one of {', '.join(map(str, allowed))}."
            )
