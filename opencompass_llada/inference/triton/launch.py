"""Attention of a span's queries over long kept keys and values: tiles, splits and launch.

The kernels themselves are in ``decode_kernel.py``; the numbers in ``tilings.py``.

Shape suffixes: T tokens of all rows, B rows, H query heads, G key heads, S slots, D head size.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import triton
from torch import Tensor

from opencompass_llada.inference.tilings import (
    FEW_QUERIES,
    Tiling,
    choose_splits,
    choose_tiling,
    fit_tiling,
)
from opencompass_llada.inference.triton.split_attention import combine_kernel, split_kernel

_LOG2_E = math.log2(math.e)


def attend_cached(
    q_THD: Tensor,
    k_SGD: Tensor,
    v_SGD: Tensor,
    offsets_B: Tensor,
    lengths_B: Tensor,
    *,
    k_scales_SG: Tensor | None = None,
    v_scales_SG: Tensor | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """Attend from every row's queries to all of the row's kept keys.

    Args:
        q_THD: Queries, rows one after the other, as many in each; tokens may be strided.
        k_SGD: Kept keys, contiguous, of the queries' dtype or float8.
        v_SGD: Kept values.
        offsets_B: int32, first slot of each row.
        lengths_B: int32, kept keys of each row, at least 1.
        k_scales_SG: float32, with float8 keys.
        v_scales_SG: float32, with float8 values.
        tiling: How the work is cut; None chooses.

    Returns:
        [T, H, D] in the queries' dtype.
    """
    quantised, dtype = k_scales_SG is not None, q_THD.dtype
    num_tokens, num_heads, size = q_THD.shape
    num_rows, num_groups = offsets_B.shape[0], k_SGD.shape[1]
    num_queries = num_tokens // num_rows
    if tiling is None:
        tiling = _fitting_tiling(num_queries, k_SGD)
    if quantised and num_queries > FEW_QUERIES:
        q_THD = q_THD.half()  # what the kernel converts itself takes its registers
    block = _tile_queries(tiling, num_queries)
    query_tiles = triton.cdiv(num_queries, block)
    busy = num_heads * num_rows * query_tiles
    splits = choose_splits(tiling, busy, _processors(q_THD.device))
    out_THD = q_THD.new_empty((num_tokens, num_heads, size), dtype=dtype)
    partial, stats = out_THD, out_THD  # not touched where nothing is split
    if splits > 1:
        partial = q_THD.new_empty((num_tokens, num_heads, splits, size), dtype=torch.float32)
        stats = q_THD.new_empty((num_tokens, num_heads, splits, 2), dtype=torch.float32)
    split_kernel[(splits, num_heads, num_rows * query_tiles)](
        q_THD,
        k_SGD,
        v_SGD,
        k_scales_SG if quantised else k_SGD,
        v_scales_SG if quantised else v_SGD,
        offsets_B,
        lengths_B,
        out_THD,
        partial,
        stats,
        size**-0.5 * _LOG2_E,
        num_queries,
        query_tiles,
        num_heads,
        num_groups,
        q_THD.stride(0),
        splits,
        WHOLE=splits == 1,
        PEELED=tiling.peeled,
        QUANTISED=quantised,
        SIZE=size,
        BLOCK_P=block,
        BLOCK_L=tiling.keys,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    if splits > 1:
        combine_kernel[(num_tokens * num_heads,)](
            partial, stats, out_THD, SPLITS=splits, SIZE=size, num_warps=2
        )
    return out_THD


def _tile_queries(tiling: Tiling, num_queries: int) -> int:
    return min(max(triton.next_power_of_2(num_queries), 16), tiling.queries)


def _fitting_tiling(num_queries: int, k_SGD: Tensor) -> Tiling:
    """Return the tiling for queries and keys on their card."""
    key_bytes = k_SGD.element_size()
    tiling = choose_tiling(num_queries, quantised=key_bytes == 1)
    if k_SGD.device.type != "cuda":
        return tiling
    return fit_tiling(
        tiling,
        num_queries=_tile_queries(tiling, num_queries),
        head_dim=k_SGD.shape[2],
        key_bytes=key_bytes,
        shared_memory=_shared_memory(k_SGD.device),
    )


@functools.cache
def _shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that one program may have."""
    index = torch.cuda.current_device() if device.index is None else device.index
    utilities: Any = triton.runtime.driver.active.utils
    return int(utilities.get_device_properties(index)["max_shared_mem"])


def _processors(device: torch.device) -> int:
    """Return a card's processors; one elsewhere, where Triton's interpreter runs."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
