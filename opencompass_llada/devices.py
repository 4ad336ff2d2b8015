"""Choose the device, the dtype and the attention backend of a model, and log why.

Decides from the arguments and the machine alone, before any weight is read.
"""

from __future__ import annotations

import torch

from opencompass_llada.logs import get_logger
from opencompass_llada.options import unknown_name_message

logger = get_logger(__name__)

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "half": torch.float16,
    "float32": torch.float32,
    "fp32": torch.float32,
    "float": torch.float32,
}


def choose_device(name: str | torch.device | None) -> torch.device:
    """Return the device to run on.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1`` and the like; None or ``auto`` takes the first CUDA
            device, and the CPU where there is none.

    Returns:
        The device.

    Raises:
        ValueError: If the name is no device, or CUDA is asked for and absent.
    """
    if name is None or name == "auto":
        found = torch.cuda.is_available()
        device = torch.device("cuda" if found else "cpu")
        reason = "CUDA is available" if found else "no CUDA device is visible"
        logger.info("device=%s, because %s", device, reason)
        return device
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device={name!r} is no device; use 'auto', 'cpu', 'cuda' or 'cuda:1'"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={name!r}, but no CUDA device is visible to PyTorch {torch.__version__}; use "
            "device='cpu', install a CUDA build of torch, or give the task a GPU "
            "(run_cfg=dict(num_gpus=1))"
        )
    return device


def choose_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype to hold the weights in.

    Args:
        name: A dtype, or its name with or without ``torch.`` (a dumped OpenCompass config turns
            ``torch.float16`` into the string). None or ``auto`` is bfloat16 on CUDA, the dtype
            that LLaDA was trained in, and float32 elsewhere, where bfloat16 is emulated on many
            processors and gives answers that differ between them.
        device: Where the model goes.

    Returns:
        The dtype.

    Raises:
        ValueError: If the name is unknown; the nearest one is named.
    """
    if isinstance(name, torch.dtype):
        if name not in _DTYPES.values():
            raise ValueError(f"dtype={name} is not supported; use bfloat16, float16 or float32")
        return name
    if name is None or name == "auto":
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        logger.info("dtype=%s, the default on %s", dtype, device.type)
        return dtype
    text = str(name).removeprefix("torch.")
    if text not in _DTYPES:
        raise ValueError(unknown_name_message("dtype", text, [*_DTYPES, "auto"]))
    return _DTYPES[text]
