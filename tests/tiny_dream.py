"""Tiny random Dream checkpoints in the published format, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny import EOS_ID, MASK_ID, VOCAB_SIZE, save_shards, tiny_tokenizer

from opencompass_llada.modeling import DreamConfig, DreamForMaskedDiffusion


def dream_fields(**overrides: Any) -> dict[str, Any]:
    """Return config.json in the fields of Dream-org's checkpoints, at a tiny size.

    Fields as in the config.json of Dream-org/Dream-v0-Base-7B and its derivatives (one that can
    be read without an account: apple/DiffuCoder-7B-Instruct).
    """
    fields: dict[str, Any] = {
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
        },
        "bos_token_id": EOS_ID,
        "eos_token_id": EOS_ID,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.2,
        "intermediate_size": 48,
        "mask_token_id": MASK_ID,
        "max_position_embeddings": 131072,
        "max_window_layers": 2,
        "model_type": "Dream",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": EOS_ID,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }
    return {**fields, **overrides}


def tiny_dream(*, seed: int = 0, **overrides: Any) -> DreamForMaskedDiffusion:
    """Return a random float32 network; biases are random too, or they would not be tested."""
    torch.manual_seed(seed)
    model = DreamForMaskedDiffusion(DreamConfig(**dream_fields(**overrides)))
    for block in model.blocks:
        for part in (block.parts.query, block.parts.key, block.parts.value):
            torch.nn.init.normal_(part.bias, std=0.5)
    return model.eval().requires_grad_(False)


def write_tiny_dream(
    directory: Path, *, seed: int = 0, num_shards: int = 1, **overrides: Any
) -> Path:
    """Write a random checkpoint with tokenizer, in the published format, and return its folder."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    fields = dream_fields(**overrides)
    (directory / "config.json").write_text(json.dumps(fields, indent=2))
    save_shards(directory, tiny_dream(seed=seed, **overrides).state_dict(), num_shards)
    tiny_tokenizer("<|im_end|>", "<|mask|>", "<|im_start|>").save_pretrained(directory)
    return directory
