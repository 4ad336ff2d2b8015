"""Writing a checkpoint in its family's published format (LLaDA, Llama), all files or none.

config.json, safetensors shards with an index, tokenizer and training.json. Which checkpoints are
kept is finetune.checkpoints's business.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from opencompass_llada.files import remove, settle
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.networks import BidirectionalNetwork

RECORD_FILE = "training.json"
#: Bytes of one file of weights, as the hub's checkpoints are cut.
SHARD_BYTES = 5 * 10**9
_CONFIG_FIELDS = (
    *("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size"),
    *("vocab_size", "embedding_size", "rms_norm_eps", "init_std"),
    *("mask_token_id", "eos_token_id", "pad_token_id"),
)


class SaveError(OSError):
    """A file of a run could not be written; earlier checkpoints are as they were."""


@contextmanager
def saving(what: Path) -> Iterator[None]:
    """Turn whatever writing raises into one error with its remedy.

    Args:
        what: The file or folder that is written.

    Raises:
        SaveError: If writing fails (a full disk, say).
    """
    try:
        yield
    except Exception as error:  # safetensors and torch raise kinds of their own for a full disk
        raise SaveError(
            f"{what} could not be written ({type(error).__name__}: {error}). Earlier checkpoints "
            "are as they were. Free space or name another output_dir, and start the same command "
            "again: it goes on from the last one."
        ) from error


def config_fields(model: PreTrainedModel, recipe: Recipe) -> dict[str, Any]:
    """Return config.json's fields in the published names of the network's family.

    A scaling of RoPE that changes the base is written as the base itself (``rope_theta``) with the
    length it was trained for (``max_sequence_length``), which every LLaDA loader gets right;
    ``rope_training`` says how it came about, and our own loader refuses to multiply it again.

    Args:
        model: The network.
        recipe: How it was trained.

    Returns:
        What loaders of that family need, our own and others'.
    """
    if isinstance(model, LlamaForCausalLM):
        return _llama_fields(model.config, recipe.dtype)
    assert isinstance(model, BidirectionalNetwork), type(model)
    rope = model.resolved_rope
    fields = {
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
        "torch_dtype": recipe.dtype,
        "rope_theta": rope.rope_theta,
        "max_sequence_length": max(rope.longest_context, recipe.trained_length),
        **{name: getattr(model.config, name) for name in _CONFIG_FIELDS},
    }
    if rope.theta_multiplier != 1.0:
        fields["rope_training"] = {
            "type": rope.method,
            "theta_multiplier": rope.theta_multiplier,
            "critical_dimension": rope.critical_dimension,
            "original_rope_theta": model.config.rope_theta,
            "original_max_sequence_length": rope.trained_length,
        }
    elif (earlier := getattr(model.config, "rope_training", None)) is not None:
        fields["rope_training"] = earlier
    return fields


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


def _mend_tokenizer_config(file: Path) -> None:
    """Write names that both majors of transformers load (5 writes some that 4 lacks)."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    extra = fields.get("extra_special_tokens")
    if isinstance(extra, list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    for name in ("is_local", "local_files_only"):  # of where it was loaded from
        fields.pop(name, None)
    fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_weights(
    folder: Path,
    tensors: Iterator[tuple[str, torch.Tensor]],
    *,
    write: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors into one file, or several with an index.

    Args:
        folder: Exists and is empty.
        tensors: By published name, on the CPU; taken one after another.
        write: Whether to write; other ranks only take the tensors.
        shard_bytes: Bytes of one file at most, but for a larger tensor.
    """
    shards: list[dict[str, int]] = []
    pending: dict[str, torch.Tensor] = {}

    def flush() -> None:
        if pending:
            save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
            shards.append({name: value.nbytes for name, value in pending.items()})
            pending.clear()

    for name, value in tensors:
        if not write:
            continue
        if pending and sum(v.nbytes for v in pending.values()) + value.nbytes > shard_bytes:
            flush()
        pending[name] = value
    if not write:
        return
    flush()
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / "model.safetensors")
        return
    names = [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
    for number, name in enumerate(names):
        (folder / f"shard-{number}").rename(folder / name)
    weight_map = {key: name for shard, name in zip(shards, names, strict=True) for key in shard}
    total = sum(size for shard in shards for size in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def write_facts(
    folder: Path,
    config: dict[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    record: dict[str, Any],
) -> None:
    """Write config.json, the training record and the tokenizer.

    Args:
        folder: Exists.
        config: From `config_fields`.
        tokenizer: Saved with ``save_pretrained``.
        record: JSON-serialisable facts of the run.
    """
    for name, values in (("config.json", config), (RECORD_FILE, record)):
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    tokenizer.save_pretrained(folder)
    _mend_tokenizer_config(folder / "tokenizer_config.json")


def write_atomically(
    target: Path, fill: Callable[[Path], None], *, is_main: bool, wait: Callable[[], None]
) -> None:
    """Fill a folder beside the target and move it into place once it is whole.

    An earlier folder of that name stays until then (as ``.old`` for an instant: see
    `restore_checkpoints`).

    Args:
        target: The folder.
        fill: Writes the files into the folder it is given; every rank calls it.
        is_main: Whether this rank makes and moves folders.
        wait: Waits for all ranks.

    Raises:
        SaveError: If writing fails (a full disk, say); nothing of it is left.
    """
    part, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("part", "old"))
    try:
        with saving(target):
            if is_main:
                remove(part)
                part.mkdir(parents=True)
            wait()
            fill(part)
            wait()
            if is_main:
                settle(part)
                remove(old)
                if target.exists():
                    os.replace(target, old)
                os.replace(part, target)
                settle(target.parent, inside=False)
                remove(old)
    except BaseException:
        if is_main:
            remove(part)
        raise
    wait()


def restore_checkpoints(folder: Path) -> None:
    """Undo what a killed process left half done in an output folder that no other one uses.

    Args:
        folder: Of checkpoints; may be missing.
    """
    for old in folder.glob(".*.old"):
        target = folder / old.name[1 : -len(".old")]
        if target.exists():
            remove(old)
        else:
            os.replace(old, target)
    for part in folder.glob(".*.part"):
        remove(part)
