"""Says which packages and GPUs this machine has, before anything heavy is imported.

Counts GPUs without torch: the process that parses configs should not create a CUDA context.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PYTHON_RANGE = ((3, 10), (3, 13))
#: A folder for each GPU, where a driver is loaded; known in containers without nvidia-smi, too.
DRIVER = Path("/proc/driver/nvidia/gpus")
#: Cores that other processes may use of a machine on which a run is still alone.
OTHER_CORES = 0.2
#: File systems of one node, unless it serves them to the others itself.
NODE_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay",
              "apfs")  # fmt: skip
BusyTimes = tuple[float, float, float]


class EnvironmentFault(RuntimeError):
    """Something that has to be installed first; the message holds the command."""


def read_requirements(checkout: Path | None = None) -> list[str]:
    """Return the package's requirements, a line each: of a checkout, else of what is installed."""
    if checkout is not None:
        lines = (checkout / "requirements.txt").read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    required = metadata.requires("opencompass-llada") or []
    return [line for line in required if "extra ==" not in line]


def check_environment(requirements: list[str]) -> None:
    """Raise `EnvironmentFault`, with the pip command, if Python or a package does not fit."""
    low, high = PYTHON_RANGE
    if not low <= sys.version_info[:2] < high:
        raise EnvironmentFault(
            f"Python {sys.version.split()[0]} is not supported: OpenCompass 0.5 runs on "
            f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}. Make an environment with one of them."
        )
    try:
        from packaging.requirements import Requirement
    except ImportError as error:
        raise EnvironmentFault(
            "None of the dependencies is installed in this Python. Run `make install` in the "
            "checkout and use .venv/bin/python, or: pip install opencompass-llada"
        ) from error
    faults: dict[str, str] = {}
    for line in requirements:
        requirement = Requirement(line)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            faults[line] = f"{requirement.name} is not installed"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            faults[line] = f"{requirement.name} {version} does not fit {requirement.specifier}"
    if faults:
        install = " ".join([sys.executable, "-m pip install", *(f"'{line}'" for line in faults)])
        raise EnvironmentFault(f"{'; '.join(faults.values())}. Install what fits: {install}")


def count_gpus() -> int:
    """Count the CUDA devices that a process started from here would see.

    CUDA_VISIBLE_DEVICES decides where it is set: its entries (indices, GPU-... or MIG-... ids)
    count up to the first that is none of these or does not exist, which hides the rest, as CUDA
    reads it: an empty value, ``all`` and ``cuda:0`` hide all. Else the driver's list is counted.
    """
    devices = list_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return len(devices)

    def exists(entry: str) -> bool:
        if entry.isdecimal():
            return int(entry) < len(devices)
        if entry.startswith("GPU-"):
            return any(f"UUID: {entry}" in line for line in devices)
        return entry.startswith("MIG-") and bool(devices)

    entries = (part.strip() for part in visible.split(","))
    return len(list(itertools.takewhile(exists, entries)))


