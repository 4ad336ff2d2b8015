"""Counts the accelerators that a process started from here would see, without importing torch.

The process that parses configs and hands out tasks should not create a CUDA context. Counts only;
which device a model goes to is decided in `devices`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

#: A folder for each GPU, where a driver is loaded; known in containers without nvidia-smi, too.
DRIVER = Path("/proc/driver/nvidia/gpus")


def count_gpus(environment: Mapping[str, str] | None = None) -> int:
    """Count the CUDA devices that a process started from here would see.

    CUDA_VISIBLE_DEVICES decides where it is set: its entries (indices, GPU-... or MIG-... ids)
    count up to the first that is none of these or does not exist, which hides the rest, as CUDA
    reads it: an empty value, ``all`` and ``cuda:0`` hide all. Else the driver's list is counted.
    """
    variables = os.environ if environment is None else environment
    devices = list_gpus()
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return len(devices)
    count = 0
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal():
            exists = int(entry) < len(devices)
        elif entry.startswith("GPU-"):
            exists = any(f"UUID: {entry}" in line for line in devices)
        else:
            exists = entry.startswith("MIG-") and bool(devices)
        if not exists:
            break
        count += 1
    return count


def list_gpus() -> list[str]:
    """Return a line for each GPU, or MIG instance: ``GPU 0: NVIDIA H100 (UUID: GPU-...)``.

    They are nvidia-smi's, else the driver's; none where there is no driver, or nvidia-smi fails.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return [_describe_gpu(i, path) for i, path in enumerate(sorted(DRIVER.glob("*")))]
    try:
        listing = subprocess.run(
            [command, "-L"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return []
    if listing.returncode != 0:
        return []
    lines = [line.strip() for line in listing.stdout.splitlines()]
    instances = [line for line in lines if line.startswith("MIG ")]
    return instances or [line for line in lines if line.startswith("GPU ")]


def _describe_gpu(index: int, folder: Path) -> str:
    """Read the driver's ``Model:`` and ``GPU UUID:``; a UUID that cannot be read is left empty."""
    try:
        lines = (folder / "information").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    return f"GPU {index}: {facts.get('Model', '')} (UUID: {facts.get('GPU UUID', '')})"


def visible_devices_as_indices(visible: str, devices: list[str]) -> str:
    """Rewrite GPU-... ids in a CUDA_VISIBLE_DEVICES value as indices.

    OpenCompass 0.5.4's local runner takes every run of digits in the variable for an index, so
    that a UUID becomes several devices that do not exist. Ids that no line of `list_gpus` names
    stay.
    """
    entries = []
    for entry in (part.strip() for part in visible.split(",")):
        # CUDA takes any unambiguous prefix of a UUID for the device.
        matches = [i for i, line in enumerate(devices) if f"UUID: {entry}" in line]
        is_id = entry.startswith("GPU-") and len(matches) == 1
        entries.append(str(matches[0]) if is_id else entry)
    return ",".join(entries)
