"""Writes the small files of a checkpoint: config.json, tokenizer, and what other loaders need.

A post-trained checkpoint has every field of its start's config.json, with what training changed,
and copies of the start's other small files. Code among them is copied and never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.networks import BidirectionalNetwork, locate_checkpoint
from opencompass_llada.networks.checkpoint import read_json_object

#: Fields of config.json beside sizes, special tokens and RoPE's base, by model_type: what the
#: published checkpoints have (GSAI-ML/LLaDA-8B-Base, JetLM/SDAR-8B-Chat). Where a field is missing,
#: LLaDA's own code has another default: dropout of 0.1, no RoPE, tied embeddings, LayerNorm.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "llada": {
        "architectures": ["LLaDAModelLM"],
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
        **dict.fromkeys(("attention_dropout", "embedding_dropout", "residual_dropout"), 0.0),
        **dict.fromkeys(("rope", "rope_full_precision", "layer_norm_with_affine"), True),
        **dict.fromkeys(("alibi", "include_bias", "include_qkv_bias"), False),
        **dict.fromkeys(("bias_for_layer_norm", "attention_layer_norm"), False),
        **dict.fromkeys(("input_emb_norm", "scale_logits"), False),
        **dict.fromkeys(("flash_attention", "use_cache"), False),
        "activation_type": "silu",
        "alibi_bias_max": 8.0,
        "attention_layer_norm_with_affine": True,
        "block_group_size": 1,
        "block_type": "llama",
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "normal",
        "layer_norm_type": "rms",
        "multi_query_attention": None,
        "precision": "amp_bf16",
    },
    "sdar": {
        "architectures": ["SDARForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_sdar.SDARConfig",
            "AutoModel": "modeling_sdar.SDARModel",
            "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
        },
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rope_scaling": None,
        "sliding_window": None,
        "use_cache": False,
        "use_sliding_window": False,
    },
}
#: Small files of a checkpoint that other loaders read, beside config.json and weights.
_COPIED = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.tiktoken"),
    *("*.jinja", "chat_template.json", "generation_config.json", "*.py"),
)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run keeps of the checkpoint that it starts from; empty for a run from scratch."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of its config.json."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Contents of its other small files, by name."""


def read_start(recipe: Recipe) -> Start:
    """Read the small files of ``init_from``, as they are when the run begins."""
    if recipe.init_from is None:
        return Start()
    folder = locate_checkpoint(resolve_path(recipe.init_from))
    paths = sorted({path for pattern in _COPIED for path in folder.glob(pattern)})
    return Start(
        fields=read_json_object(folder / "config.json"),
        files={path.name: path.read_bytes() for path in paths if path.is_file()},
    )


def write_small_files(
    folder: Path,
    model: PreTrainedModel,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    start: Start,
) -> None:
    """Write config.json, and the start's other files or the tokenizer that was trained."""
    write_json(folder / "config.json", config_fields(model, recipe, start))
    for name, content in start.files.items():
        (folder / name).write_bytes(content)
    if not start.files:
        tokenizer.save_pretrained(folder)
    _adapt_tokenizer_config(folder / "tokenizer_config.json")


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with sorted keys."""
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def config_fields(
    model: PreTrainedModel, recipe: Recipe, start: Start | None = None
) -> dict[str, Any]:
    """Return config.json's fields: those of the start, else the published ones, and the changes.

    A scaled base is written as ``rope_theta`` with the length that it is for, which every loader
    gets right, be the rows shorter (``longest_row``) or not; for ``rope_training`` our own loader
    refuses to multiply it again.
    """
    if isinstance(model, LlamaForCausalLM):
        return _llama_fields(model.config, recipe.dtype)
    assert isinstance(model, BidirectionalNetwork), type(model)
    config, given = model.config, dict((start or Start()).fields)
    given.pop("_name_or_path", None)  # a folder of whoever saved it
    sizes = {name: getattr(config, name) for name in config.published_fields()}
    fields = {
        **PUBLISHED[config.model_type],
        "model_type": config.model_type,
        **sizes,
        **given,
    }
    for name, value in _changed_fields(model, recipe, given):
        if fields.get(name) != value:  # 10000 and 10000.0 are the same
            fields[name] = value
    return fields


def _changed_fields(
    model: BidirectionalNetwork, recipe: Recipe, given: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield the fields that training decides: precision, RoPE, trained length, block length."""
    config, rope = model.config, model.resolved_rope
    yield "torch_dtype", recipe.dtype
    if "dtype" in given:  # its name in transformers 5
        yield "dtype", recipe.dtype
    if hasattr(config, "block_size"):
        yield "block_size", config.block_size
    yield config.length_field, max(rope.longest_context, recipe.trained_length)
    yield "rope_theta", rope.rope_theta
    declared = config.declared_rope
    scaling: dict[str, Any] = {}
    if declared.is_scaled:  # what config.json scaled by stays, from the length that it counts from
        scaling = {"rope_type": declared.rope_type, **declared.options}
        if declared.rope_type != "linear":
            scaling = {"original_max_position_embeddings": rope.trained_length, **scaling}
        yield "rope_scaling", scaling
    if given.get("rope_parameters") is not None:  # where transformers 5 keeps all of it
        form = {"rope_type": "default", **given["rope_parameters"], **scaling}
        yield "rope_parameters", {**form, "rope_theta": rope.rope_theta}
    if rope.theta_multiplier != 1.0:
        yield (
            "rope_training",
            {
                "type": rope.method,
                "theta_multiplier": rope.theta_multiplier,
                "critical_dimension": rope.critical_dimension,
                "original_rope_theta": config.rope_theta,
                "original_max_sequence_length": rope.trained_length,
                "longest_row": recipe.trained_length,
            },
        )


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
    """Replace names that transformers 5 writes and 4 does not load; leave a file without any."""
    if not file.is_file():
        return
    given = json.loads(file.read_text(encoding="utf-8"))
    fields = dict(given)
    if isinstance(fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    for name in ("is_local", "local_files_only"):  # of where it was loaded from
        fields.pop(name, None)
    if fields.get("tokenizer_class") == "TokenizersBackend":
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    if fields != given:
        write_json(file, fields)
