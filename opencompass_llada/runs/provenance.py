"""Records how a run's numbers came to be, in its ``provenance/``, and reads that again.

``run_TIME.json`` is of the process that starts the tasks, when they have ended; ``MODEL.jsonl`` of
the processes that hold the model: a sealed line of kind ``model`` when it is loaded, ``dataset`` at
a data set's end, ``superseded`` where a data set's answers were set aside.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from opencompass_llada import __version__
from opencompass_llada.files import (
    append_line,
    host_name,
    open_line,
    read_lines,
    replacing,
    sealed_line,
)
from opencompass_llada.redaction import redact
from opencompass_llada.runs import hashes, machine
from opencompass_llada.runs import recorded_files as recorded

logger = logging.getLogger(__name__)

PACKAGES = ("opencompass-llada", "opencompass", "torch", "transformers", "tokenizers",
            "safetensors", "datasets", "numpy", "flash-attn", "peft")  # fmt: skip
#: The package itself first, then the others whose versions change answers.
DECIDING = ("opencompass-llada", "torch", "transformers")
#: How many tasks of a run go on side by side; `tasks.CoreSharingLocalRunner` tells its tasks.
TASKS_VARIABLE = "OPENCOMPASS_LLADA_TASKS"
#: OpenCompass's stamp in a file's name.
_STAMP = re.compile(r"^(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d).*", re.DOTALL)
#: Fields of `engines.Totals`, and what they are called in a record.
COUNTERS = ("num_prompts", "num_generated_tokens", "num_forward_passes", "num_batch_passes",
            "seconds")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """All that a run's folder records."""

    runs: tuple[Mapping[str, Any], ...] = ()  # of run_TIME.json, oldest first
    #: By abbreviation: what its newest process said of the model.
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: By abbreviations of model and data set (or shard): the newest record.
    datasets: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what is wrong with the files

    def of_cell(
        self, model: str, dataset: str, datasets: Container[str]
    ) -> dict[str, Mapping[str, Any]]:
        """Return the records of a data set and its shards; ``datasets``: all names of the run."""
        return {
            name: self.datasets[model, name]
            for name in self._likely_parts.get((model, dataset), ())
            if recorded.is_part(name, dataset, datasets)
        }

    @functools.cached_property
    def _likely_parts(self) -> Mapping[tuple[str, str], list[str]]:
        """Names that may be parts, by model and data set: of 200 models all would take minutes."""
        found: dict[tuple[str, str], list[str]] = {}
        for model, name in self.datasets:
            wholes = {name, name.rpartition("_")[0], recorded.split_shard_name(name)[0]}
            for whole in wholes:
                found.setdefault((model, whole), []).append(name)
        return found


def add_record(run_path: Path, record: Mapping[str, Any]) -> None:
    """Append a record, which has ``kind`` and ``model``, to the model's file."""
    name = recorded.own_file(str(record["model"]), ".jsonl")
    append_line(run_path / recorded.PROVENANCE / name, sealed_line(record))


def record_run(run_path: Path, config: Path | None = None) -> Path | None:
    """Write what the process that starts the tasks knows, once they have ended.

    A second call for the same dumped ``config``, the newest by default, replaces the file. None
    where OpenCompass dumped none.
    """
    config = config or max((run_path / "configs").glob("*.py"), default=None)
    if config is None:
        return None
    text = config.read_text(encoding="utf-8", errors="replace")
    started = datetime.fromtimestamp(config.stat().st_mtime, timezone.utc)
    finished = datetime.now(timezone.utc)
    record = {
        "started": _iso(started),
        "finished": _iso(finished),
        "wall_seconds": round((finished - started).total_seconds(), 1),
        **describe_environment(),
        "config_file": config.name,
        "config_hash": hashes.hash_text(text),
        "config": redact(text),
    }
    path = run_path / recorded.PROVENANCE / f"run_{config.stem}.json"
    content = json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, lambda temporary: recorded.seal_file(path, temporary)) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="replace")
    return path


