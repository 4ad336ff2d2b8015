"""States who sees whom in a row, once for each pattern; everything else follows from it.

A pattern is a list of stretches. The mask, which is the oracle, the calls of maskless kernels and
how much of a row may be cached as final follow from it. Shape suffixes: B batch, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Stretch(NamedTuple):
    """Consecutive queries that all see the same consecutive keys; ends are exclusive."""

    first_query: int
    end_query: int
    first_key: int
    end_key: int


class AttentionPattern:
    """Who sees whom in a row; a subclass answers `stretches` and nothing else."""

    def stretches(self, length: int) -> list[Stretch]:
        """Return the stretches of a row of that length, in order and without gaps of queries."""
        raise NotImplementedError

    def sees_all(self, length: int) -> bool:
        """Tell whether every query of a row of that length sees every key."""
        return self.stretches(length) == [Stretch(0, length, 0, length)]

    def of_queries(self, first: int, end: int, length: int) -> list[Stretch]:
        """Return the stretches of the queries from ``first`` to ``end`` alone, end exclusive."""
        return [
            Stretch(max(s.first_query, first), min(s.end_query, end), s.first_key, s.end_key)
            for s in self.stretches(length)
            if s.first_query < end and first < s.end_query
        ]

    def mask(self, length: int, device: torch.device | str = "cpu") -> Tensor:
        """Return who sees whom as bool [L, L], queries by keys."""
        stretches = self.stretches(length)
        sizes = torch.tensor([s.end_query - s.first_query for s in stretches])
        first_L, end_L = (
            torch.tensor(bounds).repeat_interleave(sizes).to(device)[:, None]
            for bounds in ([s.first_key for s in stretches], [s.end_key for s in stretches])
        )
        keys_L = torch.arange(length, device=device)
        return (first_L <= keys_L) & (keys_L < end_L)

    def batch_mask(
        self, lengths_B: Tensor | None, length: int, device: torch.device | str
    ) -> Tensor | None:
        """Return a right-padded batch's mask, bool, as [B, heads, L, L]; None where all see all."""
        mask = None if self.sees_all(length) else self.mask(length, device)[None, None]
        if lengths_B is None:
            return mask
        positions_L = torch.arange(length, device=device)
        real = (positions_L[None, :] < lengths_B[:, None])[:, None, None, :]
        return real if mask is None else mask & real

    def final_length(self, num_known: int, length: int) -> int:
        """Return how many leading tokens have final keys and values, which a cache may keep.

        They are final once all tokens are known that a token sees, that these see, and so on:
        8 in blocks of 4 with 10 tokens known. Where all see all, none are before all are known.
        """
        final = reach = 0
        for stretch in self.stretches(length):
            reach = max(reach, stretch.end_key)
            if reach > num_known:
                break
            if reach <= stretch.end_query:
                final = stretch.end_query
        return final


@dataclass(frozen=True)
class Full(AttentionPattern):
    """Every token sees every token, as in LLaDA and Dream."""

    def stretches(self, length: int) -> list[Stretch]:
        """Return one stretch."""
        return [Stretch(0, length, 0, length)]


@dataclass(frozen=True)
class Blocks(AttentionPattern):
    """A token sees its whole block and all blocks before it; blocks count from a row's start."""

    block_length: int

    def stretches(self, length: int) -> list[Stretch]:
        """Return a stretch for each block."""
        return self.of_queries(0, length, length)

    def of_queries(self, first: int, end: int, length: int) -> list[Stretch]:
        """Return the stretches of some queries, without going through all blocks of a row."""
        starts = range(first - first % self.block_length, end, self.block_length)
        ends = [min(start + self.block_length, length) for start in starts]
        return [
            Stretch(max(start, first), min(block_end, end), 0, block_end)
            for start, block_end in zip(starts, ends, strict=True)
        ]


FULL = Full()
CAUSAL = Blocks(1)


def with_blocks(pattern: AttentionPattern, block_length: int | None) -> AttentionPattern:
    """Return a block-causal checkpoint's pattern with another block length; None leaves it."""
    if block_length is None:
        return pattern
    if not isinstance(pattern, Blocks):
        raise ValueError(
            f"attention_block={block_length} is the block length of a block-causal checkpoint "
            "(SDAR, say), and in this one all tokens see each other; leave it out. The sampler's "
            "own blocks are sampler=dict(block_length=...)."
        )
    return Blocks(block_length)


@dataclass(frozen=True)
class Documents(AttentionPattern):
    """Documents end to end, each with a pattern of its own inside and blind to the others."""

    lengths: tuple[int, ...]
    """Tokens of each document; their sum is the length of the row."""
    inside: AttentionPattern = FULL

    def stretches(self, length: int) -> list[Stretch]:
        """Return those of each document."""
        assert sum(self.lengths) == length, (self.lengths, length)
        found, start = [], 0
        for tokens in self.lengths:
            found += [Stretch(*(start + n for n in s)) for s in self.inside.stretches(tokens)]
            start += tokens
        return found
