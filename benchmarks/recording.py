"""What every benchmark's record says of command, date, commit, machine and versions."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from opencompass_llada.files import write_text
from opencompass_llada.redaction import chosen_variables, redact
from opencompass_llada.runs.provenance import find_commit, installed_versions

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("opencompass-llada", "opencompass", "torch", "transformers", "tokenizers", "triton",
            "safetensors", "peft", "datasets", "tiktoken", "wonderwords", "numpy", "scipy",
            "matplotlib", "jinja2", "pyarrow", "liger-kernel", "flashinfer-python")  # fmt: skip
#: What `describe_run` gives.
FACTS = ("command", "date", "commit", "machine", "load", "device", "versions")


def describe_run() -> dict[str, Any]:
    """Return what every record begins with: command, date, commit, machine, device, versions.

    ``commit`` ends in ``+changes`` where the checkout was edited; it is None without git. The
    variable BENCHMARK_COMMIT wins, for a machine that has only the files. ``load`` is the
    average number of busy processes over the last minute, for who reads times.
    """
    return {
        "command": describe_command(),
        "date": date.today().isoformat(),
        "commit": os.environ.get("BENCHMARK_COMMIT") or find_commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "device": describe_device(),
        "versions": {"python": platform.python_version(), **installed_versions(PACKAGES)},
    }


def describe_command() -> str:
    """Return this process's command as a reader types it, LLADA_* variables and torchrun too."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in chosen_variables().items()]
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    start = f"torchrun --nproc_per_node {processes}" if processes else "python"
    path = Path(sys.argv[0]).resolve()
    is_studies = (ROOT / "studies" / path.name).is_file()
    script = f"{'studies' if is_studies else 'benchmarks'}/{path.name}"
    if path.is_file() and path.is_relative_to(ROOT):  # one of a folder below them
        script = str(path.relative_to(ROOT))
    return redact(" ".join([*variables, start, script, *map(shlex.quote, sys.argv[1:])]))


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


def mean_needle_tasks(scores: Mapping[str, float | None], length: int) -> float:
    """Return the mean of RULER's eight needle tasks at one length.

    Raises:
        ValueError: If one of them was not made at that length.
    """
    found = {task: score for task, score in scores.items() if task.startswith("niah_")}
    lacking = [task for task, score in found.items() if score is None]
    if lacking or not found:
        raise ValueError(f"RULER at {length} lacks {', '.join(lacking) or 'every needle task'}")
    return statistics.fmean(found.values())  # type: ignore[arg-type]


def describe_device() -> str:
    """Name the CUDA device, or say that there is none."""
    try:
        import torch
    except ImportError:
        return "no torch"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, the folder made if need be: whole, or not at all if interrupted."""
    write_text(path, json.dumps(record, indent=1) + "\n")
