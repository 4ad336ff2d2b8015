"""Checks of benchmark files, and of all that one config needs.

Looks where OpenCompass looks (COMPASS_DATA_CACHE, then its own cache), without its download.

Reads headers and names only. Whether options fit together is `running.preflight`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.counting import (
    TIKTOKEN_FILES,
    describe_damage,
    tiktoken_path,
    tiktoken_state,
)
from opencompass_llada.benchmarks.facts import DataFiles, all_data_files
from opencompass_llada.old_names import dotted_name
from opencompass_llada.runs.doctor.machine import Finding, check_attention

OPENCOMPASS_CACHE = "~/.cache/opencompass"


def find_folder(path: str) -> Path:
    """Return where a data set's folder is or should be, without downloading it."""
    location = Path(resolve_path(path)).expanduser()
    if location.exists() or location.is_absolute():
        return location
    known = (own.folders[path] for own in all_data_files().values() if path in own.folders)
    below = next(known, path)
    cache = os.environ.get("COMPASS_DATA_CACHE", "")
    places = [Path(cache, below), Path(OPENCOMPASS_CACHE).expanduser() / below]
    return next((place for place in places if place.exists()), places[0])


def missing_files(folder: Path, files: Sequence[str]) -> list[str]:
    """Return the names that are not in a folder."""
    return [
        name for name in files if not any((folder / choice).exists() for choice in name.split("|"))
    ]


def check_files(topic: str, path: str, files: Sequence[str], *, asked: bool) -> Finding:
    """Check that files are there.

    Args:
        topic: A name of `all_data_files`, or another one.
        path: As a config gives it.
        files: Names below the path; ``a|b`` for either.
        asked: Whether their absence is a fault.
    """
    folder = find_folder(path)
    missing = missing_files(folder, files)
    if not missing:
        return Finding(topic=topic, level="ok", text=f"{len(files)} files at {folder}")
    own = all_data_files().get(topic)
    remedy = "give the folder that holds them (LLADA_DATA=FOLDER for the shipped configs)"
    can_fetch = False
    if own is not None and path in own.folders:
        from_hub = os.environ.get("DATASET_SOURCE") in ("HF", "ModelScope")
        can_fetch = not folder.exists() and (from_hub or not own.fetch)
        if own.fetch:
            below = own.folders[path]
            fetch = own.fetch.replace("FOLDER", f'"$COMPASS_DATA_CACHE/{below}"')
            variable = (
                "" if os.environ.get("COMPASS_DATA_CACHE") else "export COMPASS_DATA_CACHE=DIR; "
            )
            remedy = f"{variable}{fetch}   # or set the variable to a folder that has {below}"
    level = ("fetch" if can_fetch else "fault") if asked else "note"
    what = "no folder" if not folder.exists() else f"lacks {', '.join(missing)}:"
    return Finding(topic=topic, level=level, text=f"{what} {folder}", remedy=remedy)


def listed_data_files() -> dict[str, DataFiles]:
    """Return the files that are looked for without a config that needs them, by name."""
    return {name: own for name, own in all_data_files().items() if own.files}


def how_to_get(topic: str) -> str:
    """Return the command that fetches a benchmark's files or tiktoken's; '' for others.

    Args:
        topic: Of a `counting.MissingDataError`.
    """
    if topic == "tiktoken":
        return check_tiktoken(asked=True).remedy
    if (own := listed_data_files().get(topic)) is None:
        return ""
    return check_files(topic, own.path, own.files, asked=True).remedy


def check_tiktoken(*, asked: bool) -> Finding:
    """Check GPT-4's tokenizer file without tiktoken, which would delete a damaged one."""
    state, path = tiktoken_state(), tiktoken_path()
    if state == "present":
        return Finding(topic="tiktoken", level="ok", text=str(path))
    if state == "damaged":
        text, _, remedy = describe_damage().partition(" Copy ")
        return Finding(topic="tiktoken", level="fault", text=text, remedy=f"copy {remedy}")
    return Finding(
        topic="tiktoken",
        level="fetch" if asked else "note",
        text=f"no file {path}; lengths by GPT-4's tokenizer need it",
        remedy='export TIKTOKEN_CACHE_DIR=DIR; python -c "import tiktoken; '
        "tiktoken.get_encoding('cl100k_base')\"   # without a network: copy the file there, or "
        "LLADA_TOKENIZER=model",
    )


def needed_files(dataset: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what a data set config reads: topic, path and file names.

    Args:
        dataset: The config.
        kind: Its class as a dotted name.
    """
    for name, own in all_data_files().items():
        for path, files in own.needed(dataset, kind):
            yield name, path, files


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
    from opencompass_llada.networks import NETWORKS, open_checkpoint, read_model_config

    topic = "checkpoint"
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    try:
        folder = resolve_path(path)
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
    if Path(resolve_path(path)).expanduser().is_dir():
        return f"hf download ORGANISATION/NAME --local-dir {path}   # {remedy}"
    if is_hub_id:
        return f"hf download {path} --force-download   # {remedy}"
    return remedy or "correct the model's path"


def _cached_snapshot(name: str) -> str | None:
    """Return the folder of a hub checkpoint that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else None
