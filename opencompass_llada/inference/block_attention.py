"""Attends from whole blocks to themselves and to all before them, without a dense mask.

A chunk's attention is put together from three parts, which no key is in twice: the causal kernel
over the chunk, the maskless kernel over what is cached before it, and the later tokens of each
block, a small product. Their log-sum-exps merge them exactly, up to rounding. Noisy copies of
blocks see the clean text before them in the same way, and of what is near them what a mask says.
Shape suffixes: T queries, S keys, H query heads, G key/value heads, R query heads a key/value head,
D head size, N blocks, Q and K places of a block, P parts.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Part = tuple[Tensor, Tensor]
"""Attention over some keys, float [T, H, D], and the log-sum-exp of its scores, float32 [T, H]."""


def attend_blocks(q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, block_length: int) -> Tensor:
    """Return the attention of the last T tokens of a row, which are whole blocks, [T, H, D].

    ``S - T`` keys, whole blocks too, come before the queries' own. The oracle is
    `Blocks(block_length).mask`.
    """
    num_before = len(k_SGD) - len(q_THD)
    k_TGD, v_TGD = k_SGD[num_before:], v_SGD[num_before:]
    parts = [attend_part(q_THD, k_TGD, v_TGD, is_causal=True)]
    if num_before:
        parts.append(attend_part(q_THD, k_SGD[:num_before], v_SGD[:num_before], is_causal=False))
    if block_length > 1:
        places_K = torch.arange(block_length, device=q_THD.device)
        parts.append(_attend_within(q_THD, k_TGD, v_TGD, places_K > places_K[:, None]))
    return merge(parts).to(q_THD.dtype)


def attend_noisy(
    q_THD: Tensor,
    own: tuple[Tensor, Tensor],
    clean: tuple[Tensor, Tensor],
    num_shared: int,
    seen_TS: Tensor,
    own_QK: Tensor | None,
) -> Tensor:
    """Return the attention of noisy copies of blocks, of one length, end to end, [T, H, D].

    Of their own keys and values each copy sees its own, token by token as ``own_QK`` says; None is
    one copy that sees all of itself. Of the clean ones all tokens see the first ``num_shared``, and
    of the S others those where ``seen_TS`` is true.
    """
    parts = []
    if num_shared:
        shared = clean[0][:num_shared], clean[1][:num_shared]
        parts.append(attend_part(q_THD, *shared, is_causal=False))
    if seen_TS.shape[1]:
        others = clean[0][num_shared:], clean[1][num_shared:]
        parts.append(_attend_seen(q_THD, *others, seen_TS))
    if own_QK is None:  # a product of all with all may be as large as a text
        parts.append(attend_part(q_THD, *own, is_causal=False))
    else:
        parts.append(_attend_within(q_THD, *own, own_QK))
    return merge(parts).to(q_THD.dtype)


def merge(parts: Sequence[Part]) -> Tensor:
    """Return attention over all the parts' keys together, float32 [T, H, D]."""
    sums_PTH = torch.stack([sums_TH for _, sums_TH in parts])
    weights_PTH = (sums_PTH - sums_PTH.logsumexp(0)).exp()
    merged_THD = parts[0][0] * weights_PTH[0][..., None]
    for (out_THD, _), weights_TH in zip(parts[1:], weights_PTH[1:], strict=True):
        merged_THD.addcmul_(out_THD, weights_TH[..., None])
    return merged_THD


def _attend_within(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, seen_QK: Tensor) -> Part:
    """Attend within blocks, from each token to those of its block that a mask names.

    Where these are none, as for the last of those that see later ones alone, its part is zero and
    its log-sum-exp minus infinity.
    """
    num_groups, head_dim = k_TGD.shape[1:]
    k_NKGD, v_NKGD = (x.float().unflatten(0, (-1, len(seen_QK))) for x in (k_TGD, v_TGD))
    scaled_THD = q_THD.float() * head_dim**-0.5
    q_NQGRD = scaled_THD.unflatten(0, (-1, len(seen_QK))).unflatten(2, (num_groups, -1))
    scores_NQGRK = torch.einsum("nqgrd,nkgd->nqgrk", q_NQGRD, k_NKGD)
    hidden = ~seen_QK[:, None, None]
    out_NQGRD, sums_NQGR = _weigh(scores_NQGRK, hidden, v_NKGD, "nqgrk,nkgd->nqgrd")
    return out_NQGRD.flatten(2, 3).flatten(0, 1), sums_NQGR.flatten(2, 3).flatten(0, 1)


