"""Turns other formats of checkpoints into safetensors: pytorch_model.bin, and DCP and FSDP folders.

Weights are read as tensors alone: no pickled code runs. The new folder appears whole or not at all.
"""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from opencompass_llada.files import remove_left_overs, replacing
from opencompass_llada.finetune.safe_states import METADATA, SafeReader
from opencompass_llada.networks import NETWORKS, locate_checkpoint, read_model_config
from opencompass_llada.networks.checkpoint import open_checkpoint, read_config
from opencompass_llada.networks.experts import split_merged
from opencompass_llada.weight_files import (
    INDEX_NAME,
    SINGLE_NAME,
    SMALL_FILES,
    CheckpointError,
    compare_shapes,
    list_some,
)

logger = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]
BIN_NAME, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
#: Bytes of a file of weights; a larger checkpoint is several.
SHARD_BYTES = 5 * 10**9
#: What wrappers of training put into names.
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.", "module.")
#: What beside a checkpoint belongs to its training or to the format that is left.
_LEFT_OUT = ("trainer_state.json", "training_args.json", "*.index.json", "*_results.json")
#: How the names of training's own state begin, beside weights.
_TRAINING = ("optimizer.", "optimizers.", "optim.", "lr_scheduler.", "rng_state.", "dataloader.")
#: Where a language model's names begin, in checkpoints of networks that are not known here.
_LANDMARKS = ("model.embed_tokens.weight", "lm_head.weight", "transformer.wte.weight")


@dataclass(frozen=True)
class Stored:
    """The tensors of a checkpoint in another format."""

    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    """Bytes of each tensor."""
    read: Callable[[Sequence[str]], dict[str, torch.Tensor]]
    """Returns the tensors of some names."""
    copies: Mapping[str, str]
    """Names of tensors that are others under a second name -> the first."""


def run_convert(source: str, target: str, config_from: str | None) -> int:
    """Convert a checkpoint, and say what was written."""
    number, size = convert(Path(source), Path(target), config_from)
    amount = f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
    sys.stdout.write(
        f"{number} tensors, {amount}, are in {target}; use it as LLADA_MODELS={target}, "
        f"or: opencompass-llada new-config --model {target} > my.py\n"
    )
    return 0


def convert(source: Path, target: Path, config_from: str | None = None) -> tuple[int, int]:
    """Write the checkpoint of a folder or file as a folder with safetensors.

    Args:
        source: A folder with pytorch_model.bin (or its index and shards), or one that
            torch.distributed.checkpoint wrote (accelerate's pytorch_model_fsdp_0 inside included),
            or a .bin, .pt or .pth file.
        target: The folder to be made.
        config_from: Folder or hub id of config.json and tokenizer, where the source has none.

    Returns:
        Number of tensors, and their bytes.

    Raises:
        CheckpointError: For what is no such checkpoint, damaged, would run code, or does not fit
            its config.json; for a target that is there.
    """
    source, target = source.expanduser(), target.expanduser()
    if target.exists():
        raise CheckpointError(f"OUT {str(target)!r} exists; give another folder, or remove it.")
    if not source.exists():
        raise CheckpointError(f"IN {str(source)!r} does not exist; give a checkpoint's folder.")
    stored = _open(source)
    companions = _find_companions(source, config_from)
    fields = read_model_config(companions)
    renamed = _rename(stored, fields, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_left_overs(target.parent, recursive=False)
    with replacing(target) as folder:
        folder.mkdir()
        total = _write_shards(stored, renamed, folder)
        for file in sorted({f for pattern in SMALL_FILES for f in companions.glob(pattern)}):
            if file.is_file() and not any(file.match(pattern) for pattern in _LEFT_OUT):
                shutil.copyfile(file, folder / file.name)
        if str(fields.get("model_type")) in NETWORKS:
            open_checkpoint(folder)
    return len(renamed), total


def _open(source: Path) -> Stored:
    """Find out what a checkpoint is, and list its tensors."""
    if source.is_file():
        return _open_bins([source])
    if (source / BIN_INDEX).is_file():
        return _open_bins(_list_shards(source / BIN_INDEX))
    if (source / BIN_NAME).is_file():
        return _open_bins([source / BIN_NAME])
    inside = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    found = [path for path in inside if (path / METADATA).is_file()]
    weights = [path for path in found if "optim" not in path.name]
    if len(weights) == 1 or source in weights:
        return _open_distributed(source if source in weights else weights[0])
    if found:
        raise CheckpointError(
            f"IN {str(source)!r} holds {len(weights)} folders of torch.distributed.checkpoint "
            f"({list_some([path.name for path in found])}); give the one that is meant."
        )
    if any(source.glob("*.distcp")):
        raise CheckpointError(
            f"IN {str(source)!r} has .distcp files without the {METADATA} that says what they "
            "hold: the checkpoint is incomplete. Copy that file too, or take an earlier one."
        )
    if any(source.glob("*.safetensors")):
        raise CheckpointError(
            f"IN {str(source)!r} holds safetensors already; give it as the model's path."
        )
    raise CheckpointError(
        f"IN {str(source)!r} holds no {BIN_NAME}, no {BIN_INDEX} and no {METADATA} of "
        "torch.distributed.checkpoint. Give the folder that does, or one .bin file."
    )


def _list_shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} cannot be used ({error}). Download it again.") from error
    odd = [name for name in names if Path(str(name)).name != name]
    missing = [name for name in names if name not in odd and not (index.parent / name).is_file()]
    if odd or missing or not names:
        raise CheckpointError(
            f"{index}: {list_some([*odd, *missing]) or 'nothing'} is named there and is no file "
            "beside it. The checkpoint is incomplete; download it again."
        )
    return [index.parent / name for name in names]


