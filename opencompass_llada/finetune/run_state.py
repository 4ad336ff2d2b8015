"""Holds the state of a training run, and writes and reads what it needs to go on exactly.

torch.distributed.checkpoint writes it, whole or sharded alike. Rows are a function of their number
and need no state.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer
from transformers import PreTrainedModel

from opencompass_llada.finetune.checkpoints import CheckpointIndex
from opencompass_llada.finetune.optimizer import MovingAverage
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.resources import NetworkShape
from opencompass_llada.finetune.rows import TrainingData
from opencompass_llada.finetune.tokens import TrainingTokenizer


class RunState:
    """What the trainer changes, and logs and checkpoints read."""

    recipe: Recipe
    ranks: Ranks
    index: CheckpointIndex
    tokens: TrainingTokenizer
    data: TrainingData
    shape: NetworkShape
    model: PreTrainedModel
    #: The network with its objective, as it is sharded.
    network: nn.Module
    optimizer: Optimizer
    average: MovingAverage
    #: Optimiser steps done, tokens of their rows, and seconds spent in them over all starts.
    step: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0
    #: Rows of figures, as logged.
    history: list[dict[str, Any]]
    #: The signal that ended training early; None if none did.
    stopped_by: int | None = None


_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)
_FACTS, _METADATA = "facts.json", ".metadata"
#: All that torch's list of a state is made of, beside dtypes; nothing else is unpickled.
_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"PosixPath", "WindowsPath"},
}


class _Unpickler(pickle.Unpickler):
    """Knows the classes of a state's list of tensors, and runs nothing else that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        module = "pathlib" if module.startswith("pathlib.") else module  # Python 3.13's
        known = name in _CLASSES.get(module, ())
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a training state")


class _Reader(dcp.FileSystemReader):
    """Reads what `write_state` wrote, without running code and with its checksums."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / _METADATA).open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{_METADATA} holds a {type(metadata).__name__}")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        """Return one stored value, a zip file; torch reads it without comparing its checksums."""
        part = io.BytesIO(super()._slice_file(file, sinfo).read(sinfo.length))
        with zipfile.ZipFile(part) as stored:
            if (damaged := stored.testzip()) is not None:
                raise zipfile.BadZipFile(f"{sinfo.relative_path}: {damaged} is damaged")
        part.seek(0)
        return part


class _Planner(DefaultLoadPlanner):
    """Loads numbers, text and containers of them; nothing that runs code."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)  # raises for anything else; what follows would run it
        value.seek(0)
        super().load_bytes(read_item, value)


def _tensors_of(run: RunState) -> dict[str, Any]:
    """Return what is trained, without frozen weights."""
    weights, moments = get_state_dict(run.network, run.optimizer, options=_OPTIONS)
    state: dict[str, Any] = {"weights": weights, "optimizer": moments}
    if run.average.weights:
        state["average"] = dict(run.average.weights)
    return state


def write_state(run: RunState, folder: Path) -> None:
    """Write the state into a new folder; every rank calls it."""
    with warnings.catch_warnings():  # of saving from one process, which is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            dcp.save(_tensors_of(run), checkpoint_id=folder, no_dist=not dist.is_initialized())
        except dcp.api.CheckpointException as error:  # no Exception: nobody else would catch it
            raise OSError(_reason(error)) from error
    if run.ranks.is_main:
        facts: dict[str, Any] = {"step": run.step, "tokens": run.tokens_seen}
        facts |= {"seconds": run.seconds, "history": run.history}
        content = {**facts, "digest": _digest(facts, folder)}
        (folder / _FACTS).write_text(json.dumps(content), encoding="utf-8")


def _digest(facts: dict[str, Any], folder: Path) -> str:
    """Return a digest of the facts and of the list of tensors, whose data have their own."""
    text = json.dumps(facts, sort_keys=True).encode()
    return hashlib.sha256(text + (folder / _METADATA).read_bytes()).hexdigest()


def _reason(error: BaseException) -> str:
    """Return an error's cause in a line; that of torch's own kind is inside it."""
    if isinstance(error, dcp.api.CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:300]}"


def read_state(run: RunState, folder: Path) -> None:
    """Load the state in place; every rank calls it, and their number may be another."""
    try:
        facts = _read_facts(folder)
        state = _tensors_of(run)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            alone = not dist.is_initialized()
            dcp.load(state, storage_reader=_Reader(folder), planner=_Planner(), no_dist=alone)
        weights, moments = state["weights"], state["optimizer"]
        set_state_dict(
            run.network,
            run.optimizer,
            model_state_dict=weights,
            optim_state_dict=moments,
            options=_OPTIONS,
        )
    except torch.OutOfMemoryError:
        raise
    except (dcp.api.CheckpointException, Exception) as error:  # torch has no kind for damage
        raise ValueError(
            f"The state to go on from, {str(folder)!r}, cannot be read ({_reason(error)}). Restore "
            f"it, or start anew in another output_dir, with init_from={str(folder.parent)!r} to "
            "keep what was learnt."
        ) from error
    run.average.weights.update(state.get("average", {}))
    run.step, run.tokens_seen = facts["step"], facts["tokens"]
    run.seconds, run.history = facts["seconds"], facts["history"]


def _read_facts(folder: Path) -> dict[str, Any]:
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    kinds = {"step": int, "tokens": int, "seconds": int | float, "history": list}
    for name, kind in kinds.items():
        if not isinstance(facts[name], kind):
            raise TypeError(f"{_FACTS}: {name} is {facts[name]!r}")
    digest = facts.pop("digest", None)  # none: by an earlier version
    if unknown := sorted(facts.keys() - kinds):
        raise ValueError(f"{_FACTS}: {', '.join(unknown)} are not known")
    if digest is not None and digest != _digest(facts, folder):
        raise ValueError(f"{_FACTS} or {_METADATA} is not as it was written")
    return facts
