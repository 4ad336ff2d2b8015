"""Writing a checkpoint in its family's published format (LLaDA, Llama), all files or none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

RECORD_FILE = "training.json"
_CONFIG_FIELDS = (
    *("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size"),
    *("vocab_size", "embedding_size", "max_sequence_length", "rope_theta", "rms_norm_eps"),
    *("init_std", "mask_token_id", "eos_token_id", "pad_token_id"),
)


def config_fields(model: PreTrainedModel, dtype: str) -> dict[str, Any]:
    """Return config.json's fields in the published names of the network's family.

    Args:
        model: The network.
        dtype: dtype of the stored weights.

    Returns:
        What loaders of that family need, our own and others'.
    """
    if isinstance(model, LlamaForCausalLM):
        return _llama_fields(model.config, dtype)
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "include_bias": False,
        "include_qkv_bias": False,
        "weight_tying": False,
        "rope": True,
        "rope_full_precision": True,
        "alibi": False,
        "torch_dtype": dtype,
        **{name: getattr(model.config, name) for name in _CONFIG_FIELDS},
    }


def _llama_fields(config: LlamaConfig, dtype: str) -> dict[str, Any]:
    """Return a Llama's fields with RoPE's base in the forms of both majors of transformers."""
    fields = config.to_dict()
    rope = fields.get("rope_parameters") or {}
    theta = rope.get("rope_theta", fields.get("rope_theta"))
    for name in ("transformers_version", "dtype", "torch_dtype", "_name_or_path"):
        fields.pop(name, None)
    return {
        **fields,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "torch_dtype": dtype,
    }


def _name_tokenizer_class(file: Path) -> None:
    """Write names that both majors of transformers load (5 writes some that 4 lacks)."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    extra = fields.get("extra_special_tokens")
    if isinstance(extra, list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_target(folder: str | Path) -> None:
    """Refuse a folder whose content is not a checkpoint of this module's, which would be lost.

    Args:
        folder: Where a checkpoint is to be written.

    Raises:
        ValueError: If it is a file, or holds files and no training.json.
    """
    target = Path(folder)
    if target.is_dir():
        is_free = not any(target.iterdir()) or (target / RECORD_FILE).is_file()
    else:
        is_free = not target.exists()
    if not is_free:
        raise ValueError(
            f"output_dir={str(folder)!r} holds files and no {RECORD_FILE}, so it is not an earlier "
            "checkpoint; writing there would delete them. Name a new or empty folder."
        )


def save_checkpoint(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    dtype: str,
    record: dict[str, Any],
) -> Path:
    """Write config.json, model.safetensors, the tokenizer and the training record.

    Everything is written beside the target first (``.part``) and moved into place at the end; an
    earlier checkpoint stays (as ``.old`` for an instant) until the new one is complete.

    Args:
        folder: Target; an earlier checkpoint in it is replaced.
        model: The network.
        tokenizer: Saved with ``save_pretrained``.
        dtype: dtype of the stored weights.
        record: JSON-serialisable facts of the run, written to training.json.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder holds something else than a checkpoint.
    """
    check_target(folder)
    target = Path(folder).absolute()
    part, old = (target.with_name(target.name + suffix) for suffix in (".part", ".old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    kind = getattr(torch, dtype)
    tensors = {
        name: value.to("cpu", kind).contiguous() for name, value in model.state_dict().items()
    }
    save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
    for name, values in (("config.json", config_fields(model, dtype)), (RECORD_FILE, record)):
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        (part / name).write_text(text, encoding="utf-8")
    tokenizer.save_pretrained(part)
    _name_tokenizer_class(part / "tokenizer_config.json")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)
    return Path(folder)
