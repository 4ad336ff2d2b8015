"""Merges LoRA adapters in peft's format into a loaded network, checked before weights load.

What an adapter needs, peft works out on a network without weights; its file is compared with that.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from opencompass_llada.networks.causal import build_causal
from opencompass_llada.networks.checkpoint import (
    find_folder,
    open_checkpoint,
    read_json_object,
    read_model_config,
)
from opencompass_llada.networks.transformer import NETWORKS
from opencompass_llada.options import check_value, reject_unknown
from opencompass_llada.weight_files import (
    CheckpointError,
    compare_shapes,
    list_some,
    read_stored_shapes,
)

logger = logging.getLogger(__name__)

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
#: Metadata of the weights' file that holds the config.json that an adapter was trained with.
METADATA_KEY = "config.json"
#: Initialisations that change the base weights, which an adapter's own file does not hold.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_OPTIONS = {"revision": str, "subfolder": str, "is_trainable": bool}


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """A folder or hub id, and the folder below it that holds the adapter's files."""

    path: str
    revision: str | None = None
    subfolder: str = ""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A folder that holds an adapter, and its configuration, which fit a network."""

    folder: Path
    config: Mapping[str, Any]

    def make_config(self) -> Any:
        """Return peft's configuration for the network."""
        from peft import LoraConfig

        lora = LoraConfig.from_pretrained(str(self.folder))
        # A task type makes peft wrap generation methods, which native networks do not have.
        lora.task_type = None
        lora.inference_mode = True
        return lora


def parse_adapter(peft_path: Any, peft_kwargs: Any) -> AdapterSource | None:
    """Return where the adapter is, from the wrapper's keywords; None for no adapter.

    ``peft_kwargs`` are ``revision`` and ``subfolder``; ``is_trainable`` must be False if given.
    """
    given = dict(peft_kwargs or {})
    reject_unknown("peft_kwargs option", given, _OPTIONS)
    for name, kind in _OPTIONS.items():
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


def find_adapter(source: AdapterSource) -> Path:
    """Return an adapter's folder, downloaded from the hub where it is an id."""
    prefix = f"{source.subfolder}/" if source.subfolder else ""
    names = [f"{prefix}{name}" for name in (CONFIG_NAME, WEIGHTS_NAME, "config.json")]
    found = find_folder(source.path, names, f"peft_path={source.path!r}", source.revision)
    return found / source.subfolder


def open_adapter(source: AdapterSource, path: str | Path) -> Adapter:
    """Find an adapter, or download it, and check that it fits the checkpoint of a folder or hub id.

    Files that are missing, unreadable or do not fit are a CheckpointError.
    """
    folder = find_adapter(source)
    config = read_json_object(_file_in(folder, CONFIG_NAME))
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
    shapes = read_stored_shapes([_file_in(folder, WEIGHTS_NAME)])
    adapter = Adapter(folder=folder, config=config)
    is_native = str(read_model_config(path).get("model_type")) in NETWORKS
    network = open_checkpoint(path)[0] if is_native else build_causal(path)
    _check_targets(adapter, network)
    _check_shapes(adapter, shapes, network)
    return adapter


def _file_in(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise CheckpointError(
            f"peft_path: the folder {folder} has no {name}. Give the folder that peft's "
            "save_pretrained wrote, with safetensors, or download it again."
        )
    return folder / name


def _check_shapes(
    adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], network: nn.Module
) -> None:
    """Compare an adapter's tensors with those of peft's layers in a network on the meta device."""
    from peft import PeftModel, get_peft_model_state_dict

    lora = adapter.make_config()
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
    differences = compare_shapes(shapes, allowed, "the network", needed)
    if differences:
        raise CheckpointError(
            f"Adapter {adapter.folder} does not fit the network: {differences}. It was "
            "trained on a model of another shape, or is torn; give the checkpoint that it was "
            "trained on as path, or download it again."
        )


def merge_adapter(adapter: Adapter, network: nn.Module) -> None:
    """Add an adapter that was checked to a loaded network's weights, in place.

    Products are computed in float32 and added in the dtype of the weights, whose roundings in
    bfloat16 tell a merged model from an unmerged one. ``modules_to_save`` replace the network's.
    """
    from peft import PeftModel

    dtypes = {name: weights.dtype for name, weights in network.named_parameters()}
    device = next(network.parameters()).device
    wrapped = PeftModel.from_pretrained(
        network, str(adapter.folder), config=adapter.make_config(), torch_device=str(device)
    )
    merged = wrapped.merge_and_unload(safe_merge=True)
    assert merged is network, "peft replaces layers inside the network that it is given"
    for name, weights in network.named_parameters():
        weights.data = weights.data.to(dtypes[name])  # peft keeps what was trained in float32
    network.eval().requires_grad_(False)
    told = {name: adapter.config.get(name) for name in ("r", "target_modules", "modules_to_save")}
    logger.info("Merged the LoRA adapter %s: %s", adapter.folder, told)


def _check_targets(adapter: Adapter, network: nn.Module) -> None:
    """Refuse listed modules that the network has nowhere; peft refuses only if all are missing."""
    known = [f".{name}" for name, _ in network.named_modules()]
    lists = (adapter.config.get(key) for key in ("target_modules", "modules_to_save"))
    wanted = [name for given in lists if isinstance(given, list) for name in given]
    lacking = [name for name in wanted if not any(k.endswith(f".{name}") for k in known)]
    if lacking:
        raise CheckpointError(
            f"Adapter {adapter.folder} trains modules that the network lacks: "
            f"{list_some(sorted(lacking))}. It was trained on another architecture; give the "
            "checkpoint that it was trained on as path."
        )
