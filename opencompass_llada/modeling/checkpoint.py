"""Finding, checking and loading a checkpoint of a native network in its published format.

Everything that can be known from config.json and the safetensors headers is checked before a
weight is read. Hub ids are downloaded by huggingface_hub; nothing executes remote code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from opencompass_llada.logs import get_logger
from opencompass_llada.modeling.attention import check_attention_backend
from opencompass_llada.modeling.bidirectional import BidirectionalNetwork
from opencompass_llada.modeling.dream import DreamForMaskedDiffusion
from opencompass_llada.modeling.llada import LLaDAForMaskedDiffusion
from opencompass_llada.rope_scaling import RopeScaling

logger = get_logger(__name__)

NETWORKS: dict[str, type[BidirectionalNetwork]] = {
    network.config_class.model_type: network
    for network in (LLaDAForMaskedDiffusion, DreamForMaskedDiffusion)
}
"""The native networks by the ``model_type`` of config.json."""

_LISTED = 6  # names shown in an error before "and N more"
_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what to do."""


def locate_checkpoint(path: str | Path, files: Sequence[str] = _FILES) -> Path:
    """Return the local folder of a checkpoint, downloading a hub id if need be.

    Args:
        path: A folder, or a hub id such as ``GSAI-ML/LLaDA-8B-Base``.
        files: Patterns of the files to download.

    Returns:
        A folder that holds config.json.

    Raises:
        CheckpointError: If there is no such folder and no such hub id can be fetched.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"Checkpoint folder {str(path)!r} has no config.json. Give the folder that holds "
                "config.json and the .safetensors files."
            )
        return folder
    text = str(path)
    if not is_hub_id(text):
        raise CheckpointError(
            f"Checkpoint {text!r} is neither an existing folder nor a hub id 'organisation/name'. "
            "Correct the path, or give a hub id such as 'GSAI-ML/LLaDA-8B-Base'."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=list(files)))
    except Exception as error:  # any network, cache or hub error ends in the same remedy
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Checkpoint {text!r} is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}: {reason}). Download it where there is "
            "a network (hf download " + text + ") and give the folder as path, or check the name."
        ) from error


def is_hub_id(path: str) -> bool:
    """Tell whether a path that is no folder reads as ``organisation/name``."""
    return path.count("/") == 1 and not path.startswith((".", "/", "~"))


def read_model_config(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's config.json.

    Args:
        path: A folder or a hub id.

    Returns:
        The parsed config.json.

    Raises:
        CheckpointError: If the path is wrong or the file is no JSON object.
    """
    file = locate_checkpoint(path, files=["config.json"]) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"Checkpoint {str(path)!r} has no config.json on the hub. Check the name."
        ) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}). Fetch it again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object. Fetch it again.")
    return config


def find_shards(folder: Path) -> list[Path]:
    """List a checkpoint's weight files.

    Args:
        folder: A local folder.

    Raises:
        CheckpointError: If there are none, or the index names files that are missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"Checkpoint {folder}: shards named by {index.name} are missing: "
                f"{list_some(missing)}. Download the checkpoint again; it is incomplete."
            )
        return [folder / name for name in names]
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(
            f"Checkpoint {folder} holds no .safetensors file. Convert other formats with "
            "safetensors, or download the checkpoint again."
        )
    return shards


def list_some(names: list[str]) -> str:
    """Join names for a message, the first few of many."""
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"


def read_stored_shapes(shards: list[Path]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by name, from the files' headers.

    Args:
        shards: Safetensors files.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (safe_open is no dict)
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except Exception as error:  # safetensors raises its own, undocumented type
            raise CheckpointError(
                f"{shard} is not a readable safetensors file ({error}). Download it again."
            ) from error
    return shapes


def check_tensors(
    expected: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]], source: str
) -> None:
    """Compare the tensors that the network needs with those that the files hold.

    Args:
        expected: Name to shape, from the network.
        stored: Name to shape, from the files.
        source: Where the files are, for the message.

    Raises:
        CheckpointError: Listing missing, extra and wrongly shaped tensors.
    """
    missing = sorted(expected.keys() - stored.keys())
    extra = sorted(stored.keys() - expected.keys())
    wrong = [
        f"{name} is {list(stored[name])}, config.json asks for {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in stored and stored[name] != shape
    ]
    problems = [
        f"{len(found)} {kind}: {list_some(found)}"
        for kind, found in (("missing", missing), ("extra", extra), ("wrongly shaped", wrong))
        if found
    ]
    if problems:
        raise CheckpointError(
            f"Checkpoint {source}: its tensors do not fit its config.json; {'; '.join(problems)}. "
            "Download it again, or give the folder whose config.json belongs to these weights."
        )


def open_checkpoint(
    path: str | Path,
    *,
    rope_scaling: RopeScaling | None = None,
    attention_backend: str = "auto",
) -> tuple[BidirectionalNetwork, list[Path]]:
    """Check a checkpoint by its config.json and safetensors headers; no weight is read.

    Args:
        path: A folder or a hub id.
        rope_scaling: Scaling to apply; None for none.
        attention_backend: See modeling.attention.

    Returns:
        The network without weights (on the meta device), and the files that hold them.

    Raises:
        CheckpointError: If the path, the config.json, the model type or the tensors are wrong.
        ValueError: If the scaling does not fit.
    """
    folder = locate_checkpoint(path)
    fields = read_model_config(folder)
    network = NETWORKS.get(str(fields.get("model_type")))
    if network is None:
        raise CheckpointError(
            f"Checkpoint {str(path)!r} has model_type={fields.get('model_type')!r} in its "
            f"config.json, those of the native networks are "
            f"{' and '.join(map(repr, NETWORKS))}. Give a checkpoint of one of them."
        )
    config = network.config_class.from_dict({k: v for k, v in fields.items() if k != "auto_map"})
    with torch.device("meta"):
        model = network(config, rope_scaling, attention_backend)
    shards = find_shards(folder)
    check_tensors(
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        read_stored_shapes(shards),
        str(path),
    )
    return model, shards


def load_checkpoint(
    path: str | Path,
    *,
    rope_scaling: RopeScaling | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    attention_backend: str = "auto",
) -> BidirectionalNetwork:
    """Load a checkpoint in the published format of one of the native networks.

    Args:
        path: A folder or a hub id.
        rope_scaling: Scaling to apply; None for none.
        dtype: dtype of the weights in memory.
        device: Where the model goes.
        attention_backend: See modeling.attention.

    Returns:
        The model in evaluation mode, gradients off.

    Raises:
        CheckpointError: If the path, the config.json, the model type or the tensors are wrong.
        ValueError: If the scaling or the attention backend does not fit.
    """
    check_attention_backend(attention_backend, device)
    model, shards = open_checkpoint(
        path, rope_scaling=rope_scaling, attention_backend=attention_backend
    )
    for shard in shards:
        tensors = load_file(shard, device=str(device))
        model.load_state_dict(
            {name: tensor.to(dtype) for name, tensor in tensors.items()}, strict=False, assign=True
        )
    logger.info("Loaded %s as %s on %s. %s", path, dtype, device, model.resolved_rope.describe())
    return model.eval().requires_grad_(False)