def _attend_seen(q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, seen_TS: Tensor) -> Part:
    """Attend by a mask; a token that sees nothing has a part as in `_attend_within`."""
    scaled_THD = q_THD.float() * q_THD.shape[-1] ** -0.5
    q_TGRD = scaled_THD.unflatten(1, (k_SGD.shape[1], -1))
    scores_TGRS = torch.einsum("tgrd,sgd->tgrs", q_TGRD, k_SGD.float())
    out_TGRD, sums_TGR = _weigh(
        scores_TGRS, ~seen_TS[:, None, None], v_SGD.float(), "tgrs,sgd->tgrd"
    )
    return out_TGRD.flatten(1, 2), sums_TGR.flatten(1, 2)


def _weigh(scores: Tensor, hidden: Tensor, values: Tensor, product: str) -> tuple[Tensor, Tensor]:
    """Return values weighted by the softmax of what is not hidden, and its log-sum-exps."""
    scores = scores.masked_fill(hidden, -torch.inf)
    sums = scores.logsumexp(-1)
    least = torch.finfo(torch.float32).min  # so that chances of nothing are 0 and not NaN
    chances = (scores - sums.clamp(min=least)[..., None]).exp()
    return torch.einsum(product, chances, values), sums


def attend_part(q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor, *, is_causal: bool) -> Part:
    """Return attention of T queries to S keys, by the first fused kernel that takes such heads."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THD, k_SGD, v_SGD))
    kernel = "cpu"
    if q.is_cuda:
        kernel = _cuda_kernel(q.device, q.dtype, q.shape[1], k.shape[1], q.shape[-1])
    out_1HTD, sums_1HT = _run(kernel, q, k, v, is_causal=is_causal)
    return out_1HTD[0].transpose(0, 1), sums_1HT[0].transpose(0, 1)


def _run(kernel: str, q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Call one of PyTorch's kernels; return its output and log-sum-exps, [1, H, T, ...]."""
    aten, num_queries = torch.ops.aten, q.shape[2]
    if kernel == "cudnn":
        attend = aten._scaled_dot_product_cudnn_attention
        out, sums, *_ = attend(q, k, v, None, True, 0.0, is_causal, False)
        return out, sums[..., 0]
    if kernel == "flash":
        out, sums, *_ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, False)
        return out, sums
    # The others take as many key/value heads as query heads.
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    if kernel == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal)
    attend = aten._scaled_dot_product_efficient_attention
    out, sums, *_ = attend(q, k, v, None, True, 0.0, is_causal)
    return out, sums[..., :num_queries]  # these are padded


@functools.cache
def _cuda_kernel(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_groups: int, head_dim: int
) -> str:
    """Return the fastest kernel that takes such heads, tried on a few tokens; log why."""
    q, k, v = (
        torch.zeros((1, heads, 64, head_dim), device=device, dtype=dtype)
        for heads in (num_heads, num_groups, num_groups)
    )
    refusals = ""
    # The first two take 16 bit alone: in float32 cuDNN's gives NaN without a word (torch 2.11).
    is_16_bit = dtype in (torch.bfloat16, torch.float16)
    for kernel in ("cudnn", "flash", "efficient") if is_16_bit else ("efficient",):
        try:
            _run(kernel, q, k, v, is_causal=True)
        except RuntimeError as error:
            refusals += f"; {kernel} refuses: {str(error).splitlines()[0]}"
            continue
        logger.info(
            "Attention of block-causal chunks by kernel %s on %s%s", kernel, device, refusals
        )
        return kernel
    raise ValueError(
        f"no kernel attends {num_heads} heads of {head_dim} channels in {dtype} on {device}"
        f"{refusals}; use cache='none'"
    )
