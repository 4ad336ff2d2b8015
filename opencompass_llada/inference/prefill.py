"""Runs the attention of full passes in float8, over all keys or over those tiles that matter most.

For networks in which all tokens see each other. The choice is made in the pass itself: each tile
of 128 queries takes the tiles of 64 keys whose mean has the largest product with its own mean.
Tiles at the row's start, beside the queries and at the row's end are always seen, and the queries
at the row's end see all. Nothing of earlier steps is looked at.
Shape suffixes: T tokens, S keys, H query heads, G key heads, D head size; I tiles of queries, J
tiles of keys, N tiles chosen, C heads at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from opencompass_llada.inference.kv_cache import FLOAT8, FLOAT8_MAX
from opencompass_llada.inference.pass_options import PrefillOptions
from opencompass_llada.inference.tilings import KEY_TILE, QUERY_TILE
from opencompass_llada.networks.config import NetworkDimensions

_SCORES_AT_ONCE = 2**28
"""Most scores of tiles that are held at once, or those of one head."""


class PrefillAttention:
    """Attention of rows that lie end to end, each row's tokens to all of it.

    A row is computed by itself, as if it were alone; the options and its own length decide how.
    """

    def __init__(
        self,
        options: PrefillOptions,
        row_lengths: Sequence[int],
        attend_exactly: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        """Take what to do with which rows, and the attention of a row that is too short for it."""
        self._options, self._lengths = options, tuple(row_lengths)
        self._attend_exactly = attend_exactly

    def __call__(self, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
        """Return the attention of all rows, [T, H, D]."""
        rows = zip(*(x.split(self._lengths) for x in (q_THD, k_SGD, v_SGD)), strict=True)
        outs = [self._attend_row(*row) for row in rows]
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _attend_row(self, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
        if not self._options.covers(len(q_THD)):
            return self._attend_exactly(q_THD, k_SGD, v_SGD)
        if self._options.type != "sparse":
            return attend_float8(q_THD, k_SGD, v_SGD)
        sparse, count = sparse_share(self._options, len(q_THD))
        if sparse == 0:
            return attend_float8(q_THD, k_SGD, v_SGD)
        tiles_HIN = choose_tiles(q_THD[:sparse], k_SGD, count, self._options)
        return attend_float8(q_THD, k_SGD, v_SGD, tiles_HIN)


def sparse_share(options: PrefillOptions, length: int) -> tuple[int, int]:
    """Return how many leading queries of a row see a part of the keys, and how many tiles of keys.

    No queries where the tiles that are always seen are all that there are.
    """
    assert options.keep is not None, options
    assert options.dense_tail is not None, options
    num_tiles = math.ceil(length / KEY_TILE)
    queries = (length - options.dense_tail) // QUERY_TILE * QUERY_TILE
    count = max(math.ceil(options.keep * num_tiles), _num_forced(options))
    count += count % 2  # a kernel takes two at once
    if queries <= 0 or count >= num_tiles:
        return 0, num_tiles
    return queries, count


def _num_forced(options: PrefillOptions) -> int:
    """Return the most tiles that any tile of queries always sees."""
    assert options.near is not None, options
    return 1 + QUERY_TILE // KEY_TILE + 2 * options.near + _num_last(options)


def _num_last(options: PrefillOptions) -> int:
    """Return the most tiles that the tail's keys lie in; the last one may hold a single key."""
    assert options.dense_tail is not None, options
    return math.ceil((options.dense_tail - 1) / KEY_TILE) + 1