@contextmanager
def recording(
    run_path: Path,
    model: Any,
    model_cfg: Mapping[str, Any],
    dataset_cfg: Mapping[str, Any],
    dataset: Any,
) -> Iterator[None]:
    """Record one data set, as OpenCompass built it, on one loaded model: around its inference."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    busy = machine.busy_seconds()
    before, started, clock = _read_counters(model), _iso(datetime.now()), time.perf_counter()
    yield
    rows = getattr(dataset, "test", None)
    record = {
        "kind": "dataset",
        "model": recorded.model_name(model_cfg),
        "dataset": recorded.dataset_name(dataset_cfg),
        "started": started,
        **_describe_place(),
        "wall_seconds": time.perf_counter() - clock,
        **{
            name: None if value is None else value - (before[name] or 0)
            for name, value in _read_counters(model).items()
        },
        "peak_memory_bytes": _peak_memory(),
        "tasks_at_a_time": _read_tasks(),
        "other_cores": machine.other_cores(busy, machine.busy_seconds()),
        "num_samples": None if rows is None else len(rows),
        "dataset_hash": None if rows is None else hashes.hash_rows(rows),
    }
    add_record(run_path, record)


def record_model(
    run_path: Path, model: Any, model_cfg: Mapping[str, Any], files: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """Record a loaded model, its `hash_files` and this process; return the record.

    None stands for what is not known, as of models of other wrappers.
    """
    import torch

    engine = getattr(model, "engine", None)
    network: Any = getattr(engine, "model", None) or getattr(model, "model", None)
    parameter = next(iter(network.parameters()), None) if hasattr(network, "parameters") else None
    settings = getattr(engine, "settings", None)
    pattern = getattr(network, "attention_pattern", None)
    device = None if parameter is None else str(parameter.device)
    if parameter is not None and parameter.is_cuda:
        device = f"{device} ({torch.cuda.get_device_name(parameter.device)})"
    hashed = {name: content or None for name, (content, _) in files.items()}
    record = {
        "kind": "model",
        "model": recorded.model_name(model_cfg),
        "started": _iso(datetime.now()),
        "path": str(model_cfg.get("path", "")),
        "checkpoint_hash": hashed.get("checkpoint"),
        "adapter": model_cfg.get("peft_path"),
        "adapter_hash": hashed.get("adapter"),
        "tokenizer_hash": hashed.get("tokenizer"),
        "model_class": type(network).__name__ if network is not None else None,
        "model_type": getattr(getattr(network, "config", None), "model_type", None),
        "engine": type(engine).__name__ if engine is not None else None,
        "device": device,
        "dtype": str(parameter.dtype).removeprefix("torch.") if parameter is not None else None,
        "sequence_parallel": model_cfg.get("sequence_parallel", 1),
        "attention_backend": _find_backend(network),
        "attention_pattern": None if pattern is None else str(pattern),
        "generates_by": getattr(engine, "generates_by", None),
        "cache_policy": _describe_cache(engine),
        "preset": _describe_preset(model),
        "seed": getattr(settings, "seed", model_cfg.get("seed")),
        "cuda": torch.version.cuda or "none: a build of PyTorch for CPUs",
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else "no GPU",
        **describe_environment(),
    }
    add_record(run_path, record)
    return record


def _read_counters(model: Any) -> dict[str, Any]:
    """Return what a model's engine has counted so far, None for what it does not count."""
    totals = getattr(getattr(model, "engine", None), "totals", None)
    return {name: getattr(totals, name, None) for name in COUNTERS}


