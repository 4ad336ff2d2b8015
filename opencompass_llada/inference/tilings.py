"""Chooses how kernels cut their work: tiles, warps and splits; no kernel here.

Of the split attention kernel: with few queries reading the keys takes the time, so that many
programs read small parts of them; with many it is arithmetic, so that tiles are large and the
processors filled in whole waves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

SMALL_PRODUCT = 64
"""Most tokens of a row in a small pass whose products' inputs are not rounded to float8, and most
rows that the kernel for these takes."""

CHANNEL_TILE = 64
"""Fewest output channels of a tile of the kernel for these."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How the work is cut; found by measurement (``benchmarks/inference_kernels.py``)."""

    keys: int
    """Keys in a tile."""
    stages: int
    """Tiles in flight."""
    queries: int = 64
    """Most queries in a tile; fewer where a row has fewer."""
    warps: int = 4
    programs: int | None = 512
    """Programs to aim for over all splits; None fills the processors in whole waves."""
    peeled: bool = False
    """Read full tiles without a mask and the rest apart: less work, and more registers."""
    resident: int = 1
    """Programs that a processor runs at once; read where ``programs`` is None."""


FEW_QUERIES = 64
"""Up to as many queries a row reading the keys decides, beyond it arithmetic."""

QUERY_TILE, KEY_TILE = 128, 64
"""Queries and keys of a tile of float8 attention, by which sparse passes choose keys, too."""

TILINGS = {
    "16 bit": Tiling(keys=64, stages=4),
    "float8": Tiling(keys=64, stages=3),
    "16 bit, many": Tiling(queries=128, keys=128, stages=3, warps=8, programs=None, peeled=True),
    "float8, many": Tiling(queries=128, keys=64, stages=3, warps=8, programs=None, peeled=True),
}
"""Within 3 % of the fastest of the sweep on an H100 (docs/experiments/inference_speed.md): with few
queries 32 of them over 32K keys, with many 512, 288 and 128 over 16.9K."""

_SCRATCH = 2048
"""Bytes for barriers and reductions, about."""

_SPLITS = (1, 2, 4, 8, 16, 32, 64)
_SPLIT_COST = 0.01
"""Of a whole wave, what a wave's partial results cost: 8 MB written and read at 2.96 TB/s, beside
a wave of 0.3 ms (512 queries, 16.9K keys) with some allowance."""


def choose_tiling(num_queries: int, *, quantised: bool) -> Tiling:
    """Return the tiling for a number of queries a row, and keys in float8 or not."""
    dtype = "float8" if quantised else "16 bit"
    return TILINGS[dtype if num_queries <= FEW_QUERIES else f"{dtype}, many"]


def fit_tiling(
    tiling: Tiling, *, num_queries: int, head_dim: int, key_bytes: int, shared_memory: int
) -> Tiling:
    """Return the tiling with fewer stages, or fewer keys, if that is what a program's memory holds.

    Measured: what Triton takes on an H100 with many queries, at most what it takes elsewhere.
    """
    room = shared_memory - 2 * num_queries * head_dim
    for keys in (tiling.keys, tiling.keys // 2, 32):
        for stages in range(tiling.stages, 1, -1):
            if stages * 2 * keys * head_dim * key_bytes + _SCRATCH <= room:
                return replace(tiling, keys=keys, stages=stages)
    return replace(tiling, keys=min(tiling.keys, 32), stages=1)


def choose_splits(tiling: Tiling, busy: int, processors: int) -> int:
    """Return into how many parts the keys are split; one part takes ``busy`` programs.

    128 on 132 processors are one wave and stay whole; 96 become three waves of quarters.
    """
    if tiling.programs is not None:
        return next((s for s in _SPLITS if s >= tiling.programs // busy), _SPLITS[-1])
    wave = tiling.resident * processors

    def cost(splits: int) -> float:
        written = 0 if splits == 1 else busy * splits / wave
        return math.ceil(busy * splits / wave) / splits + _SPLIT_COST * written

    return min(_SPLITS, key=cost)
