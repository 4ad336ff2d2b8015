"""Calls attention kernels: one call with an optional mask, or maskless ones along stretches.

Shape suffixes: B batch, H query heads, G key/value heads, P queries, L keys, D head size; T queries
and S keys of all rows, end to end.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from opencompass_llada.networks.attention_pattern import Stretch
from opencompass_llada.options import reject_unknown

_SDPA_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_CUDNN_FIRST = [_SDPA_KERNELS[name] for name in ("cudnn", "flash", "efficient", "math")]
ATTENTION_BACKENDS = ("auto", "sdpa", *(f"sdpa_{name}" for name in _SDPA_KERNELS), "flash_attn")


def find_kernel(name: str, device: torch.device | str) -> str | None:
    """Return the kernel of a backend for `attend_with`; None for PyTorch's own choice."""
    reject_unknown("attention backend", [name], ATTENTION_BACKENDS)
    needs_cuda = name in ("sdpa_cudnn", "sdpa_efficient", "flash_attn")
    if needs_cuda and torch.device(device).type != "cuda":
        raise ValueError(
            f"attention_backend={name!r} needs a CUDA device, got device {str(device)!r}. "
            "Use attention_backend='auto'."
        )
    if name == "flash_attn":
        try:
            import flash_attn  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "attention_backend='flash_attn' needs the flash-attn package: "
                "pip install flash-attn --no-build-isolation. attention_backend='auto' uses "
                "PyTorch's own flash and cuDNN kernels without it."
            ) from error
    return None if name in ("auto", "sdpa") else name.removeprefix("sdpa_")


def attend_with(
    kernel: str | None,
    q_BHPD: Tensor,
    k_BGLD: Tensor,
    v_BGLD: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
) -> Tensor:
    """Return the attention of every row, [B, H, P, D].

    The kernel is ``flash``, ``cudnn``, ``efficient``, ``math``, ``cudnn_first`` (others where it
    cannot serve) or ``flash_attn`` (that package), None PyTorch's own choice. The mask is bool,
    broadcasts to [B, H, P, L] and is true where a key is seen. ``is_causal`` takes none.
    """
    if kernel == "flash_attn" and mask is None:  # it takes no mask; those go through SDPA
        from flash_attn import flash_attn_func

        rows = (x.transpose(1, 2) for x in (q_BHPD, k_BGLD, v_BGLD))
        return flash_attn_func(*rows, causal=is_causal).transpose(1, 2)
    options: dict[str, Any] = {"attn_mask": mask, "is_causal": is_causal}
    options["enable_gqa"] = q_BHPD.shape[1] != k_BGLD.shape[1]
    if kernel is None or kernel == "flash_attn":
        return F.scaled_dot_product_attention(q_BHPD, k_BGLD, v_BGLD, **options)
    kernels = _CUDNN_FIRST if kernel == "cudnn_first" else [_SDPA_KERNELS[kernel]]
    with sdpa_kernel(kernels, set_priority=len(kernels) > 1):
        return F.scaled_dot_product_attention(q_BHPD, k_BGLD, v_BGLD, **options)


Choose = Callable[[int, int], str | None]
"""``(queries, keys) -> kernel``, as `attend_with` takes it."""


def _cut(x_TGD: Tensor, bounds: Sequence[tuple[int, int]]) -> Sequence[Tensor]:
    """Return the parts between bounds, in one split where they are the whole.

    A split's gradient is made in one piece, a slice's is as large as the whole.
    """
    sizes = [end - first for first, end in bounds]
    ends = [0, *itertools.accumulate(sizes)]
    if [first for first, _ in bounds] == ends[:-1] and ends[-1] == x_TGD.shape[0]:
        return x_TGD.split(sizes)
    return [x_TGD[first:end] for first, end in bounds]


class StretchedAttention:
    """Maskless attention over rows that lie end to end.

    A call for each stretch, by the kernel that ``choose`` names for its numbers of queries and
    keys; if asked one variable-length call for all, on CUDA in 16 bit, where none share keys.
    """

    def __init__(self, stretches: Sequence[Stretch], choose: Choose, *, in_one_call: bool) -> None:
        """Take stretches, by places in the lines of queries and keys."""
        self._stretches = stretches
        self._choose = choose
        ends = [0, *(stretch.end_key for stretch in stretches)]
        starts = [stretch.first_key for stretch in stretches]
        self._in_one_call = in_one_call and starts == ends[:-1]
        self._bounds: tuple[Tensor, Tensor] | None = None

    def __call__(self, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
        """Return the attention of all rows, [T, H, D]."""
        if self._in_one_call and q_THD.is_cuda and q_THD.dtype in (torch.bfloat16, torch.float16):
            return self._variable_length(q_THD, k_SGD, v_SGD)
        queries = [(stretch.first_query, stretch.end_query) for stretch in self._stretches]
        keys = [(stretch.first_key, stretch.end_key) for stretch in self._stretches]
        outs = []
        for parts in zip(_cut(q_THD, queries), _cut(k_SGD, keys), _cut(v_SGD, keys), strict=True):
            kernel = self._choose(parts[0].shape[0], parts[1].shape[0])
            rows = (x.transpose(0, 1)[None] for x in parts)
            outs.append(attend_with(kernel, *rows)[0].transpose(0, 1))
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _variable_length(self, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        options: dict[str, Any] = {}
        repeats = q_THD.shape[1] // k_SGD.shape[1]
        if repeats > 1 and "enable_gqa" in inspect.signature(varlen_attn).parameters:
            options["enable_gqa"] = True  # from torch 2.12 on
        elif repeats > 1:
            k_SGD, v_SGD = (x.repeat_interleave(repeats, dim=1) for x in (k_SGD, v_SGD))
        lengths = (
            [stretch.end_query - stretch.first_query for stretch in self._stretches],
            [stretch.end_key - stretch.first_key for stretch in self._stretches],
        )
        if self._bounds is None:  # made once for all layers, since it waits for the device
            queries, keys = (
                torch.tensor([0, *itertools.accumulate(n)], dtype=torch.int32, device=q_THD.device)
                for n in lengths
            )
            self._bounds = queries, keys
        longest = (max(number) for number in lengths)
        out_THD = varlen_attn(q_THD, k_SGD, v_SGD, *self._bounds, *longest, **options)
        assert isinstance(out_THD, Tensor), "auxiliary outputs were not asked for"
        return out_THD