def _iso(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds")


def hash_files(model: Mapping[str, Any], *, fetch: bool) -> dict[str, tuple[str, str]]:
    """Return the hashes of what a model is loaded from; ``fetch``: a hub id may be downloaded.

    Of ``checkpoint``, ``tokenizer`` and ``adapter``: the hash of the content, and of the small
    settings files beside it; '' for what there is not. What is not on this machine is left out.
    """
    # Of other wrappers nothing is downloaded: their hub id may be a service's name for its model.
    fetch = fetch and recorded.is_ours(model)
    path, peft = str(model.get("path") or ""), model.get("peft_path")
    subfolder = str((model.get("peft_kwargs") or {}).get("subfolder") or "")
    wanted = {
        "checkpoint": (path, "", hashes.hash_checkpoint),
        "tokenizer": (str(model.get("tokenizer_path") or path), "", hashes.hash_tokenizer),
        "adapter": (str(peft or ""), subfolder, hashes.hash_checkpoint),
    }
    found = {} if peft else {"adapter": ("", "")}
    for name, (place, below, hash_content) in wanted.items():
        folder = hashes.find_folder(place, fetch=fetch, weights=name != "tokenizer")
        if folder is not None:
            found[name] = (hash_content(folder / below), hashes.hash_settings(folder / below))
    return found


def _find_backend(network: Any) -> str | None:
    asked = getattr(network, "attention_backend", None)
    if asked == "auto":  # what `inference.attention_rule` makes of it
        on_cuda = next(network.parameters()).device.type == "cuda"
        choice = "cuDNN or flash by the measured rule" if on_cuda else "PyTorch's SDPA"
        return f"auto: {choice}"
    return asked or getattr(getattr(network, "config", None), "_attn_implementation", None)


def _describe_cache(engine: Any) -> str | None:
    """Return what is cached between passes, defaults filled in; None if an engine says nothing."""
    if getattr(engine, "generates_by", None) in ("autoregressive", "uniform_diffusion"):
        return "keys and values of all tokens"
    resolved = getattr(getattr(engine, "settings", None), "resolved", None)
    if resolved is None:
        return None
    options = {name: value for name, value in asdict(resolved.cache).items() if value is not None}
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _describe_preset(model: Any) -> dict[str, Any] | None:
    """Return the sampler's preset and what it stood for; None where the config names none."""
    fitted = getattr(getattr(model, "options", None), "preset", None)
    return None if fitted is None else {"name": fitted.name, "options": dict(fitted.options)}


def _read_tasks() -> int | None:
    """Return how many tasks go on side by side, this one among them; None where nothing says."""
    told = os.environ.get(TASKS_VARIABLE, "")
    return int(told) if told.isdecimal() else None


def _peak_memory() -> int:
    """Return the most bytes that tensors took on all GPUs; on a CPU, the process's peak so far."""
    import torch

    if torch.cuda.is_available():
        return sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_provenance(run_path: Path) -> Provenance:
    """Read all records of a run; a run without any has empty ones."""
    folder, notes = run_path / recorded.PROVENANCE, []
    runs: list[Mapping[str, Any]] = []
    for path in sorted(folder.glob("run_*.json")):
        content, fault = recorded.read_object(path, run_path)
        runs += [] if fault else [content]
        notes += [f"{path.name} {fault}; it is left out"] if fault else []
    models: dict[str, Mapping[str, Any]] = {}
    datasets: dict[tuple[str, str], Mapping[str, Any]] = {}
    found: list[Mapping[str, Any]] = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, record in _read_records(path, notes):
            is_complete = "model" in record and ("kind" in record)
            if not is_complete or (record["kind"] != "model" and "dataset" not in record):
                notes.append(f"{path.name}, line {number} is no record; it is left out")
                continue
            found.append(record)
    if any(".shard-" in path.name for path in folder.glob("*.jsonl")):  # each has files of its own
        found.sort(key=lambda record: str(record.get("started", "")))
    for own in found:
        name = str(own["model"])
        if own["kind"] == "dataset":
            datasets[name, str(own["dataset"])] = own
        elif own["kind"] == "superseded":
            datasets.pop((name, str(own["dataset"])), None)
        else:
            models[name] = own
    return Provenance(runs=tuple(runs), models=models, datasets=datasets, notes=tuple(notes))


def _read_records(path: Path, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a file's records with their lines' numbers; notes say which lines are left out."""
    try:
        lines = list(read_lines(path))
    except OSError as error:
        notes.append(f"{path.name} cannot be read ({error})")
        return
    # Versions before 0.4 wrote no digests: a file has them in every line or in none.
    sealed = any(line.startswith(b'{"digest": ') for _, line in lines)
    for number, line in lines:
        record = open_line(line, must_be_sealed=sealed)
        if record is None:
            notes.append(f"{path.name}, line {number} is torn or damaged; it is left out")
        else:
            yield number, record


def last_time(times: Iterable[Any]) -> str:
    """Return the last of some recorded times in ISO 8601 and UTC, '' where none is one.

    They are in ISO 8601, or OpenCompass's stamps (``20260131_235959``), which are local.
    """
    found = []
    for value in times:
        text = re.sub(_STAMP, r"\1-\2-\3T\4:\5:\6", str(value or ""))
        try:
            found.append(_iso(datetime.fromisoformat(text.replace("Z", "+00:00"))))
        except (ValueError, OverflowError, OSError):
            continue
    return max(found, default="")


def describe_versions(records: Mapping[str, Provenance]) -> list[str]:
    """Say of the packages that decide numbers which runs (keys), or models of one, had others."""
    notes = []
    for package in DECIDING:
        runs: dict[str, set[str]] = defaultdict(set)
        for run, known in records.items():
            for record in (*known.runs, *known.models.values()):
                version = (record.get("packages") or {}).get(package)
                commit = record.get("git_commit") if package == DECIDING[0] else None
                if version:
                    runs[version + (f" at {commit[:8]}" if commit else "")].add(run)
        if len(runs) > 1:
            made = [f"{version} ({', '.join(sorted(runs[version]))})" for version in sorted(runs)]
            notes.append(f"numbers were made by different versions of {package}: {', '.join(made)}")
    return notes


def _describe_place() -> dict[str, Any]:
    """Return where this process runs: the host, and the job of Slurm or Kubernetes, if any."""
    return {"host": host_name(), "job": machine.describe_job() or "none"}


def describe_environment() -> dict[str, Any]:
    """Return versions, machine, job and commit of this process; imports nothing heavy."""
    return {
        **_describe_place(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_cores": os.cpu_count(),
        "packages": installed_versions(PACKAGES),
        "git_commit": find_commit(),
        "command": redact(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    # A checkout's metadata are of when it was installed.
    return {**found, "opencompass-llada": __version__}


def find_commit() -> str | None:
    """Return the checkout's commit, ``+changes`` if edited; None without a checkout or git."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    words = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *words],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("The commit is not recorded: git said %s", error)
        return None
    return done.stdout.strip()
