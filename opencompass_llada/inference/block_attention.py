"""Attends from whole blocks to themselves and to all before them, without a dense mask.

A chunk's attention is put together from three parts, which no key is in twice: the causal kernel
over the chunk, the maskless kernel over what is cached before it, and the later tokens of each
block, a small product. Their log-sum-exps merge them exactly, up to rounding.
Shape suffixes: T queries, S keys, H query heads, G key/value heads, D head size, N blocks, K block
length, R query heads a key/value head.
"""

from __future__ import annotations

import torch
from torch import Tensor

Part = tuple[Tensor, Tensor]
"""Attention over some keys, float [T, H, D], and the log-sum-exp of its scores, float32 [T, H]."""


def attend_blocks(q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, block_length: int) -> Tensor:
    """Return the attention of the last T tokens of a row, which are whole blocks, [T, H, D].

    The oracle is `Blocks(block_length).mask`. ``S - T`` keys come before the queries' own.
    """
    own = slice(len(k_SGD) - len(q_THD), None)
    k_TGD, v_TGD = k_SGD[own], v_SGD[own]
    parts = [_kernel(q_THD, k_TGD, v_TGD, is_causal=True)]
    if own.start:
        parts.append(_kernel(q_THD, k_SGD[: own.start], v_SGD[: own.start], is_causal=False))
    if block_length > 1:
        parts.append(_later_in_block(q_THD, k_TGD, v_TGD, block_length))
    return merge(parts).to(q_THD.dtype)


def merge(parts: list[Part]) -> Tensor:
    """Return attention over all the parts' keys together, float32 [T, H, D]."""
    sums_PTH = torch.stack([sum_TH for _, sum_TH in parts])
    weights_PTH = (sums_PTH - sums_PTH.logsumexp(0)).exp()
    out_THD = parts[0][0] * weights_PTH[0][..., None]
    for (part_THD, _), weight_TH in zip(parts[1:], weights_PTH[1:], strict=True):
        out_THD = torch.addcmul(out_THD, part_THD, weight_TH[..., None])
    return out_THD


def _kernel(q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, *, is_causal: bool) -> Part:
    """Run a fused kernel that returns the log-sum-exp: cuDNN's on CUDA, PyTorch's own on a CPU."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THD, k_SGD, v_SGD))
    if q.is_cuda:
        out, sums, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, 0.0, is_causal, False
        )
        sums = sums[..., 0]
    else:
        repeats = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, is_causal
        )
    return out[0].transpose(0, 1), sums[0].transpose(0, 1)


def _later_in_block(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, block_length: int) -> Part:
    """Attend from each token to those of its block that come after it.

    A block's last token has none: its part is zero and its log-sum-exp minus infinity.
    """
    num_groups = k_TGD.shape[1]
    k_NGKD, v_NGKD = (
        x.unflatten(0, (-1, block_length)).transpose(1, 2).float() for x in (k_TGD, v_TGD)
    )
    q_NKGRD = q_THD.float().unflatten(0, (-1, block_length)).unflatten(2, (num_groups, -1))
    scores = torch.einsum("nqgrd,ngkd->nqgrk", q_NKGRD * q_THD.shape[-1] ** -0.5, k_NGKD)
    places_K = torch.arange(block_length, device=q_THD.device)
    later_KK = places_K > places_K[:, None]
    scores = scores.masked_fill(~later_KK[:, None, None], -torch.inf)
    sums = scores.logsumexp(-1)
    chances = (scores - sums.clamp(min=-1e30)[..., None]).exp()
    out = torch.einsum("nqgrk,ngkd->nqgrd", chances, v_NGKD)
    return out.flatten(2, 3).flatten(0, 1), sums.flatten(2, 3).flatten(0, 1)
