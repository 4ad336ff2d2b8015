"""Finding, checking and loading a checkpoint of a native network in its published format.

Everything that can be known from config.json and the safetensors headers is checked before a
weight is read. Hub ids are downloaded by huggingface_hub; nothing executes remote code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from opencompass_llada.logs import get_logger
from opencompass_llada.networks.attention import find_kernel
from opencompass_llada.networks.attention_pattern import FULL, AttentionPattern
from opencompass_llada.networks.transformer import NETWORKS, BidirectionalNetwork
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.weight_files import (
    SMALL_FILES,
    CheckpointError,
    list_some,
    list_weight_files,
    read_stored_shapes,
)

logger = get_logger(__name__)

FILES = (*SMALL_FILES, "*.safetensors")


def locate_checkpoint(path: str | Path, files: Sequence[str] = FILES) -> Path:
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
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8 or brackets without end
        raise CheckpointError(f"{file} is not valid JSON ({error}). Fetch it again.") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}).") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object. Fetch it again.")
    return config


def check_num_layers(fields: Mapping[str, Any], num_tensors: int) -> None:
    """Refuse more layers than there are tensors, before a network of that many is built.

    Args:
        fields: Of config.json.
        num_tensors: In the files of weights.

    Raises:
        CheckpointError: With both numbers.
    """
    for name in ("n_layers", "num_hidden_layers"):
        number = fields.get(name)
        if isinstance(number, int) and number > num_tensors:
            raise CheckpointError(
                f"config.json: {name}={number}, and the files of weights hold {num_tensors} "
                "tensors in all. Take config.json from where the weights come from."
            )


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


def refuse_non_finite(tensors: Iterable[tuple[str, torch.Tensor]], source: str) -> None:
    """Refuse weights with a NaN or an infinity, which would make every answer worthless.

    Reads each tensor once and makes no copy of it.

    Args:
        tensors: Name and weights, in the dtype that they will be used in.
        source: Where they come from, for the message.

    Raises:
        CheckpointError: Naming the tensors.
    """
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


def open_checkpoint(
    path: str | Path,
    *,
    rope_scaling: RopeScaling | None = None,
    attention_backend: str = "auto",
    attention_pattern: AttentionPattern = FULL,
) -> tuple[BidirectionalNetwork, list[Path]]:
    """Check a checkpoint by its config.json and safetensors headers; no weight is read.

    Args:
        path: A folder or a hub id.
        rope_scaling: Scaling to apply; None for none.
        attention_backend: See networks.attention.
        attention_pattern: Who sees whom, as the checkpoint's family states it.

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
    shards = list_weight_files(folder)
    stored = read_stored_shapes(shards)
    check_num_layers(fields, len(stored))
    with torch.device("meta"):
        model = network(config, rope_scaling, attention_backend, attention_pattern)
    check_tensors(
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        stored,
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
    attention_pattern: AttentionPattern = FULL,
) -> BidirectionalNetwork:
    """Load a checkpoint in the published format of one of the native networks.

    Args:
        path: A folder or a hub id.
        rope_scaling: Scaling to apply; None for none.
        dtype: dtype of the weights in memory.
        device: Where the model goes.
        attention_backend: See networks.attention.
        attention_pattern: Who sees whom, as the checkpoint's family states it.

    Returns:
        The model in evaluation mode, gradients off.

    Raises:
        CheckpointError: If the path, the config.json, the model type or the tensors are wrong.
        ValueError: If the scaling or the attention backend does not fit.
    """
    find_kernel(attention_backend, device)
    model, shards = open_checkpoint(
        path,
        rope_scaling=rope_scaling,
        attention_backend=attention_backend,
        attention_pattern=attention_pattern,
    )
    for shard in shards:
        stored = load_file(shard, device=str(device))
        tensors = {name: tensor.to(dtype) for name, tensor in stored.items()}
        refuse_non_finite(tensors.items(), str(path))
        model.load_state_dict(tensors, strict=False, assign=True)
    logger.info("Loaded %s as %s on %s. %s", path, dtype, device, model.resolved_rope.describe())
    return model.eval().requires_grad_(False)
