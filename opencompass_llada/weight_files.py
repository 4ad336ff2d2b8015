"""Finds the files that hold a checkpoint's weights, for loading and for the hash that names it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

logger = logging.getLogger(__name__)

SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""Patterns of what else a checkpoint is read from: configuration, tokenizer and chat template."""

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
#: Weights in the formats that `runs.convert` reads.
_CONVERTED = ("pytorch_model*.bin", "*.distcp", "pytorch_model_fsdp_*")
#: What weights may be stored in; anything else is quantised, or no weight at all.
_FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
#: Masks and counters that older checkpoints of GPT-2's and GPT-NeoX's kind store beside weights.
_NO_WEIGHT = re.compile(r"(^|\.)(attn|attention)\.(bias|masked_bias)$|(^|\.)position_ids$")
_LISTED = 6  # names shown in an error before "and N more"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what to do."""


def list_some(names: list[str]) -> str:
    """Join names for a message, the first few of many."""
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"


def list_differences(**found: list[str]) -> str:
    """Describe tensors that do not fit, such as ``1 missing: a; 2 extra: b, c``; '' for none."""
    kinds = ((kind.replace("_", " "), names) for kind, names in found.items() if names)
    return "; ".join(f"{len(names)} {kind}: {list_some(names)}" for kind, names in kinds)


def compare_shapes(
    stored: Mapping[str, tuple[int, ...]],
    allowed: Mapping[str, Any],
    asker: str,
    needed: Iterable[str] | None = None,
) -> str:
    """Describe how stored tensors differ from those that a network's state may and must have."""
    return list_differences(
        missing=sorted(set(allowed if needed is None else needed) - stored.keys()),
        extra=sorted(stored.keys() - allowed.keys()),
        wrongly_shaped=[
            f"{name} is {list(shape)}, {asker} asks for {list(allowed[name].shape)}"
            for name, shape in sorted(stored.items())
            if name in allowed and tuple(allowed[name].shape) != shape
        ],
    )


def list_weight_files(folder: Path) -> list[Path]:
    """List the files that a checkpoint's weights are read from, in order of their names.

    They are the files that ``model.safetensors.index.json`` names, or ``model.safetensors``.
    Other files beside them (averaged weights, a state of the optimizer) are left alone and named
    in the log. What is missing, damaged or ambiguous is a CheckpointError.
    """
    index = folder / INDEX_NAME
    names = _read_index(index) if index.is_file() else [SINGLE_NAME]
    present = sorted(p.name for p in folder.glob("*.safetensors") if not p.name.startswith("."))
    missing = [name for name in names if not (folder / name).is_file()]
    if not present:
        others = [own.name for kind in _CONVERTED for own in sorted(folder.glob(kind))]
        what = f", but {list_some(others)}" if others else ""
        remedy = (
            "Convert it: opencompass-llada convert {0} {0}-safetensors, and give the new folder"
            if others
            else "`opencompass-llada convert` reads pytorch_model.bin and FSDP folders; else "
            "download the checkpoint again"
        )
        raise CheckpointError(
            f"Checkpoint {folder} holds no .safetensors file{what}. {remedy.format(folder)}."
        )
    if (folder / SINGLE_NAME).is_file() and names != [SINGLE_NAME]:
        raise CheckpointError(
            f"Checkpoint {folder} holds {SINGLE_NAME}, and an {INDEX_NAME} that names other files "
            f"({list_some(names)}); nothing says which weights are meant. Move away the one that "
            "is out of date."
        )
    if missing and index.is_file():
        raise CheckpointError(
            f"Checkpoint {folder}: shards named by {INDEX_NAME} are missing: "
            f"{list_some(missing)}. Download the checkpoint again; it is incomplete."
        )
    if missing:
        raise CheckpointError(
            f"Checkpoint {folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}, so that nothing "
            f"says which of its files are the weights: {list_some(present)}. Rename the file to "
            f"{SINGLE_NAME}, or fetch the index."
        )
    others = [name for name in present if name not in names]
    if others:
        logger.info(
            "%s: weights are read from %s; not from %s", folder, list_some(names), list_some(others)
        )
    return [folder / name for name in names]


def _read_index(index: Path) -> list[str]:
    """Return the file names of an index, which must be names of files beside it."""
    try:
        fields = json.loads(index.read_text(encoding="utf-8"))
        names = sorted({str(name) for name in fields["weight_map"].values()})
        fault = "" if names else "its weight_map is empty"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        names, fault = [], f"it holds no weight_map ({type(error).__name__}: {error})"
    if odd := [name for name in names if Path(name).name != name or name.startswith(".")]:
        fault = f"its weight_map names {list_some(odd)}, which is no file name beside it"
    if fault:
        raise CheckpointError(f"{index} cannot be used: {fault}. Download it again.")
    return names


def read_stored_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by name, from the headers of safetensors files.

    A tensor in two files, or stored in anything but floats of 16 bits or more, is refused:
    quantised weights, read as plain numbers, would be another network's.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    odd: list[str] = []
    twice: list[str] = []
    for file in files:
        try:
            with safe_open(file, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (safe_open is no dict)
                    header = tensors.get_slice(name)
                    if name in shapes:
                        twice.append(f"{name} (again in {file.name})")
                    shapes[name] = tuple(header.get_shape())
                    dtype = str(header.get_dtype())
                    if dtype not in _FLOAT_DTYPES and not _NO_WEIGHT.search(name):
                        odd.append(f"{name} ({dtype})")
        except Exception as error:  # safetensors raises its own, undocumented type
            raise CheckpointError(
                f"{file} is not a readable safetensors file ({error}). Download it again."
            ) from error
    folder = files[0].parent if files else ""
    if twice:
        raise CheckpointError(
            f"{folder}: tensors stand in two files, and nothing says which one is meant: "
            f"{list_some(twice)}. Download the files again."
        )
    if odd:
        raise CheckpointError(
            f"{folder}: tensors are stored in types that are no plain floats: "
            f"{list_some(odd)}. Quantised weights are not read here, and as plain numbers they "
            f"would be wrong; give a checkpoint in {', '.join(_FLOAT_DTYPES)}."
        )
    return shapes
