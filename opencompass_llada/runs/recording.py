"""Measures what only the process that holds a model knows: device, passes, seconds, memory.

Reads a model's public attributes and changes nothing of it; models of other wrappers leave the
fields empty that they do not offer. The records' form is `runs.provenance`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from opencompass_llada.logs import get_logger
from opencompass_llada.runs.completeness import dataset_name, model_name
from opencompass_llada.runs.makers import find_folder, is_ours
from opencompass_llada.runs.provenance import (
    add_record,
    describe_environment,
    hash_checkpoint,
    hash_rows,
    hash_tokenizer,
)

logger = get_logger(__name__)

#: Fields of `engines.Totals`, and what they are called in a record.
COUNTERS = (
    *("num_prompts", "num_generated_tokens", "num_forward_passes", "num_batch_passes", "seconds"),
)


@contextmanager
def recording(
    run_path: Path,
    model: Any,
    model_cfg: Mapping[str, Any],
    dataset_cfg: Mapping[str, Any],
    dataset: Any,
) -> Iterator[None]:
    """Record one data set on one model: around its inference.

    Args:
        run_path: The run's folder.
        model: The model, loaded.
        model_cfg: Its config; ``abbr`` names the file.
        dataset_cfg: The data set's config.
        dataset: The data set as OpenCompass built it.
    """
    _reset_peak_memory()
    before, started, clock = read_counters(model), _now(), time.perf_counter()
    yield
    counters = {
        name: None if value is None else value - (before[name] or 0)
        for name, value in read_counters(model).items()
    }
    record = {
        "kind": "dataset",
        "model": model_name(model_cfg),
        "dataset": dataset_name(dataset_cfg),
        "started": started,
        "wall_seconds": time.perf_counter() - clock,
        **counters,
        "peak_memory_bytes": _peak_memory(),
        **_describe_data(dataset),
    }
    add_record(run_path, record["model"], record)


def record_model(run_path: Path, model: Any, model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Record a loaded model: its files' hashes, device, dtype and options, and this process.

    Args:
        run_path: The run's folder.
        model: The model, loaded.
        model_cfg: Its config.

    Returns:
        What was recorded.
    """
    record = {
        "kind": "model",
        "model": model_name(model_cfg),
        "started": _now(),
        **describe_model(model, model_cfg),
        **describe_environment(),
    }
    add_record(run_path, record["model"], record)
    return record


def describe_model(model: Any, model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a loaded model says of itself, None where it does not say.

    Args:
        model: A model of this package's wrapper or of OpenCompass.
        model_cfg: Its config.
    """
    engine = getattr(model, "engine", None)
    network: Any = getattr(engine, "model", None) or getattr(model, "model", None)
    parameter = next(iter(network.parameters()), None) if hasattr(network, "parameters") else None
    path = str(model_cfg.get("path", ""))
    tokenizer_path = str(model_cfg.get("tokenizer_path") or path)
    settings, adapter = getattr(engine, "settings", None), model_cfg.get("peft_path")
    fetch = is_ours(model_cfg)  # see `makers.hash_files`
    return {
        "path": path,
        "checkpoint_hash": _hash_folder(path, hash_checkpoint, fetch=fetch),
        "adapter": model_cfg.get("peft_path"),
        "adapter_hash": _hash_folder(str(adapter or ""), hash_checkpoint, fetch=fetch),
        "tokenizer_hash": _hash_folder(tokenizer_path, hash_tokenizer, fetch=fetch),
        "model_class": type(network).__name__ if network is not None else None,
        "model_type": getattr(getattr(network, "config", None), "model_type", None),
        "engine": type(engine).__name__ if engine is not None else None,
        "device": _describe_device(parameter),
        "dtype": str(parameter.dtype).removeprefix("torch.") if parameter is not None else None,
        "attention_backend": _find_backend(network),
        "generates_by": getattr(engine, "generates_by", None),
        "cache_policy": _describe_cache(engine),
        "seed": getattr(settings, "seed", model_cfg.get("seed")),
        **_cuda_versions(),
    }


def read_counters(model: Any) -> dict[str, Any]:
    """Return what a model's engine has counted so far, None for what it does not count."""
    totals = getattr(getattr(model, "engine", None), "totals", None)
    return {name: getattr(totals, name, None) for name in COUNTERS}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _hash_folder(path: str, hash_content: Any, *, fetch: bool) -> str | None:
    """Hash a checkpoint's folder: its own, or the hub's copy of it in the cache."""
    try:
        folder = find_folder(path, fetch=fetch)
        return None if folder is None else hash_content(folder) or None
    except (OSError, ValueError) as error:
        logger.warning("No hash of %s is recorded: %s", path, error)
        return None


def _describe_device(parameter: Any) -> str | None:
    if parameter is None:
        return None
    if parameter.device.type != "cuda":
        return str(parameter.device)
    import torch

    return f"{parameter.device} ({torch.cuda.get_device_name(parameter.device)})"


def _find_backend(network: Any) -> str | None:
    asked = getattr(network, "attention_backend", None)
    config = getattr(network, "config", None)
    if asked == "auto":  # what `inference.attention_rule` makes of it
        on_cuda = next(network.parameters()).device.type == "cuda"
        choice = "cuDNN or flash by the measured rule" if on_cuda else "PyTorch's SDPA"
        return f"auto: {choice}"
    return asked or getattr(config, "_attn_implementation", None)


def _describe_cache(engine: Any) -> str | None:
    """Return what is kept between passes, defaults filled in; None where an engine does not say."""
    if getattr(engine, "generates_by", None) == "autoregressive":
        return "keys and values of all tokens"
    resolved = getattr(getattr(engine, "settings", None), "resolved", None)
    if resolved is None:
        return None
    options = {name: value for name, value in asdict(resolved.cache).items() if value is not None}
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _cuda_versions() -> dict[str, Any]:
    import torch

    return {
        "cuda": torch.version.cuda or "none: a build of PyTorch for CPUs",
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else "no GPU",
    }


def _reset_peak_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_memory() -> int | None:
    """Return the most bytes that tensors took on all GPUs; on a CPU, the process's peak so far."""
    import torch

    if torch.cuda.is_available():
        return sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _describe_data(dataset: Any) -> dict[str, Any]:
    """Return number and hash of the samples that the model is asked."""
    rows = getattr(dataset, "test", None)
    if rows is None:
        return {"num_samples": None, "dataset_hash": None}
    return {"num_samples": len(rows), "dataset_hash": hash_rows(rows)}
