"""Bidirectional attention: one place that picks the kernel.

Full attention over each row, with right padding left out of the keys. No causal masks, no
positional bias, no caches.

Shape suffixes: B batch, H query heads, L positions, D head size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from opencompass_llada.logs import get_logger
from opencompass_llada.options import unknown_name_message

logger = get_logger(__name__)

Attention = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor
]

_SDPA_KERNELS: dict[str, list[SDPBackend]] = {
    "sdpa_flash": [SDPBackend.FLASH_ATTENTION],
    "sdpa_cudnn": [SDPBackend.CUDNN_ATTENTION],
    "sdpa_efficient": [SDPBackend.EFFICIENT_ATTENTION],
    "sdpa_math": [SDPBackend.MATH],
}
ATTENTION_BACKENDS = ("auto", "sdpa", *_SDPA_KERNELS, "flash_attn")


def padding_mask(lengths_B: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """Mark the keys that hold real tokens.

    Args:
        lengths_B: int64 [batch], real tokens in each right-padded row; None for no padding.
        length: Padded length L.

    Returns:
        bool [batch, 1, 1, L] (broadcast over heads and queries, so nothing of size L x L is
        built), or None when no row is padded, which keeps the maskless kernels in use.
    """
    if lengths_B is None:
        return None
    positions_L = torch.arange(length, device=lengths_B.device)
    return (positions_L[None, :] < lengths_B[:, None])[:, None, None, :]


def _sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1]
    )


def _flash_attn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    if mask is not None:  # flash-attn takes no padding mask; padded batches go through SDPA
        return _sdpa(q, k, v, mask)
    from flash_attn import flash_attn_func

    out_BLHD = flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out_BLHD.transpose(1, 2)


def check_backend_name(name: str) -> str:
    """Return the backend's name if it is a known one.

    Raises:
        ValueError: For an unknown name; the message names the nearest valid one.
    """
    if name not in ATTENTION_BACKENDS:
        raise ValueError(unknown_name_message("attention backend", name, ATTENTION_BACKENDS))
    return name


def check_attention_backend(name: str, device: torch.device | str) -> None:
    """Refuse a backend that is unknown or cannot run here, before weights load.

    Args:
        name: One of ATTENTION_BACKENDS.
        device: Where the model will run.

    Raises:
        ValueError: If the name is unknown, or the kernel needs CUDA and the device is not.
        ImportError: If flash-attn is asked for and is not installed.
    """
    check_backend_name(name)
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


def choose_attention(name: str, device: torch.device | str) -> Attention:
    """Return the attention function for a backend name.

    ``auto`` is PyTorch's SDPA with PyTorch's own choice among flash, cuDNN, memory-efficient and
    math kernels; the choice is logged.

    Args:
        name: One of ATTENTION_BACKENDS.
        device: Where the model will run.

    Returns:
        A function of queries, keys, values [B, H, L, D] and an optional bool mask
        [B, 1, 1, L] that returns [B, H, L, D].

    Raises:
        ValueError: See check_attention_backend.
        ImportError: See check_attention_backend.
    """
    check_attention_backend(name, device)
    logger.info(
        "Attention backend %s on %s%s", name, device, " (PyTorch SDPA)" if name == "auto" else ""
    )
    if name == "flash_attn":
        return _flash_attn
    kernels = _SDPA_KERNELS.get(name)

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        context = sdpa_kernel(kernels) if kernels else contextlib.nullcontext()
        with context:
            return _sdpa(q, k, v, mask)

    return _sdpa if kernels is None else attend
