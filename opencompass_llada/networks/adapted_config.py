"""Reads a checkpoint's config.json as an adapter over it needs it: RoPE, trained length, blocks.

An adapter may have been trained with another RoPE base than the checkpoint has. peft's format has
no place for that, so fine-tuning writes a config.json beside the adapter, and a copy of it into the
metadata of the adapter's weights, which cannot get lost. Loads no weights.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from opencompass_llada.networks.adapters import (
    METADATA_KEY,
    WEIGHTS_NAME,
    AdapterSource,
    find_adapter,
)
from opencompass_llada.networks.checkpoint import is_hub_id, read_config, read_model_config
from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.declared_rope import ROPE_FIELDS, read_declared_rope
from opencompass_llada.networks.transformer import NETWORKS
from opencompass_llada.weight_files import CheckpointError

logger = logging.getLogger(__name__)

#: What an adapter's training may have changed beside weights, where its family has it.
_TRAINED = (*ROPE_FIELDS, "rope_training", "block_size")


def read_adapted_config(
    path: str | Path,
    mask_token_id: int | None = None,
    adapter: AdapterSource | None = None,
    *,
    fetch: bool = True,
) -> dict[str, Any]:
    """Return the config.json of a folder or hub id as it is under an adapter, if there is one.

    With ``fetch`` an adapter of a hub id may be downloaded. An adapter that was trained over
    another checkpoint is a CheckpointError.
    """
    fields = read_model_config(path, mask_token_id)
    if adapter is None or (not fetch and _is_remote(adapter)):
        return fields
    folder = find_adapter(adapter)
    if folder.resolve().parent == Path(path).expanduser().resolve():
        raise CheckpointError(
            f"peft_path={adapter.path!r}: the weights at {str(path)!r} hold this adapter already, "
            "and it would be added twice. Leave peft_path out, or give as path the checkpoint that "
            "the adapter was trained over."
        )
    own = _read_own(folder)
    if own is None:
        return fields
    named = f"Adapter {adapter.path!r} over {str(path)!r}"
    kind = str(fields.get("model_type"))
    if own.get("model_type") != kind:
        raise CheckpointError(
            f"{named}: it was trained over model_type={own.get('model_type')!r}, and this is "
            f"{kind!r}. Give the checkpoint that it was trained over as path."
        )
    if kind not in NETWORKS:
        if read_declared_rope(own) != read_declared_rope(fields):
            raise CheckpointError(
                f"{named}: its config.json declares another RoPE than the checkpoint's, and only "
                "networks of this package are loaded with it. Merge the adapter with peft "
                "(merge_and_unload), and give the merged checkpoint with that config.json as path."
            )
        return fields
    base, trained = (read_config(NETWORKS[kind], each) for each in (fields, own))
    _check_same_start(base, trained, named)
    taken = {name: own[name] for name in (*_TRAINED, base.length_field) if name in own}
    logger.info(
        "%s: trained with RoPE base %.6g for %d tokens, and loaded so (the checkpoint's own: "
        "%.6g, %d)", named, trained.rope_theta, trained.trained_length, base.rope_theta,
        base.trained_length,
    )  # fmt: skip
    return {k: v for k, v in fields.items() if k not in ROPE_FIELDS} | taken


def _is_remote(adapter: AdapterSource) -> bool:
    return is_hub_id(adapter.path) and not Path(adapter.path).expanduser().is_dir()


def _read_own(folder: Path) -> dict[str, Any] | None:
    """Return config.json as an adapter was trained with, None where nothing says it."""
    if (folder / "config.json").is_file():
        return read_model_config(folder)
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():  # said where the adapter is opened
        return None
    try:
        with safe_open(weights, framework="np") as tensors:
            text = (tensors.metadata() or {}).get(METADATA_KEY)
        return None if text is None else dict(json.loads(text))
    except Exception as error:  # safetensors has no kind of its own for a damaged file
        raise CheckpointError(f"{weights} cannot be read ({error}). Fetch it again.") from error


def _check_same_start(base: BidirectionalConfig, trained: BidirectionalConfig, named: str) -> None:
    """Refuse sizes that differ, and a RoPE base that training neither had nor started from."""
    for name in base.published_fields().keys() - {*_TRAINED, base.length_field}:
        ours, theirs = getattr(base, name), getattr(trained, name)
        if ours != theirs:
            raise CheckpointError(
                f"{named}: it was trained with {name}={theirs!r}, and the checkpoint has {ours!r}. "
                "Give the checkpoint that it was trained over as path."
            )
    earlier = (getattr(trained, "rope_training", None) or {}).get("original_rope_theta")
    starts = [theta for theta in (trained.rope_theta, earlier) if theta is not None]
    if not any(math.isclose(base.rope_theta, theta, rel_tol=1e-9) for theta in starts):
        raise CheckpointError(
            f"{named}: it was trained over a RoPE base of {' or '.join(f'{t:g}' for t in starts)}, "
            f"and the checkpoint's rope_theta is {base.rope_theta:g}. Give the checkpoint that it "
            "was trained over as path."
        )