def choose_tiles(q_THD: Tensor, k_SGD: Tensor, count: int, options: PrefillOptions) -> Tensor:
    """Return which tiles of keys each tile of queries sees, ascending, int32 [H, I, count].

    Queries are whole tiles. The product of two means is the mean of the products, so that a tile's
    place in the order is that of its mean score.
    """
    num_heads, num_groups = q_THD.shape[1], k_SGD.shape[1]
    mean_q_HID = q_THD.unflatten(0, (-1, QUERY_TILE)).mean(1, dtype=torch.float32).transpose(0, 1)
    # What all keys share moves a query's scores alike, and in 16 bit hides what tells them apart.
    mean_k_JGD = _tile_means(k_SGD)
    mean_k_GJD = (mean_k_JGD - mean_k_JGD.mean(0)).transpose(0, 1)
    mean_k_HJD = mean_k_GJD.repeat_interleave(num_heads // num_groups, dim=0)
    num_query_tiles, num_key_tiles = mean_q_HID.shape[1], mean_k_HJD.shape[1]
    forced_IJ = _forced(num_query_tiles, num_key_tiles, options, q_THD.device)
    at_once = _heads_at_once(num_heads, num_query_tiles, num_key_tiles)
    chosen = []
    for some in zip(mean_q_HID.split(at_once), mean_k_HJD.split(at_once), strict=True):
        q_CID, k_CJD = (means.to(q_THD.dtype) for means in some)
        scores_CIJ = (q_CID @ k_CJD.transpose(1, 2)).masked_fill_(forced_IJ, float("inf"))
        places_CIN = scores_CIJ.topk(count, dim=-1, sorted=False).indices
        chosen.append(places_CIN.to(torch.int32).sort(dim=-1).values)
    return chosen[0] if len(chosen) == 1 else torch.cat(chosen)


def _heads_at_once(num_heads: int, num_query_tiles: int, num_key_tiles: int) -> int:
    return min(num_heads, max(1, _SCORES_AT_ONCE // (num_query_tiles * num_key_tiles)))


def _tile_means(k_SGD: Tensor) -> Tensor:
    """Return the mean of each tile of keys, float32 [J, G, D]; the last one may be shorter."""
    whole = len(k_SGD) // KEY_TILE * KEY_TILE
    means = [k_SGD[:whole].unflatten(0, (-1, KEY_TILE)).mean(1, dtype=torch.float32)]
    if whole < len(k_SGD):
        means.append(k_SGD[whole:].mean(0, dtype=torch.float32)[None])
    return torch.cat(means)


def _forced(
    num_query_tiles: int, num_key_tiles: int, options: PrefillOptions, device: torch.device
) -> Tensor:
    """Return which key tiles a tile of queries always sees, bool [I, J]."""
    assert options.near is not None, options
    keys_J = torch.arange(num_key_tiles, device=device)[None]
    each = QUERY_TILE // KEY_TILE
    first_I = torch.arange(num_query_tiles, device=device)[:, None] * each
    near_IJ = (keys_J >= first_I - options.near) & (keys_J < first_I + each + options.near)
    return near_IJ | (keys_J == 0) | (keys_J >= num_key_tiles - _num_last(options))


def attend_float8(
    q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, tiles_HIN: Tensor | None = None
) -> Tensor:
    """Return attention in float8 without a mask, [T, H, D].

    The leading tiles of queries see the listed tiles of keys, if there is a list, the others all.
    """
    if q_THD.is_cuda:
        from opencompass_llada.inference.triton.float8 import attend

        return attend(q_THD, k_SGD, v_SGD, tiles_HIN)
    return attend_plainly(q_THD, k_SGD, v_SGD, tiles_HIN)


def attend_plainly(
    q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, tiles_HIN: Tensor | None = None
) -> Tensor:
    """Do the same in plain PyTorch on the same quantised numbers: the oracle of the kernel."""
    size = q_THD.shape[-1]
    repeats = q_THD.shape[1] // k_SGD.shape[1]
    # A softmax does not change where all keys move alike (SageAttention, arXiv 2410.02367).
    k_SGD = k_SGD.float() - k_SGD.float().mean(0)
    q_HTD, k_HSD, v_HSD = (
        _rounded(x.float()).transpose(0, 1).repeat_interleave(times, dim=0)
        for x, times in ((q_THD, 1), (k_SGD, repeats), (v_SGD, repeats))
    )
    outs = []
    for index, rows_HPD in enumerate(q_HTD.split(QUERY_TILE, dim=1)):
        seen: tuple[Tensor, Tensor, Tensor | None] = (k_HSD, v_HSD, None)
        if tiles_HIN is not None and index < tiles_HIN.shape[1]:
            seen = _gather_tiles(k_HSD, v_HSD, tiles_HIN[:, index])
        outs.append(_weigh(rows_HPD, size, *seen))
    return torch.cat(outs, dim=1).transpose(0, 1).to(q_THD.dtype)


def _gather_tiles(
    k_HSD: Tensor, v_HSD: Tensor, tiles_HN: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return keys and values of each head's tiles, and which of them there are, bool [H, S]."""
    num_keys = k_HSD.shape[1]
    places_HS = (tiles_HN.long()[..., None] * KEY_TILE + torch.arange(KEY_TILE)).flatten(1)
    places_HS = places_HS[:, (places_HS < num_keys).any(0)]
    inside_HS, heads_H1 = places_HS < num_keys, torch.arange(len(tiles_HN))[:, None]
    places_HS = places_HS.clamp(max=num_keys - 1)
    is_whole = bool(inside_HS.all())
    return k_HSD[heads_H1, places_HS], v_HSD[heads_H1, places_HS], None if is_whole else inside_HS


def _weigh(
    q_HPD: Tensor, size: int, k_HSD: Tensor, v_HSD: Tensor, seen_HS: Tensor | None
) -> Tensor:
    scores_HPS = q_HPD @ k_HSD.transpose(1, 2) / math.sqrt(size)
    if seen_HS is not None:
        scores_HPS = scores_HPS.masked_fill(~seen_HS[:, None], float("-inf"))
    weights_HPS = torch.exp(scores_HPS - scores_HPS.amax(-1, keepdim=True))
    rounded_HPS = (weights_HPS * 256).to(FLOAT8).float() / 256
    return (rounded_HPS @ v_HSD) / weights_HPS.sum(-1, keepdim=True)


def _rounded(x_THD: Tensor) -> Tensor:
    """Return values rounded to float8 with one scale a head."""
    scales_H1 = (x_THD.abs().amax(dim=(0, 2)) / FLOAT8_MAX).clamp(min=1e-30)[:, None]
    return (x_THD / scales_H1).to(FLOAT8).float() * scales_H1


def prefill_bytes(
    options: PrefillOptions, shape: NetworkDimensions, row_lengths: Sequence[int]
) -> int:
    """Return the most bytes that a layer's attention takes beside its inputs and what it returns.

    Rows are computed one after another: the longest one of those that are not exact decides.
    """
    length = max(filter(options.covers, row_lengths), default=0)
    if length == 0:
        return 0
    copies = length * shape.head_dim * (shape.num_heads + 2 * shape.num_groups)
    if options.type != "sparse":
        return copies
    queries, count = sparse_share(options, length)
    if queries == 0:  # all keys are seen
        return copies
    num_queries, num_keys = queries // QUERY_TILE, math.ceil(length / KEY_TILE)
    lists = 4 * shape.num_heads * num_queries * count
    # Of some heads: scores in 16 bit; the largest with places in 64 bit, and once more sorted.
    at_once = _heads_at_once(shape.num_heads, num_queries, num_keys)
    choice = at_once * num_queries * (2 * num_keys + 26 * count)
    # The choice ends before the copies are made; lists of several parts are joined into new ones.
    return lists + max(copies, choice, lists)


def describe(options: PrefillOptions, length: int) -> str:
    """Return one line for the log on what a row's full passes compute."""
    if options.type != "sparse":
        return f"Full passes of {length} tokens: attention in float8 over all keys"
    queries, count = sparse_share(options, length)
    num_tiles = math.ceil(length / KEY_TILE)
    share = (queries * count / num_tiles + length - queries) / length
    return (
        f"Full passes of {length} tokens: attention in float8; {queries} queries see {count} of "
        f"{num_tiles} tiles of {KEY_TILE} keys, the last {length - queries} all: "
        f"{100 * (1 - share):.1f} % of the products are left out"
    )
