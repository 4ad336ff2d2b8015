"""Tiny random SDAR checkpoints in the published format, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny import save_shards
from tiny_dream import EOS_ID, MASK_ID, VOCAB_SIZE, write_dream_tokenizer

from opencompass_llada.networks import SDARConfig, SDARForMaskedDiffusion


def sdar_fields(**overrides: Any) -> dict[str, Any]:
    """Return config.json in the fields of JetLM's SDAR-8B-Chat, at a tiny size."""
    fields: dict[str, Any] = {
        "architectures": ["SDARForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_sdar.SDARConfig",
            "AutoModel": "modeling_sdar.SDARModel",
            "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
        },
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_implementation": "flex_attention",
        "bos_token_id": EOS_ID,
        "debug": False,
        "eos_token_id": EOS_ID,
        "block_size": 4,
        "mask_token_id": MASK_ID,
        "ep_size": 1,
        "fuse_cross_entropy": True,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "max_window_layers": 2,
        "micro_forward": False,
        "model_type": "sdar",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000,
        "skip_checkpoint": False,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.4",
        "use_cache": False,
        "use_deepep": False,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }
    return {**fields, **overrides}


def tiny_sdar(*, seed: int = 0, **overrides: Any) -> SDARForMaskedDiffusion:
    """Return a random float32 network, whose norms are random too and whose attention is peaked."""
    torch.manual_seed(seed)
    model = SDARForMaskedDiffusion(SDARConfig(**sdar_fields(**overrides)))
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(weight, mean=2.0 if "self_attn" in name else 1.0, std=0.1)
    return model.eval().requires_grad_(False)


def write_tiny_sdar(
    directory: Path, *, seed: int = 0, num_shards: int = 1, **overrides: Any
) -> Path:
    """Write a random checkpoint with a Qwen2-like tokenizer, and return its folder."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    fields = sdar_fields(**overrides)
    (directory / "config.json").write_text(json.dumps(fields, indent=2))
    save_shards(directory, tiny_sdar(seed=seed, **overrides).state_dict(), num_shards)
    write_dream_tokenizer(directory)
    return directory