def list_gpus() -> list[str]:
    """Return a line for each GPU, or MIG instance: ``GPU 0: NVIDIA H100 (UUID: GPU-...)``.

    They are nvidia-smi's, else the driver's; none where there is no driver, or nvidia-smi fails.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return [_describe_gpu(i, path) for i, path in enumerate(sorted(DRIVER.glob("*")))]
    try:
        listing = subprocess.check_output(
            [command, "-L"], stderr=subprocess.DEVNULL, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.strip() for line in listing.splitlines()]
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
    """Rewrite GPU-... ids in a CUDA_VISIBLE_DEVICES value as indices into `list_gpus`.

    OpenCompass 0.5.4's local runner takes every run of digits in the variable for an index, so
    that a UUID becomes several devices that do not exist. Ids of no device stay.
    """
    entries = []
    for entry in (part.strip() for part in visible.split(",")):
        # CUDA takes any unambiguous prefix of a UUID for the device.
        matches = [i for i, line in enumerate(devices) if f"UUID: {entry}" in line]
        is_id = entry.startswith("GPU-") and len(matches) == 1
        entries.append(str(matches[0]) if is_id else entry)
    return ",".join(entries)


def count_cores() -> int:
    """Count the cores that this process may use: those that Slurm gave it, if it did.

    A Slurm that does not bind tasks to their cores shows each all cores of its node.
    """
    can_tell = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1
    if "SLURM_JOB_ID" not in os.environ:
        return cores
    # A batch script uses the cores of all tasks of its allocation, what srun starts those of one.
    names = ["SLURM_CPUS_PER_TASK"] if "SLURM_STEP_ID" in os.environ else []
    told = (os.environ.get(name, "") for name in (*names, "SLURM_CPUS_ON_NODE"))
    return min(cores, next((int(text) for text in told if text.isdecimal()), cores))


def describe_job() -> dict[str, str] | None:
    """Return the job of Slurm or Kubernetes that this process is in; None if it is in none.

    ``scheduler``, ``job`` (Kubernetes tells a pod its own name alone), and where there are such
    ``array_job``, ``array_index``, ``node``, ``step`` and ``restarts``.
    """
    kinds = {
        "slurm": {
            "job": "SLURM_JOB_ID",
            "step": "SLURM_STEP_ID",
            "array_job": "SLURM_ARRAY_JOB_ID",
            "array_index": "SLURM_ARRAY_TASK_ID",
            "node": "SLURMD_NODENAME",
            "restarts": "SLURM_RESTART_COUNT",
        },
        "kubernetes": {
            "job": "HOSTNAME",
            "array_index": "JOB_COMPLETION_INDEX",
            "service": "KUBERNETES_SERVICE_HOST",
        },
    }
    needed = {"slurm": "job", "kubernetes": "service"}
    for scheduler, names in kinds.items():
        told = {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
        if needed[scheduler] in told:
            told.pop("service", None)
            return {"scheduler": scheduler, **told}
    return None


def write_job(job: Mapping[str, str] | None) -> str:
    """Return a `describe_job` in words, ``""`` for none: ``Slurm job 12, array 9 index 3``."""
    if not job:
        return ""
    named = {"slurm": "Slurm job", "kubernetes": "Kubernetes pod"}.get(job["scheduler"], "job")
    parts = [f"{named} {job.get('job', '?')}"]
    if "array_index" in job:
        array = f"array {job['array_job']} " if "array_job" in job else ""
        parts.append(f"{array}index {job['array_index']}")
    parts += [f"node {job['node']}"] if "node" in job else []
    parts += [f"restart {job['restarts']}"] if "restarts" in job else []
    return ", ".join(parts)


def node_local_type(path: str | Path, mounts: str | Path = "/proc/self/mounts") -> str | None:
    """Return the type of the file system that a path will lie on, if it is commonly of one node.

    None for others, such as NFS and Lustre, and where the system does not tell.
    """
    place = Path(os.path.realpath(Path(path).expanduser()))
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found: tuple[int, str] = (-1, "")
    for line in lines:
        _, folder, kind, *_ = line.split(" ")
        root = Path(folder.replace("\\040", " "))
        if (place == root or root in place.parents) and len(root.parts) >= found[0]:
            found = (len(root.parts), kind)
    return found[1] if found[1] in NODE_LOCAL else None


def busy_seconds() -> BusyTimes | None:
    """Return time, seconds that all cores were busy, and those of this process; Linux alone."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(value) for value in file.readline().split()[1:9]]
    except OSError:
        return None
    idle = ticks[3] + ticks[4]
    busy = (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), busy, time.process_time()


def other_cores(before: BusyTimes | None, after: BusyTimes | None) -> float | None:
    """Return how many cores other processes kept busy, on average; None where nothing tells."""
    if before is None or after is None:
        return None
    elapsed, busy, own = (end - start for start, end in zip(before, after, strict=True))
    return round(max(0.0, (busy - own) / elapsed), 3)
