"""Rows of different lengths laid end to end, without padding: where each begins, its attention.

Shape letters: B rows, L padded length, T tokens of all rows, P tokens asked for in each row,
H query heads, G key/value heads, D head size.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from opencompass_llada.inference.attention_rule import attend_with

VARLEN_LONGEST = 2048
"""Longest row, in tokens, for which one varlen call serves a batch; longer rows fill the card
alone, and there cuDNN, which has no such call, is faster."""


class PackedRows:
    """The lengths of a batch's rows, on the host and on the device."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """Lay the rows out.

        Args:
            lengths: Tokens of each row, at least 1.
            device: Where the network runs.
        """
        self.lengths = tuple(lengths)
        self.starts = tuple(itertools.accumulate(self.lengths[:-1], initial=0))
        self.num_tokens = sum(self.lengths)
        self.offsets_B = torch.tensor(self.starts, dtype=torch.int32, device=device)
        self.lengths_B = torch.tensor(self.lengths, dtype=torch.int32, device=device)
        spans = [torch.arange(length, device=device) for length in self.lengths]
        self.positions_T = torch.cat(spans)
        self.slots_T = torch.arange(self.num_tokens, device=device)

    def pack(self, ids_BL: Tensor) -> Tensor:
        """Return the rows' tokens end to end, [T]."""
        rows = [ids[:length] for ids, length in zip(ids_BL, self.lengths, strict=True)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def slots_of(self, positions_BP: Tensor) -> Tensor:
        """Return where the positions of each row stand, int64 [B * P]."""
        return (self.offsets_B[:, None] + positions_BP).flatten()


def attend_rows(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    choose: Callable[[int, int], str | None],
) -> Tensor:
    """Attend within each row.

    Args:
        q_THD: Queries of all rows, end to end.
        k_TGD: Keys, likewise.
        v_TGD: Values.
        query_lengths: Queries of each row.
        key_lengths: Keys of each row.
        choose: Names the kernel for a number of queries and keys; see attention_rule.

    Returns:
        [T, H, D], of the queries.
    """
    if _takes_varlen(q_THD, key_lengths):
        return _varlen(q_THD, k_TGD, v_TGD, query_lengths, key_lengths)
    rows = zip(
        q_THD.split(list(query_lengths)),
        k_TGD.split(list(key_lengths)),
        v_TGD.split(list(key_lengths)),
        strict=True,
    )
    outs = [
        attend_with(
            choose(q_PHD.shape[0], k_LGD.shape[0]),
            q_PHD.transpose(0, 1),
            k_LGD.transpose(0, 1),
            v_LGD.transpose(0, 1),
        ).transpose(0, 1)
        for q_PHD, k_LGD, v_LGD in rows
    ]
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _takes_varlen(q_THD: Tensor, key_lengths: Sequence[int]) -> bool:
    return (
        q_THD.is_cuda
        and q_THD.dtype in (torch.bfloat16, torch.float16)
        and len(key_lengths) > 1
        and max(key_lengths) <= VARLEN_LONGEST
    )


def _varlen(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {}
    if q_THD.shape[1] != k_TGD.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # from torch 2.12 on
            options["enable_gqa"] = True
        else:
            repeats = q_THD.shape[1] // k_TGD.shape[1]
            k_TGD = k_TGD.repeat_interleave(repeats, dim=1)
            v_TGD = v_TGD.repeat_interleave(repeats, dim=1)

    def bounds(lengths: Sequence[int]) -> Tensor:
        ends = list(itertools.accumulate(lengths, initial=0))
        return torch.tensor(ends, dtype=torch.int32, device=q_THD.device)

    out_THD = varlen_attn(
        q_THD,
        k_TGD,
        v_TGD,
        bounds(query_lengths),
        bounds(key_lengths),
        max(query_lengths),
        max(key_lengths),
        **options,
    )
    assert isinstance(out_THD, Tensor), "auxiliary outputs were not asked for"
    return out_THD
