"""What one config needs: its checkpoints, attention kernels, data files and tokenizer file.

Reads headers and names only. Whether options fit together is `running.preflight`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.datasets.counting import TIKTOKEN_FILES, resolve_location
from opencompass_llada.doctor.data import check_files, check_tiktoken, needed_files
from opencompass_llada.doctor.findings import Finding
from opencompass_llada.doctor.machine import check_attention
from opencompass_llada.results.table import dotted_name

WRAPPER = "opencompass_llada.wrapper.LLaDACausalLM"


def check_needs(cfg: Mapping[str, Any]) -> Iterator[Finding]:
    """Check what a config needs, each thing once.

    Args:
        cfg: The resolved config of a run.
    """
    groups = list(cfg.get("model_dataset_combinations") or [cfg])
    models = [model for group in groups for model in group.get("models", [])]
    ours = [model for model in models if "type" in model and dotted_name(model["type"]) == WRAPPER]
    for path in dict.fromkeys(str(model["path"]) for model in ours if "path" in model):
        yield check_checkpoint(path)
    backends = {str(model["attention_backend"]) for model in ours if "attention_backend" in model}
    if backends:
        yield from check_attention(frozenset(backends))
    yield from check_data([d for group in groups for d in group.get("datasets", [])])


def check_data(datasets: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Check the files that data set configs read, each once, and GPT-4's tokenizer file.

    Args:
        datasets: Data set configs, of this package or OpenCompass's.
    """
    files: dict[tuple[str, str], dict[str, None]] = {}
    for dataset in datasets:
        for topic, path, names in needed_files(dataset, dotted_name(dataset.get("type"))):
            files.setdefault((topic, path), {}).update(dict.fromkeys(names))
    for (topic, path), wanted in files.items():
        yield check_files(topic, path, list(wanted), asked=True)
    tokenizers = {d.get("tokenizer") or d.get("tokenizer_model") for d in datasets}
    if tokenizers & set(TIKTOKEN_FILES):
        yield check_tiktoken(asked=True)


def check_checkpoint(path: str) -> Finding:
    """Check a checkpoint by its config.json and safetensors headers.

    Args:
        path: As a model config gives it. A hub id that is not in the hub's cache is not fetched.
    """
    from opencompass_llada.modeling import NETWORKS, open_checkpoint, read_model_config

    topic = "checkpoint"
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    try:
        folder = resolve_location(path)
        if is_hub_id and not Path(path).is_dir():
            cached = _cached_snapshot(path)
            if cached is None:
                return Finding(
                    topic=topic,
                    level="fetch",
                    text=f"{path} is not in the hub's cache",
                    remedy=f"hf download {path}   # or give a folder as path",
                )
            folder = cached
        if read_model_config(folder).get("model_type") not in NETWORKS:
            return Finding(topic=topic, level="ok", text=f"{path}: config.json can be read")
        _, files = open_checkpoint(folder)
    except ValueError as error:
        text, _, remedy = (
            str(error).rpartition(". ") if ". " in str(error) else (str(error), "", "")
        )
        return Finding(
            topic=topic, level="fault", text=text, remedy=_mend_checkpoint(path, is_hub_id, remedy)
        )
    size = sum(file.stat().st_size for file in files) / 2**20
    return Finding(
        topic=topic, level="ok", text=f"{path}: {len(files)} files, {size:,.0f} MiB, headers fit"
    )


def _mend_checkpoint(path: str, is_hub_id: bool, remedy: str) -> str:
    """Return the command that fetches a damaged checkpoint again, and what else its error says."""
    if Path(resolve_location(path)).expanduser().is_dir():
        return f"hf download ORGANISATION/NAME --local-dir {path}   # {remedy}"
    if is_hub_id:
        return f"hf download {path} --force-download   # {remedy}"
    return remedy or "correct the model's path"


def _cached_snapshot(name: str) -> str | None:
    """Return the folder of a hub checkpoint that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else None
