"""LoRA adapters in peft's format: checked without weights, then merged into a loaded network.

Works for every family alike, since peft goes by module names. What an adapter needs is worked out
by peft itself on a network without weights and compared with the adapter's file, so that nothing
is found out after the weights have loaded.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from opencompass_llada.logs import get_logger
from opencompass_llada.networks.causal import build_causal
from opencompass_llada.networks.checkpoint import (
    is_hub_id,
    open_checkpoint,
    read_model_config,
)
from opencompass_llada.networks.transformer import NETWORKS
from opencompass_llada.options import check_value, reject_unknown
from opencompass_llada.weight_files import CheckpointError, list_some, read_stored_shapes

logger = get_logger(__name__)

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
#: Initialisations that change the base weights, which an adapter's own file does not hold.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_OPTIONS = ("revision", "subfolder", "is_trainable")


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """Where an adapter is, as the wrapper's keywords say."""

    path: str
    """Folder or hub id."""
    revision: str | None = None
    """Revision of a hub id."""
    subfolder: str = ""
    """Folder below the path that holds the files."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter's files, read as far as its weights."""

    folder: Path
    """Holds `CONFIG_NAME` and `WEIGHTS_NAME`."""
    config: Mapping[str, Any]
    """The parsed adapter_config.json."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every tensor by its name in the file."""


def parse_adapter(peft_path: Any, peft_kwargs: Any) -> AdapterSource | None:
    """Return where the adapter is, from the wrapper's keywords.

    Args:
        peft_path: Folder or hub id; None for no adapter.
        peft_kwargs: ``revision`` and ``subfolder``; ``is_trainable`` must be False if given.

    Returns:
        The source; None for no adapter.

    Raises:
        ValueError: If an option is unknown or does not fit, or peft is not installed.
    """
    given = dict(peft_kwargs or {})
    reject_unknown("peft_kwargs option", given, _OPTIONS)
    for name, kind in (("revision", str), ("subfolder", str), ("is_trainable", bool)):
        check_value(f"peft_kwargs[{name!r}]", given.get(name), kind | None)
    if peft_path is None:
        if given:
            raise ValueError(f"peft_kwargs={given} has no effect without peft_path; give both")
        return None
    if given.pop("is_trainable", False):
        raise ValueError("peft_kwargs['is_trainable']=True: nothing is trained here; leave it out")
    if importlib.util.find_spec("peft") is None:
        raise ValueError(
            f"peft_path={str(peft_path)!r} needs the package peft, which is not installed: "
            "pip install 'opencompass-llada[peft]', or pip install peft"
        )
    return AdapterSource(path=str(peft_path), **{k: v for k, v in given.items() if v is not None})


def open_adapter(source: AdapterSource) -> Adapter:
    """Find an adapter and read its configuration and the header of its weights.

    Args:
        source: Where it is; a hub id is downloaded.

    Raises:
        CheckpointError: If a file is missing or unreadable, or the adapter is no plain LoRA.
    """
    folder = _locate(source)
    config = _read_config(folder)
    kind = str(config.get("peft_type"))
    if kind.upper() != "LORA":
        raise CheckpointError(
            f"Adapter {source.path!r} has peft_type={kind!r} in its {CONFIG_NAME}; only LORA is "
            "supported. Merge it with peft yourself (merge_and_unload) and give the merged "
            "checkpoint as path."
        )
    start = str(config.get("init_lora_weights", ""))
    if start.lower().startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"Adapter {source.path!r} was trained with init_lora_weights={start!r}, which changes "
            "the base weights too. Convert it to a plain LoRA with peft's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)."
        )
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise CheckpointError(
            f"Adapter folder {folder} has no {WEIGHTS_NAME}. Save the adapter with peft's "
            "save_pretrained (safetensors), or download it again."
        )
    return Adapter(folder=folder, config=config, shapes=read_stored_shapes([weights]))


def check_adapter(adapter: Adapter, network: nn.Module) -> None:
    """Check that an adapter fits a network; no weight of either is read.

    Args:
        adapter: From `open_adapter`.
        network: Of the same configuration as the one to merge into, on the meta device. It is
            used up: peft's layers stay in it.

    Raises:
        CheckpointError: Naming target modules that the network lacks, and missing, extra and
            wrongly shaped tensors.
    """
    from peft import PeftModel, get_peft_model_state_dict

    _check_targets(adapter, network)
    lora = _lora_config(adapter)
    lora.init_lora_weights = True  # some initialisations compute with weights, which are not here
    lora.base_model_name_or_path = None  # or peft asks the hub for the base model's vocabulary
    try:
        wrapped = PeftModel(network, lora, low_cpu_mem_usage=True)
    except Exception as error:  # peft raises many kinds; all mean that the two do not go together
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Adapter {adapter.folder} does not fit the network ({type(error).__name__}: {reason})."
            " Give the checkpoint that it was trained on as path."
        ) from error
    needed = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    allowed = get_peft_model_state_dict(wrapped, save_embedding_layers="auto")
    problems = list(_compare(needed, allowed, adapter.shapes))
    if problems:
        raise CheckpointError(
            f"Adapter {adapter.folder} does not fit the network: {'; '.join(problems)}. It was "
            "trained on a model of another shape, or is torn; give the checkpoint that it was "
            "trained on as path, or download it again."
        )


