"""Bidirectional attention inside documents: block-diagonal, without building a mask.

On CUDA one variable-length kernel for all documents, or for long ones a call each (PyTorch's
fastest kernel for equal lengths is faster than its variable-length one); elsewhere a call each.

Shape suffixes: B rows, H query heads, G key/value heads, L positions, D head size, T positions of
all rows one after another.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from opencompass_llada.networks.transformer import Attend

#: Mean tokens of a document from which a call each is faster on CUDA (docs/finetune.md).
LONG_DOCUMENT = 4096
_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def document_attend(spans: Sequence[int], device: torch.device) -> Attend:
    """Return an attention function for a batch of packed rows.

    Args:
        spans: Tokens that attend to each other, run by run, over all rows of the batch.
        device: The batch's.

    Returns:
        A function of queries [B, H, L, D], keys and values [B, G, L, D].
    """
    if device.type == "cuda" and sum(spans) < LONG_DOCUMENT * len(spans):
        bounds = torch.tensor([0, *itertools.accumulate(spans)], dtype=torch.int32, device=device)
        longest = max(spans)

        def attend_packed(q_BHLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor) -> Tensor:
            return _variable_length(q_BHLD, k_BGLD, v_BGLD, bounds, longest)

        return attend_packed

    def attend_each(q_BHLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor) -> Tensor:
        return _one_call_each(q_BHLD, k_BGLD, v_BGLD, spans)

    return attend_each


def _in_line(x_BHLD: Tensor) -> Tensor:
    """Return the positions of all rows one after another, [T, H, D]."""
    return x_BHLD.transpose(1, 2).flatten(0, 1)


def _variable_length(
    q_BHLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, bounds: Tensor, longest: int
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    repeat = q_BHLD.shape[1] // k_BGLD.shape[1]
    if repeat > 1:  # torch 2.11's kernel has no grouped heads
        k_BGLD, v_BGLD = (x.repeat_interleave(repeat, dim=1) for x in (k_BGLD, v_BGLD))
    q_THD, k_THD, v_THD = map(_in_line, (q_BHLD, k_BGLD, v_BGLD))
    out_THD = varlen_attn(q_THD, k_THD, v_THD, bounds, bounds, longest, longest)
    assert isinstance(out_THD, Tensor)
    return out_THD.unflatten(0, (q_BHLD.shape[0], -1)).transpose(1, 2)


def _one_call_each(q_BHLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, spans: Sequence[int]) -> Tensor:
    parts = [
        _attend_document(q, k, v)
        for q, k, v in zip(
            *(_in_line(x).split(list(spans)) for x in (q_BHLD, k_BGLD, v_BGLD)), strict=True
        )
    ]
    out_THD = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out_THD.unflatten(0, (q_BHLD.shape[0], -1)).transpose(1, 2)


def _attend_document(q_LHD: Tensor, k_LGD: Tensor, v_LGD: Tensor) -> Tensor:
    """Return one document's attention, [L, H, D]."""
    # cuDNN's kernel is the fastest for long documents (docs/finetune.md) but plans anew for every
    # length, which short ones would not pay back.
    fast = q_LHD.is_cuda and len(q_LHD) >= LONG_DOCUMENT
    with sdpa_kernel(_KERNELS, set_priority=True) if fast else contextlib.nullcontext():
        out_1HLD = F.scaled_dot_product_attention(
            q_LHD.transpose(0, 1)[None],
            k_LGD.transpose(0, 1)[None],
            v_LGD.transpose(0, 1)[None],
            enable_gqa=q_LHD.shape[1] != k_LGD.shape[1],
        )
    return out_1HLD[0].transpose(0, 1)
