"""Writes a checkpoint, all files or none, and reads what a run goes on from exactly.

Its folder is in its family's published format (LLaDA, Llama), training.json says how it was made,
and torch.distributed.checkpoint writes ``state/``, whole or sharded alike. Rows are a function of
their number and need no state.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import json
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import transformers
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.optim import Optimizer
from transformers import PreTrainedModel

import opencompass_llada
from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.adapters import ADAPTER, adapter_tensors, write_adapter
from opencompass_llada.finetune.average import MovingAverage
from opencompass_llada.finetune.checkpoints import STATE, CheckpointIndex, write_atomically
from opencompass_llada.finetune.network import StoredTensors, published_tensors
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.published import (
    Start,
    config_fields,
    write_json,
    write_small_files,
)
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.resources import NetworkShape
from opencompass_llada.finetune.rows import TrainingData
from opencompass_llada.finetune.safe_states import METADATA, SafeReader
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.networks import BidirectionalNetwork, locate_checkpoint
from opencompass_llada.runs.hashes import hash_checkpoint, hash_values
from opencompass_llada.runs.provenance import find_commit

RECORD_FILE = "training.json"
#: Bytes of one file of weights, as the hub's checkpoints are cut.
SHARD_BYTES = 5 * 10**9


class RunState:
    """What the trainer changes, and logs and checkpoints read."""

    recipe: Recipe
    ranks: Ranks
    index: CheckpointIndex
    tokens: TrainingTokenizer
    #: Small files of the checkpoint that the run starts from.
    start: Start
    data: TrainingData
    shape: NetworkShape
    model: PreTrainedModel
    #: Weights of the checkpoint that the run starts from, where they are read again at its end.
    stored: StoredTensors
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


def write_checkpoint(run: RunState, folder: Path, *, with_state: bool) -> None:
    """Write a checkpoint, whole or not at all, over an earlier one; every rank calls it."""
    recipe, ranks = run.recipe, run.ranks
    lora, dtype = recipe.lora, getattr(torch, recipe.dtype)
    with write_atomically(folder, ranks) as part:
        with run.average.applied():
            if lora is None or lora.save != "adapter":
                tensors = published_tensors(run.model, lora, dtype, run.stored)
                if ranks.is_main:
                    write_weights(part, tensors)
                    write_small_files(part, run.model, recipe, run.tokens.tokenizer, run.start)
                else:  # a sharded tensor is made whole by all ranks
                    collections.deque(tensors, maxlen=0)
            if lora is not None and lora.save != "merged" and recipe.init_from is not None:
                own = adapter_tensors(run.model, dtype)
                if ranks.is_main:
                    network = cast(BidirectionalNetwork, run.model)
                    fields = config_fields(run.model, recipe, run.start)
                    write_adapter(part / ADAPTER, network, lora, recipe.init_from, own, fields)
        if ranks.is_main:
            write_json(part / RECORD_FILE, describe_run(run))
        if with_state:
            _write_state(run, part / STATE)


def write_weights(
    folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write tensors, taken one after another, into one file, or several with an index.

    A file has ``shard_bytes`` at most, but for a larger tensor.
    """
    shards: list[dict[str, int]] = []
    pending: dict[str, torch.Tensor] = {}

    def flush() -> None:
        save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append({name: value.nbytes for name, value in pending.items()})
        pending.clear()

    for name, value in tensors:
        if pending and sum(v.nbytes for v in pending.values()) + value.nbytes > shard_bytes:
            flush()
        pending[name] = value
    flush()
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{number}").rename(folder / name)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(size for shard in shards for size in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def describe_run(run: RunState) -> dict[str, Any]:
    """Return the resolved recipe, the data, the figures, and the versions."""
    recipe = dataclasses.asdict(run.recipe)
    del recipe["output_dir"], recipe["cache_dir"]  # of this machine
    cuda = run.ranks.device.type == "cuda"
    return {
        "recipe": recipe,
        "made_from": run.index.made_from,
        "text_tokens": run.data.num_tokens,
        "packing": run.data.packing,
        "step": run.step,
        "tokens": run.tokens_seen,
        "seconds": round(run.seconds, 1),
        "history": run.history,
        "date": time.strftime("%Y-%m-%d"),
        "commit": find_commit(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "processes": run.ranks.world_size,
        "versions": {
            "opencompass_llada": opencompass_llada.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def describe_inputs(
    recipe: Recipe, tokens: TrainingTokenizer, data: TrainingData
) -> dict[str, Any]:
    """Return digests of all that a recipe names and does not hold: start, tokenizer and text."""
    start = None
    if recipe.init_from is not None:
        start = hash_checkpoint(locate_checkpoint(resolve_path(recipe.init_from)), whole=True)
    vocabulary, held_out = tokens.tokenizer.get_vocab(), data.held_out
    return {
        "init_from": start,
        "tokenizer": hash_values([vocabulary, tokens.end_token_id, tokens.mask_token_id]),
        "text": [{"tokens": text.digest, "files": text.files} for text in data.texts],
        "evaluation": held_out and {"tokens": held_out.digest, "files": held_out.files},
    }


_OPTIONS = states.StateDictOptions(ignore_frozen_params=True, strict=False)
_FACTS_FILE = "facts.json"
#: What a state holds beside tensors, by its type.
_FACTS = {"step": int, "tokens": int, "seconds": int | float, "history": list}


class _Planner(DefaultLoadPlanner):
    """Loads numbers, text and containers of them; nothing that runs code."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)  # raises for anything else; what follows would run it
        value.seek(0)
        super().load_bytes(read_item, value)


def _tensors_of(run: RunState) -> dict[str, Any]:
    """Return what is trained, without frozen weights."""
    weights, moments = states.get_state_dict(run.network, run.optimizer, options=_OPTIONS)
    average = {"average": dict(run.average.weights)} if run.average.weights else {}
    return {"weights": weights, "optimizer": moments, **average}


def _write_state(run: RunState, folder: Path) -> None:
    """Write the state into a new folder; every rank calls it."""
    with warnings.catch_warnings():  # of saving from one process, which is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            dcp.save(_tensors_of(run), checkpoint_id=folder, no_dist=not dist.is_initialized())
        except dcp.api.CheckpointException as error:  # no Exception: nobody else would catch it
            raise OSError(_reason(error)) from error
    if run.ranks.is_main:
        values = (run.step, run.tokens_seen, run.seconds, run.history)
        facts = dict(zip(_FACTS, values, strict=True))
        content = {**facts, "digest": _digest(facts, folder)}
        (folder / _FACTS_FILE).write_text(json.dumps(content), encoding="utf-8")


def _digest(facts: dict[str, Any], folder: Path) -> str:
    """Return a digest of the facts and of the list of tensors, whose data have their own."""
    text = json.dumps(facts, sort_keys=True).encode()
    return hashlib.sha256(text + (folder / METADATA).read_bytes()).hexdigest()


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
            dcp.load(state, storage_reader=SafeReader(folder), planner=_Planner(), no_dist=alone)
        states.set_state_dict(
            run.network,
            run.optimizer,
            model_state_dict=state["weights"],
            optim_state_dict=state["optimizer"],
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
    run.step, run.tokens_seen, run.seconds, run.history = (facts[name] for name in _FACTS)


def _read_facts(folder: Path) -> dict[str, Any]:
    facts = json.loads((folder / _FACTS_FILE).read_text(encoding="utf-8"))
    for name, kind in _FACTS.items():
        if not isinstance(facts[name], kind):
            raise TypeError(f"{_FACTS_FILE}: {name} is {facts[name]!r}")
    digest = facts.pop("digest", None)  # none: by an earlier version
    if unknown := sorted(facts.keys() - _FACTS):
        raise ValueError(f"{_FACTS_FILE}: {', '.join(unknown)} are not known")
    if digest is not None and digest != _digest(facts, folder):
        raise ValueError(f"{_FACTS_FILE} or {METADATA} is not as it was written")
    return facts