def build_without_weights(path: str | Path) -> nn.Module:
    """Return a checkpoint's network on the meta device, of whatever family it is.

    Args:
        path: A folder or a hub id.

    Raises:
        CheckpointError: If a file is wrong.
    """
    if str(read_model_config(path).get("model_type")) in NETWORKS:
        return open_checkpoint(path)[0]
    return build_causal(path)


def merge_adapter(adapter: Adapter, network: nn.Module) -> None:
    """Add an adapter to a loaded network's weights, in place.

    The products of the low-rank matrices are computed in float32 and added in the dtype of the
    weights: in bfloat16 a merged model differs from an unmerged one by roundings of the weights.
    Modules that were trained whole (``modules_to_save``) replace the network's.

    Args:
        adapter: Checked by `check_adapter`.
        network: The loaded network; every reference to it stays good.
    """
    from peft import PeftModel

    dtypes = {name: weights.dtype for name, weights in network.named_parameters()}
    device = next(network.parameters()).device
    wrapped = PeftModel.from_pretrained(
        network,
        str(adapter.folder),
        config=_lora_config(adapter),
        torch_device=str(device),
    )
    merged = wrapped.merge_and_unload(safe_merge=True)
    assert merged is network, "peft replaces layers inside the network that it is given"
    for name, weights in network.named_parameters():
        weights.data = weights.data.to(dtypes[name])  # peft keeps what was trained in float32
    network.eval().requires_grad_(False)
    logger.info(
        "Merged the LoRA adapter %s: rank %s, target_modules %s, modules_to_save %s",
        adapter.folder,
        adapter.config.get("r"),
        adapter.config.get("target_modules"),
        adapter.config.get("modules_to_save"),
    )


def _locate(source: AdapterSource) -> Path:
    folder = Path(source.path).expanduser()
    if folder.is_dir():
        return folder / source.subfolder
    if not is_hub_id(source.path):
        raise CheckpointError(
            f"peft_path={source.path!r} is neither an existing folder nor a hub id "
            "'organisation/name'. Correct it."
        )
    from huggingface_hub import snapshot_download

    prefix = f"{source.subfolder}/" if source.subfolder else ""
    names = [f"{prefix}{name}" for name in (CONFIG_NAME, WEIGHTS_NAME)]
    try:
        fetched = snapshot_download(source.path, revision=source.revision, allow_patterns=names)
    except Exception as error:  # any network, cache or hub error ends in the same remedy
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"peft_path={source.path!r} is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}: {reason}). Download it where there is a network (hf download"
            f" {source.path}) and give the folder, or check the name."
        ) from error
    return Path(fetched) / source.subfolder


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_NAME
    if not file.is_file():
        raise CheckpointError(
            f"peft_path {folder} has no {CONFIG_NAME}. Give the folder that peft's "
            "save_pretrained wrote."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}). Fetch it again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object. Fetch it again.")
    return config


def _lora_config(adapter: Adapter) -> Any:
    from peft import LoraConfig

    lora = LoraConfig.from_pretrained(str(adapter.folder))
    # A task type makes peft wrap the network's generation methods, which native ones do not have.
    lora.task_type = None
    lora.inference_mode = True
    return lora


def _check_targets(adapter: Adapter, network: nn.Module) -> None:
    """Refuse listed modules that the network has nowhere; peft refuses only if all are missing."""
    names = [name for name, _ in network.named_modules()]
    wanted: list[str] = []
    for key in ("target_modules", "modules_to_save"):
        given = adapter.config.get(key)
        wanted += given if isinstance(given, list) else []
    lacking = [
        name for name in wanted if not any(f".{known}".endswith(f".{name}") for known in names)
    ]
    if lacking:
        raise CheckpointError(
            f"Adapter {adapter.folder} trains modules that the network lacks: "
            f"{list_some(sorted(lacking))}. It was trained on another architecture; give the "
            "checkpoint that it was trained on as path."
        )


def _compare(
    needed: Mapping[str, torch.Tensor],
    allowed: Mapping[str, torch.Tensor],
    stored: Mapping[str, tuple[int, ...]],
) -> Iterator[str]:
    wrong = [
        f"{name} is {list(shape)}, the network asks for {list(allowed[name].shape)}"
        for name, shape in sorted(stored.items())
        if name in allowed and tuple(allowed[name].shape) != shape
    ]
    missing = sorted(needed.keys() - stored.keys())
    extra = sorted(stored.keys() - allowed.keys())
    for kind, found in (("wrongly shaped", wrong), ("missing", missing), ("extra", extra)):
        if found:
            yield f"{len(found)} {kind}: {list_some(found)}"
