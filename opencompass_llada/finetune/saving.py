"""Writes a checkpoint in its family's published format (LLaDA, Llama), all files or none.

training.json says how it was made; ``state/`` is what a run goes on from.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import opencompass_llada
from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.checkpoints import STATE, write_atomically
from opencompass_llada.finetune.network import published_tensors
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.rows import TrainingData
from opencompass_llada.finetune.run_state import RunState, write_state
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.networks import BidirectionalNetwork, locate_checkpoint
from opencompass_llada.runs.hashes import hash_checkpoint, hash_values
from opencompass_llada.runs.provenance import find_commit

RECORD_FILE = "training.json"
#: Bytes of one file of weights, as the hub's checkpoints are cut.
SHARD_BYTES = 5 * 10**9
_LLADA_FIELDS = {
    **{"architectures": ["LLaDAModelLM"], "model_type": "llada", "block_type": "llama"},
    **{"layer_norm_type": "rms", "activation_type": "silu", "weight_tying": False},
    **{"include_bias": False, "include_qkv_bias": False},
    **{"rope": True, "rope_full_precision": True, "alibi": False},
}
_CONFIG_FIELDS = (
    *("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size"),
    *("vocab_size", "embedding_size", "rms_norm_eps", "init_std"),
    *("mask_token_id", "eos_token_id", "pad_token_id"),
)


def write_checkpoint(run: RunState, folder: Path, *, with_state: bool) -> None:
    """Write a checkpoint, whole or not at all, over an earlier one; every rank calls it."""
    recipe, ranks = run.recipe, run.ranks

    def fill(part: Path) -> None:
        with run.average.applied():
            tensors = published_tensors(run.model, recipe.lora, getattr(torch, recipe.dtype))
            if ranks.is_main:
                write_weights(part, tensors)
            else:  # a sharded tensor is made whole by all ranks
                collections.deque(tensors, maxlen=0)
        if ranks.is_main:
            _write_json(part / "config.json", config_fields(run.model, recipe))
            _write_json(part / RECORD_FILE, describe_run(run))
            run.tokens.tokenizer.save_pretrained(part)
            _adapt_tokenizer_config(part / "tokenizer_config.json")
        if with_state:
            write_state(run, part / STATE)

    write_atomically(folder, fill, ranks)


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def config_fields(model: PreTrainedModel, recipe: Recipe) -> dict[str, Any]:
    """Return config.json's fields in the published names of the network's family.

    A scaled base is written as ``rope_theta`` with the length it was trained for, which every LLaDA
    loader gets right; for ``rope_training`` our own loader refuses to multiply it again.
    """
    if isinstance(model, LlamaForCausalLM):
        return _llama_fields(model.config, recipe.dtype)
    assert isinstance(model, BidirectionalNetwork), type(model)
    rope = model.resolved_rope
    fields = {
        **_LLADA_FIELDS,
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


def _adapt_tokenizer_config(file: Path) -> None:
    """Write names that both majors of transformers load (5 writes some that 4 lacks)."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    for name in ("is_local", "local_files_only"):  # of where it was loaded from
        fields.pop(name, None)
    fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    _write_json(file, fields)


def write_weights(
    folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write tensors, taken one after another, into one file, or several with an index.

    A file has ``shard_bytes`` at most, but for a larger tensor.
    """
    shards: list[dict[str, int]] = []
    pending: dict[str, torch.Tensor] = {}

    def flush() -> None:
        save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append({name: value.nbytes for name, value in pending.items()})
        pending.clear()

    for name, value in tensors:
        if pending and sum(v.nbytes for v in pending.values()) + value.nbytes > shard_bytes:
            flush()
        pending[name] = value
    flush()
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{number}").rename(folder / name)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(size for shard in shards for size in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def describe_run(run: RunState) -> dict[str, Any]:
    """Return the resolved recipe, the data, the figures, and the versions."""
    recipe = dataclasses.asdict(run.recipe)
    del recipe["output_dir"], recipe["cache_dir"]  # of this machine
    cuda = run.ranks.device.type == "cuda"
    return {
        "recipe": recipe,
        "made_from": run.index.made_from,
        "text_tokens": run.data.windows.num_tokens,
        "packing": run.data.packing,
        "step": run.step,
        "tokens": run.tokens_seen,
        "seconds": round(run.seconds, 1),
        "history": run.history,
        "date": time.strftime("%Y-%m-%d"),
        "commit": find_commit(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "processes": run.ranks.world_size,
        "versions": {
            "opencompass_llada": opencompass_llada.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def describe_inputs(
    recipe: Recipe, tokens: TrainingTokenizer, data: TrainingData
) -> dict[str, Any]:
    """Return digests of all that a recipe names and does not hold: start, tokenizer and text."""
    start = None
    if recipe.init_from is not None:
        start = hash_checkpoint(locate_checkpoint(resolve_path(recipe.init_from)), whole=True)
    vocabulary, held_out = tokens.tokenizer.get_vocab(), data.held_out
    return {
        "init_from": start,
        "tokenizer": hash_values([vocabulary, tokens.end_token_id, tokens.mask_token_id]),
        "text": [{"tokens": text.digest, "files": text.files} for text in data.texts],
        "evaluation": held_out and {"tokens": held_out.digest, "files": held_out.files},
    }