def _open_bins(files: Sequence[Path]) -> Stored:
    """List the tensors of files that torch.save wrote; they are mapped, not read."""
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        for name, tensor in _load_bin(file).items():
            if name in tensors:
                raise CheckpointError(
                    f"{file}: {name} stands in another file too, and nothing says which is meant."
                )
            tensors[name] = tensor
    first: dict[tuple[Any, ...], str] = {}
    copies = {}
    for name, own in tensors.items():
        place = (own.untyped_storage().data_ptr(), own.storage_offset(), own.shape, own.stride())
        if own.numel() and (known := first.setdefault(place, name)) != name:
            copies[name] = known
    return Stored(
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        sizes={name: tensor.nbytes for name, tensor in tensors.items()},
        read=lambda names: {name: tensors[name] for name in names},
        copies=copies,
    )


def _load_bin(file: Path) -> dict[str, torch.Tensor]:
    try:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of before torch 1.6 cannot be mapped
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file} holds more than tensors, which is not loaded, since it could run any code "
            f"({reason}). Save the state_dict alone where the file comes from."
        ) from error
    except Exception as error:  # torch raises what it runs into in a damaged file
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file} cannot be read ({type(error).__name__}: {reason}). Download it again."
        ) from error
    for key in ("state_dict", "model", "module", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    content = content if isinstance(content, Mapping) else {}
    tensors = {str(name): own for name, own in content.items() if isinstance(own, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors by name; give a file of a state_dict.")
    return tensors


def _open_distributed(folder: Path) -> Stored:
    """List the tensors of a folder that torch.distributed.checkpoint wrote."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        listed = SafeReader(folder).read_metadata().state_dict_metadata
    except Exception as error:  # pickle raises what it runs into in a damaged file
        raise CheckpointError(
            f"{folder / METADATA} cannot be used ({type(error).__name__}: {error}). It must be "
            "what torch.distributed.checkpoint writes, and no more; save the checkpoint again."
        ) from error
    known = {name: own for name, own in listed.items() if isinstance(own, TensorStorageMetadata)}

    def read(names: Sequence[str]) -> dict[str, torch.Tensor]:
        wanted = {
            name: torch.empty(known[name].size, dtype=known[name].properties.dtype)
            for name in names
        }
        try:
            with warnings.catch_warnings():  # of loading in one process, which is meant
                warnings.filterwarnings("ignore", "torch.distributed is")
                dcp.load(wanted, storage_reader=SafeReader(folder), no_dist=True)
        except (Exception, CheckpointException) as error:  # the second is a BaseException
            reason = next(iter(getattr(error, "failures", {0: (error,)}).values()))[0]
            raise CheckpointError(
                f"{folder} cannot be read ({type(reason).__name__}: {reason}). A file of it is "
                "missing or damaged; copy it again."
            ) from error
        return wanted

    return Stored(
        shapes={name: tuple(own.size) for name, own in known.items()},
        sizes={
            name: own.size.numel() * own.properties.dtype.itemsize for name, own in known.items()
        },  # fmt: skip
        read=read,
        copies={},
    )


def _find_companions(source: Path, config_from: str | None) -> Path:
    """Return the folder of config.json and tokenizer."""
    if config_from is not None:
        return locate_checkpoint(config_from, SMALL_FILES)
    folder = source if source.is_dir() else source.parent
    for place in (folder, folder.parent):
        if (place / "config.json").is_file():
            return place
    raise CheckpointError(
        f"IN {str(source)!r} has no config.json, which says what network the weights are of. Give "
        "the folder or hub id of config.json and tokenizer: --config-from GSAI-ML/LLaDA-8B-Base"
    )


def _rename(stored: Stored, fields: Mapping[str, Any], source: Path) -> dict[str, str]:
    """Return the stored names that are written -> the names that they get."""
    plain: dict[str, str] = {}
    for name in stored.shapes:
        if name.startswith(_TRAINING):
            continue
        short = name
        for wrapper in _WRAPPERS:
            short = short.replace(wrapper, "")
        plain[name] = short
    network = NETWORKS.get(str(fields.get("model_type")))
    if network is None:
        ends = [n.removesuffix(mark) for n in plain.values() for mark in _LANDMARKS
                if n.endswith(mark)]  # fmt: skip
        return _cut(plain, min(ends, key=len, default=""))
    config = read_config(network, fields)
    with torch.device("meta"):
        needed = network(config).state_dict()
    prefixes = Counter(prefix for name in plain.values() for prefix in _prefixes(name, needed))
    faults = []
    for prefix, _ in prefixes.most_common():
        renamed = {
            old: new
            for old, new in _cut(plain, prefix).items()
            if new in needed or old not in stored.copies
        }
        shapes = {new: stored.shapes[old] for old, new in renamed.items()}
        fault = compare_shapes(split_merged(shapes, config.experts), needed, "config.json")
        extra = [old for old, new in renamed.items() if new not in needed]
        if len(extra) == 1 and config.ties_embeddings:
            others = {old: new for old, new in renamed.items() if old != extra[0]}
            if _is_double(stored, extra[0], others):
                renamed = others
                shapes = {new: stored.shapes[old] for old, new in renamed.items()}
                fault = compare_shapes(split_merged(shapes, config.experts), needed, "config.json")
        if not fault:
            left = [name for name in stored.shapes if name not in renamed]
            if left:
                logger.info("%s: not written, since no weights: %s", source, list_some(left))
            return renamed
        faults.append(fault)
    reason = faults[0] if faults else "no tensor has one of its names"
    raise CheckpointError(
        f"IN {str(source)!r}: its tensors do not fit config.json of a {fields['model_type']} "
        f"network; {reason}. Give the config.json that belongs to them by --config-from."
    )


def _is_double(stored: Stored, extra: str, others: Iterable[str]) -> bool:
    """Whether a tensor holds what another of the names does, as a tied head does."""
    for other in others:
        if stored.shapes[other] == stored.shapes[extra]:
            pair = stored.read([extra, other])
            if torch.equal(pair[extra], pair[other]):
                return True
    return False


def _prefixes(name: str, needed: Container[str]) -> Iterator[str]:
    """Yield what may stand before a needed name: ``model.`` of model.model.norm.weight."""
    parts = name.split(".")
    for start in range(len(parts)):
        if ".".join(parts[start:]) in needed:
            yield "".join(f"{part}." for part in parts[:start])


def _cut(plain: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return the names that begin with a prefix, without it."""
    return {
        old: name.removeprefix(prefix) for old, name in plain.items() if name.startswith(prefix)
    }


def _write_shards(stored: Stored, renamed: Mapping[str, str], folder: Path) -> int:
    """Write the tensors, and an index where they are several files; return their bytes."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name in renamed:
        if groups[-1] and filled + stored.sizes[name] > SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += stored.sizes[name]
    total, places = sum(stored.sizes[name] for name in renamed), {}
    for number, names in enumerate(groups, start=1):
        file = SINGLE_NAME
        if len(groups) > 1:
            file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = _separate(stored.read(names))
        own = {renamed[name]: tensor for name, tensor in tensors.items()}
        save_file(own, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(own, file))
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return total


def _separate(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors that share no memory, as safetensors asks."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return own
