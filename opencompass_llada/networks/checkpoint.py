"""Finding, checking and loading a checkpoint of a native network in its published format.

Everything that can be known from config.json and the safetensors headers is checked before a
weight is read. Nothing executes remote code.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from opencompass_llada.networks.attention import find_kernel
from opencompass_llada.networks.attention_pattern import AttentionPattern
from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.experts import split_merged
from opencompass_llada.networks.transformer import NETWORKS, OTHER_TYPES, BidirectionalNetwork
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.shared_weights import load_shared
from opencompass_llada.weight_files import (
    SMALL_FILES,
    CheckpointError,
    compare_shapes,
    list_some,
    list_weight_files,
    read_stored_shapes,
)

logger = logging.getLogger(__name__)

FILES = (*SMALL_FILES, "*.safetensors")


def locate_checkpoint(path: str | Path, files: Sequence[str] = FILES) -> Path:
    """Return the local folder of a checkpoint; a hub id's files are downloaded by patterns."""
    folder = find_folder(str(path), files, f"Checkpoint {str(path)!r}")
    if Path(path).expanduser().is_dir() and not (folder / "config.json").is_file():
        for place in (folder, folder / "adapter"):
            if (place / "adapter_config.json").is_file():
                raise CheckpointError(
                    f"Checkpoint folder {str(path)!r} holds an adapter and no whole checkpoint. "
                    "Give the checkpoint that it was trained over as path, and "
                    f"peft_path={str(place)!r}."
                )
        raise CheckpointError(
            f"Checkpoint folder {str(path)!r} has no config.json. Give the folder that holds "
            "config.json and the .safetensors files."
        )
    return folder


def find_folder(path: str, files: Sequence[str], named: str, revision: str | None = None) -> Path:
    """Return a folder, or where a hub id's files are downloaded to; errors call it ``named``."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_id(path):
        raise CheckpointError(
            f"{named} is neither an existing folder nor a hub id 'organisation/name'. "
            "Correct the path, or give a hub id such as 'GSAI-ML/LLaDA-8B-Base'."
        )
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    try:
        return Path(snapshot_download(path, allow_patterns=list(files), **options))
    except Exception as error:  # any network, cache or hub error ends in the same remedy
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{named} is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}: {reason}). Download it where there is a network "
            f"(hf download {path}) and give the folder as path, or check the name."
        ) from error


def is_hub_id(path: str) -> bool:
    """Tell whether a path that is no folder reads as ``organisation/name``."""
    return path.count("/") == 1 and not path.startswith((".", "/", "~"))


def read_model_config(path: str | Path, mask_token_id: int | None = None) -> dict[str, Any]:
    """Read the config.json of a folder or a hub id; a CheckpointError says what is wrong.

    The mask's id is that of config.json, else the one given; the ``model_type`` is the name here
    where published files call a native network otherwise.
    """
    file = locate_checkpoint(path, files=["config.json"]) / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"Checkpoint {str(path)!r} has no config.json on the hub. Check the name."
        )
    fields = read_json_object(file)
    if mask_token_id is not None and fields.get("mask_token_id") is None:
        fields["mask_token_id"] = mask_token_id
    known_as, others = [str(fields.get("model_type"))], fields.get("architectures")
    if known_as[0] in NETWORKS and isinstance(others, list):  # LLaDA-MoE's may say LLaDA's
        known_as += map(str, others)
    if native := [OTHER_TYPES[name] for name in known_as if name in OTHER_TYPES]:
        fields["model_type"] = native[0]
    return fields


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8 or brackets without end
        raise CheckpointError(f"{file} is not valid JSON ({error}). Fetch it again.") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}).") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{file} holds no JSON object. Fetch it again.")
    return fields


def refuse_differences(differences: str, source: str) -> None:
    """Refuse a checkpoint whose tensors differ from the network's; see `list_differences`."""
    if differences:
        raise CheckpointError(
            f"Checkpoint {source}: its tensors do not fit its config.json; {differences}. "
            "Download it again, or give the folder whose config.json belongs to these weights."
        )


