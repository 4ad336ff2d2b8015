"""Tiny random LLaMA checkpoints in the published format, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny import EOS_ID, VOCAB_SIZE, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM


def published_llama_fields(**overrides: Any) -> dict[str, Any]:
    """Return config.json with the fields of meta-llama/Meta-Llama-3-8B, at a tiny size."""
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": EOS_ID,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.40.0.dev0",
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }
    return {**fields, **overrides}


def write_llama_checkpoint(directory: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a random checkpoint with tokenizer and return its folder."""
    fields = published_llama_fields(**overrides)
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**fields)).save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(fields, indent=2))
    tiny_tokenizer().save_pretrained(directory)
    return directory
