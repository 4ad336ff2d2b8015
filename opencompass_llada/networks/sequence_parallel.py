"""Divides attention among processes that hold stretches of the same rows, by heads.

Source: DeepSpeed-Ulysses, arXiv 2309.14509: before attention ranks exchange stretches for heads,
after it heads for stretches, which changes no result. Training and inference both do it; how
processes are started and connected is `processes`'.

Shape suffixes: B rows, H heads, K heads of this rank, L positions of a row, S of this rank's
stretch, D head size.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_to_all_single

from opencompass_llada.networks.attention_pattern import FULL, AttentionPattern
from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.transformer import Attend


def exchange(x: Tensor, group: dist.ProcessGroup, *, split: int, join: int) -> Tensor:
    """Give the ranks a part each of one dimension, get theirs along another; has a gradient.

    Of two ranks with ``[a, b]`` and ``[c, d]`` along ``split`` the first gets ``[a, c]`` along
    ``join``, the second ``[b, d]``. Ranks must divide the dimension that is split.
    """
    parts = x.unflatten(split, (dist.get_world_size(group), -1)).movedim(split, 0).contiguous()
    received = all_to_all_single(torch.empty_like(parts), parts, group=group)
    return received.movedim(0, join).flatten(join, join + 1)


def ulysses_attend(attend: Attend, group: dist.ProcessGroup) -> Attend:
    """Return attention over whole rows for ranks that hold stretches of them."""

    def exchanging(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
        whole_BKLD = (exchange(x, group, split=1, join=2) for x in (q_BHSD, k_BHSD, v_BHSD))
        return exchange(attend(*whole_BKLD), group, split=2, join=1)

    return exchanging


def check_heads(config: BidirectionalConfig, ranks: int) -> None:
    """Refuse more ranks than heads can be given to."""
    shape, names = config.shape, config.sizes
    for name, heads in (
        (names["num_heads"], shape.num_heads),
        (names["num_groups"], shape.num_groups),
    ):
        if heads % ranks:
            allowed = [n for n in range(1, heads + 1) if heads % n == 0]
            raise ValueError(
                f"sequence_parallel={ranks} must divide {name}={heads}: attention gives each "
                f"device whole heads. Use one of {', '.join(map(str, allowed))}."
            )


def check_passes(config: BidirectionalConfig, pattern: AttentionPattern, ranks: int) -> None:
    """Refuse to split passes of a network whose tokens do not all see each other, or its heads."""
    if ranks > 1 and pattern != FULL:
        raise ValueError(
            f"sequence_parallel={ranks} splits the passes of networks in which all tokens see each "
            "other, and in this one they see blocks before them alone, whose prompts are run in "
            "chunks on one device; leave sequence_parallel out"
        )
    check_heads(config, ranks)