def refuse_non_finite(tensors: Iterable[tuple[str, torch.Tensor]], source: str) -> None:
    """Refuse weights with a NaN or an infinity; each is read once, in the dtype of its use."""
    odd = [
        f"{name} ({tensor.dtype})"
        for name, tensor in tensors
        if tensor.numel() and not bool(torch.stack(torch.aminmax(tensor)).isfinite().all())
    ]
    if odd:
        raise CheckpointError(
            f"Checkpoint {source}: there is a NaN or an infinity in {list_some(odd)}. "
            "float16 holds nothing above 65,504: load it in bfloat16 or float32. If that does not "
            "help, the files are damaged; download them again."
        )


def read_config(
    network: type[BidirectionalNetwork], fields: Mapping[str, Any]
) -> BidirectionalConfig:
    """Check the fields of a config.json for a network and return them as its configuration."""
    own = {name: value for name, value in fields.items() if name != "auto_map"}
    return cast(BidirectionalConfig, network.config_class.from_dict(own))


def open_checkpoint(
    path: str | Path,
    *,
    rope_scaling: RopeScaling | None = None,
    attention_backend: str = "auto",
    attention_pattern: AttentionPattern | None = None,
    fields: Mapping[str, Any] | None = None,
) -> tuple[BidirectionalNetwork, list[Path]]:
    """Return a checked network on the meta device, and the files that hold its weights.

    ``fields`` are config.json's where it has been read (`read_model_config`).
    """
    folder = locate_checkpoint(path)
    fields = read_model_config(folder) if fields is None else fields
    network = NETWORKS.get(str(fields.get("model_type")))
    if network is None:
        raise CheckpointError(
            f"Checkpoint {str(path)!r} has model_type={fields.get('model_type')!r} in its "
            f"config.json, those of the native networks are "
            f"{' and '.join(map(repr, NETWORKS))}. Give a checkpoint of one of them."
        )
    config = read_config(network, fields)
    shards = list_weight_files(folder)
    stored = split_merged(read_stored_shapes(shards), config.experts)
    if (number := config.shape.num_layers) > len(stored):  # before so many are made
        raise CheckpointError(
            f"config.json: {config.sizes['num_layers']}={number}, and the files of weights hold "
            f"{len(stored)} tensors in all. Take config.json from where the weights come from."
        )
    with torch.device("meta"):
        model = network(config, rope_scaling, attention_backend, attention_pattern)
    refuse_differences(compare_shapes(stored, model.state_dict(), "config.json"), str(path))
    return model, shards


def load_checkpoint(
    path: str | Path,
    *,
    rope_scaling: RopeScaling | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    attention_backend: str = "auto",
    attention_pattern: AttentionPattern | None = None,
    fields: Mapping[str, Any] | None = None,
) -> BidirectionalNetwork:
    """Load a checkpoint in the published format of one of the native networks, for evaluation.

    ``path`` is a folder or a hub id such as ``GSAI-ML/LLaDA-8B-Base``, ``dtype`` that of the
    weights in memory, ``attention_backend`` one of `networks.attention.ATTENTION_BACKENDS`. What is
    wrong with the checkpoint is a CheckpointError, another option that does not fit a ValueError.
    """
    find_kernel(attention_backend, device)
    model, shards = open_checkpoint(
        path,
        rope_scaling=rope_scaling,
        attention_backend=attention_backend,
        attention_pattern=attention_pattern,
        fields=fields,
    )

    buffers = {name for name, _ in model.named_buffers()}

    def load() -> dict[str, Tensor]:
        loaded: dict[str, Tensor] = {}
        for shard in shards:
            # On a CPU these lie in the file, mapped into memory. In its own dtype they stay there,
            # so that the processes of a machine share them; any copy lets go of the file.
            stored = split_merged(load_file(shard, device=str(device)), model.config.experts)
            tensors = {name: tensor.to(dtype) for name, tensor in stored.items()}
            refuse_non_finite(tensors.items(), str(path))
            # Parameters, not tensors: where weights are packed, all networks have the packed ones.
            # A buffer (the experts' bias) stays a tensor: a parameter would take its place.
            loaded |= {
                name: own if name in buffers else nn.Parameter(own, requires_grad=False)
                for name, own in tensors.items()
            }
        return loaded

    form = (type(model), dtype, str(device))
    model.load_state_dict(load_shared(shards, form, load), strict=False, assign=True)
    logger.info("Loaded %s as %s on %s. %s", path, dtype, device, model.resolved_rope.describe())
    return model.eval().requires_grad_(False)
