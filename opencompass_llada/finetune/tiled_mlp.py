"""The MLP a stretch of positions at a time: less memory, the same arithmetic.

A block's gated MLP needs several tensors of its inner width for every position; here one tile's
exist at a time, forward and backward (made again there).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def tile_mlp(add_mlp: Callable[[Tensor], Tensor], tile: int) -> Callable[[Tensor], Tensor]:
    """Return a block's MLP step that works through tiles.

    Args:
        add_mlp: The block's own, of the residual stream [B, L, M].
        tile: Positions of a row at a time.

    Returns:
        A function with the same result.
    """

    def tiled(x_BLM: Tensor) -> Tensor:
        if x_BLM.shape[1] <= tile:
            return add_mlp(x_BLM)
        tiles = x_BLM.split(tile, dim=1)
        return torch.cat([checkpoint(add_mlp, part, use_reentrant=False) for part in tiles], dim=1)

    return tiled
