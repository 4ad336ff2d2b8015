"""Chooses the device and the dtype of a model from arguments and machine, and logs why."""

from __future__ import annotations

import logging

import torch

from opencompass_llada.options import reject_unknown, show

logger = logging.getLogger(__name__)

_DTYPES = {
    **dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16),
    **dict.fromkeys(("float16", "fp16", "half"), torch.float16),
    **dict.fromkeys(("float32", "fp32", "float"), torch.float32),
}
_DEVICES = "use 'auto', 'cpu', 'cuda' or 'cuda:1'"


def parse_device(name: str | int | torch.device | None) -> torch.device | None:
    """Read a device's name, whether or not this machine has it; None or ``auto`` give None."""
    if name is None or name == "auto":
        return None
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={show(name)} is no device; {_DEVICES}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r} is not supported; {_DEVICES}")
    return device


def choose_device(name: str | torch.device | None) -> torch.device:
    """Return the device to run on, which must be here; by default CUDA where there is any."""
    device = parse_device(name)
    found = torch.cuda.is_available()
    if device is None:
        device = torch.device("cuda" if found else "cpu")
        reason = "CUDA is available" if found else "no CUDA device is visible"
        logger.info("device=%s, because %s", device, reason)
    elif device.type == "cuda" and not found:
        raise ValueError(
            f"device={str(device)!r}, but no CUDA device is visible to PyTorch "
            f"{torch.__version__}; use device='cpu', install a CUDA build of torch, or give the "
            "task a GPU (run_cfg=dict(num_gpus=1))"
        )
    return device


def parse_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """Read a dtype, or its name with or without ``torch.``; None or ``auto`` give None."""
    if name is None or name == "auto":
        return None
    text = str(name).removeprefix("torch.")
    reject_unknown("dtype", [text], [*_DTYPES, "auto"])
    return _DTYPES[text]


def choose_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype to hold the weights in, by default bfloat16 on CUDA and float32 elsewhere.

    On many processors bfloat16 is emulated, and answers differ between them.
    """
    dtype = parse_dtype(name)
    if dtype is None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        logger.info("dtype=%s, the default on %s", dtype, device.type)
    return dtype
