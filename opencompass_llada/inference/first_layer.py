"""Attends in the first layer once among the tokens that stay the same while a block is denoised.

Those enter the first layer at every step as at the first one: their queries, keys and values are
the same, and so is what they attend to among themselves, which is all but a few of the layer's
products. It is held with its log-sum-exps and merged with attention to the block's own keys: exact
up to rounding. Further layers see states that have changed. On one core four passes of tiny-llada
over two rows of 2,048 tokens take 2.75 s instead of 2.95 s (2026-11-30).
Shape suffixes: L tokens of a row, T those of all rows, S those that stay, H query heads,
G key/value heads, D head size, B rows, P positions asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opencompass_llada.inference.block_attention import Part, attend_part, merge

MOST_HELD = 2
"""Inputs that are held of a batch: guidance alternates between two."""


class _Row:
    """A row's first layer, whose tokens from ``first`` to ``end`` change."""

    def __init__(self, ids_L: Tensor, first: int, end: int) -> None:
        self.first, self.end = first, end
        self.ids_S = self.staying(ids_L).clone()  # what is compared later must not change with it
        self._part: Part | None = None

    def staying(self, x_L: Tensor) -> Tensor:
        """Return what belongs to the tokens that stay."""
        if self.end == len(x_L):
            return x_L[: self.first]
        return torch.cat((x_L[: self.first], x_L[self.end :]))

    def attend(self, q_LHD: Tensor, k_LGD: Tensor, v_LGD: Tensor) -> Tensor:
        if not len(self.ids_S):
            return attend_part(q_LHD, k_LGD, v_LGD, is_causal=False)[0]
        q_SHD, changing = self.staying(q_LHD), slice(self.first, self.end)
        if self._part is None:
            staying = self.staying(k_LGD), self.staying(v_LGD)
            self._part = attend_part(q_SHD, *staying, is_causal=False)
        own = attend_part(q_SHD, k_LGD[changing], v_LGD[changing], is_causal=False)
        out_SHD = merge([self._part, own])
        changed, _ = attend_part(q_LHD[changing], k_LGD, v_LGD, is_causal=False)
        return torch.cat((out_SHD[: self.first], changed, out_SHD[self.first :]))


class FirstLayerAttention:
    """Attention of the first layer over rows of one input that lie end to end, in float32."""

    def __init__(self, rows: Sequence[Tensor], positions_BP: Tensor) -> None:
        """Take the ids of each row, int64 [L], and positions in the stretch of it that changes."""
        ends = (positions_BP.amin(1).tolist(), (positions_BP.amax(1) + 1).tolist())
        self._rows = [_Row(*own) for own in zip(rows, *ends, strict=True)]
        self._lengths = [len(row_L) for row_L in rows]

    def fits(self, rows: Sequence[Tensor], positions_BP: Tensor) -> bool:
        """Say whether these rows differ from its own where it takes them to change alone."""
        ends = zip(positions_BP.amin(1).tolist(), positions_BP.amax(1).tolist(), strict=True)
        return all(
            own.first <= first and last < own.end and torch.equal(own.staying(ids_L), own.ids_S)
            for own, ids_L, (first, last) in zip(self._rows, rows, ends, strict=True)
        )

    def __call__(self, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        """Return the attention of all rows, [T, H, D], to the keys of their own row."""
        parts = zip(*(x.split(self._lengths) for x in (q_THD, k_TGD, v_TGD)), strict=True)
        outs = [row.attend(*own) for row, own in zip(self._rows, parts, strict=True)]
        return outs[0] if len(outs) == 1 else torch.cat(outs)


class FirstLayers:
    """What is held of a batch's first layer, newest last."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._held: list[FirstLayerAttention] = []

    def attention(self, rows: Sequence[Tensor], positions_BP: Tensor) -> FirstLayerAttention:
        """Return attention for a pass over rows: one that is held where it fits, or a new one."""
        for held in self._held:
            if held.fits(rows, positions_BP):
                return held
        made = FirstLayerAttention(rows, positions_BP)
        self._held = [*self._held[1 - MOST_HELD :], made]
        return made
