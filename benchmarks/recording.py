"""What every benchmark's record says of command, date, machine and versions."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def describe_run(packages: Sequence[str]) -> dict[str, Any]:
    """Return command, date, machine and versions of this process.

    Args:
        packages: Distributions whose versions matter; an absent one is left out.
    """
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": describe_device(),
        "versions": versions,
    }


def exit_on_error(command: Callable[[], None]) -> None:
    """Run a script's main; an error that its arguments or files cause is a line, no traceback."""
    try:
        command()
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a record.

    Raises:
        ValueError: If the file is missing, no JSON, or no record of rows.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{str(path)!r} is no record with rows ({type(error).__name__}); give what "
            "finetune_study.py --record or --merge wrote."
        ) from error
    return list(rows)


def describe_device() -> str:
    """Name the CUDA device, or say that there is none."""
    try:
        import torch
    except ImportError:
        return "no torch"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, the folder made if need be: whole, or not at all if interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{os.getpid()}")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
