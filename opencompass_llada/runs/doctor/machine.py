"""Findings, and the checks of Python packages, GPU, attention kernels and disk space."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from opencompass_llada.runs.environment import (
    EnvironmentFault,
    check_environment,
    read_requirements,
)
from opencompass_llada.runs.hardware import list_gpus

#: ``ok``; ``note``: absent, and not asked for; ``fetch``: absent, and fetched when it is needed if
#: there is a network; ``fault``: broken, or asked for and absent.
LEVELS = ("ok", "note", "fetch", "fault")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report."""

    topic: str
    """What was looked at."""
    level: str
    """One of `LEVELS`."""
    text: str
    """What was found."""
    remedy: str = ""
    """The command, or the one change, that mends it; for every fault."""

    def __post_init__(self) -> None:
        """Require a remedy where something is wrong."""
        assert self.level in LEVELS, self.level
        assert self.remedy or self.level in ("ok", "note"), f"{self.topic} lacks a remedy"


def write_report(findings: Sequence[Finding]) -> str:
    """Return the findings as text, one line each, with the remedy under what is not in order."""
    signs = {"ok": "ok   ", "note": "note ", "fetch": "FETCH", "fault": "FAULT"}
    width = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{signs[finding.level]}  {finding.topic:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<{width + 9}}-> {finding.remedy}")
    faults = sum(finding.level == "fault" for finding in findings)
    lines.append(f"{faults} faults" if faults else "Nothing is broken that was asked for.")
    return "\n".join(lines) + "\n"


_GIB = 2**30
#: Below this, OpenCompass cannot even write its configs and logs.
_LEAST_DISK = 0.1 * _GIB
_LITTLE_DISK = 2 * _GIB


def check_packages(checkout: Path | None) -> Iterator[Finding]:
    """Compare the installed versions with the requirements.

    Args:
        checkout: Folder of a checkout, whose requirements.txt counts; None asks the installed
            package's metadata.
    """
    try:
        requirements = read_requirements(checkout)
        check_environment(requirements)
    except EnvironmentFault as fault:
        text, _, remedy = str(fault).partition(" Install what fits: ")
        yield Finding(
            topic="packages",
            level="fault",
            text=text,
            remedy=remedy or "make install, in a checkout; or pip install opencompass-llada",
        )
        return
    python = sys.version.split()[0]
    text = f"Python {python} and {len(requirements)} requirements fit together"
    yield Finding(topic="packages", level="ok", text=text)


def check_gpu() -> Iterator[Finding]:
    """Compare the GPUs that the driver shows with what torch can use."""
    import torch

    gpus = list_gpus()
    cuda = getattr(torch.version, "cuda", None)
    build = f"torch {torch.__version__}, " + (f"CUDA {cuda}" if cuda else "no CUDA build")
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        text = f"{torch.cuda.device_count()} visible ({', '.join(sorted(names))}); {build}"
        yield Finding(topic="GPU", level="ok", text=text)
    elif gpus:
        yield Finding(
            topic="GPU",
            level="fault",
            text=f"the driver shows {len(gpus)} GPUs, and torch can use none of them; {build}",
            remedy=(
                "unset CUDA_VISIBLE_DEVICES if it hides them, else install a CUDA build: "
                "make install TORCH=torch TORCH_INSTALL_ARGS='...' (pytorch.org's selector gives "
                "the arguments for your driver)"
            ),
        )
    else:
        text = f"none; models run on the CPU, which does for the tiny ones; {build}"
        yield Finding(topic="GPU", level="note", text=text)


def check_attention(asked: frozenset[str] = frozenset({"auto"})) -> Iterator[Finding]:
    """Run every attention backend on a few numbers, and compare it with the plain formula.

    Args:
        asked: Backends that must work.
    """
    import torch

    from opencompass_llada.networks import ATTENTION_BACKENDS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    working, broken = [], {}
    for name in ATTENTION_BACKENDS:
        fault = try_backend(name, device)
        if fault:
            broken[name] = fault
        else:
            working.append(name)
    text = f"works on {device}: {', '.join(working)}"
    absent = [name for name in broken if name not in asked]
    if absent:
        text += f"; does not: {', '.join(absent)}"
    yield Finding(topic="attention", level="ok" if working else "note", text=text)
    for name in sorted(asked & broken.keys()):
        yield Finding(
            topic="attention",
            level="fault",
            text=f"{name} does not run on {device}: {broken[name]}",
            remedy=f"attention_backend={working[0]!r} in the model's config"
            if working
            else "make install",
        )


def try_backend(name: str, device: str) -> str:
    """Run a backend and return what went wrong, '' if its result is right."""
    import torch

    from opencompass_llada.networks.attention import attend_with, find_kernel

    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = torch.randn(3, 1, 2, 16, 64, generator=generator).to(device, dtype)
    expected = (q.float() @ k.float().mT / 8).softmax(-1) @ v.float()
    try:
        found = attend_with(find_kernel(name, device), q, k, v)
    except (ValueError, RuntimeError, ImportError) as error:
        return str(error).splitlines()[0][:160]
    difference = (found.float() - expected).abs().max().item()
    return "" if difference < 0.05 else f"its result is off by {difference:.2g}"


def check_disk(folder: Path) -> Iterator[Finding]:
    """Check the space where results go.

    Args:
        folder: Need not exist.
    """
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        text = f"{folder} is below {existing}, which is no folder"
        yield Finding(topic="disk", level="fault", text=text, remedy="name another one: -w FOLDER")
        return
    free = shutil.disk_usage(existing).free
    text = f"{free / _GIB:.1f} GiB free at {existing}"
    remedy = "free space there, or write results elsewhere: -w FOLDER"
    if free < _LEAST_DISK:
        yield Finding(topic="disk", level="fault", text=text, remedy=remedy)
    elif free < _LITTLE_DISK:
        yield Finding(topic="disk", level="note", text=text, remedy=remedy)
    else:
        yield Finding(topic="disk", level="ok", text=text)
