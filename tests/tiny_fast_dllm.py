"""Tiny random Fast-dLLM v2 checkpoints in the published format, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny import save_shards
from tiny_dream import EOS_ID, EOT_ID, MASK_ID, VOCAB_SIZE, write_dream_tokenizer

from opencompass_llada.networks import FastDLLMConfig, FastDLLMForMaskedDiffusion


def fast_dllm_fields(**overrides: Any) -> dict[str, Any]:
    """Return config.json in the fields of Efficient-Large-Model/Fast_dLLM_v2_7B, at a tiny size.

    The published one has no mask_token_id; a tiny vocabulary cannot do with the default.
    """
    fields: dict[str, Any] = {
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration.Fast_dLLM_QwenConfig",
            "AutoModel": "modeling.Fast_dLLM_QwenModel",
            "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM",
        },
        "bd_size": 8,
        "bos_token_id": EOS_ID,
        "conplemenrary_mask": True,
        "eos_token_id": EOT_ID,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.2,
        "intermediate_size": 48,
        "layer_types": ["full_attention"] * 2,
        "mask_token_id": MASK_ID,
        "max_position_embeddings": 32768,
        "max_window_layers": 2,
        "model_type": "Fast_dLLM_Qwen",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": EOT_ID,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.53.1",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }
    return {**fields, **overrides}


def tiny_fast_dllm(*, seed: int = 0, **overrides: Any) -> FastDLLMForMaskedDiffusion:
    """Return a random float32 network whose predictions vary with position and content."""
    torch.manual_seed(seed)
    model = FastDLLMForMaskedDiffusion(FastDLLMConfig.from_dict(fast_dllm_fields(**overrides)))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # the initial ones are 0
            parameter.data.normal_(0.0, 0.2)
    return model.eval().requires_grad_(False)


def write_tiny_fast_dllm(directory: Path, *, num_shards: int = 1, **options: Any) -> Path:
    """Write a random checkpoint with a tokenizer and return its folder."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    overrides = {name: value for name, value in options.items() if name != "seed"}
    model = tiny_fast_dllm(**options)
    (directory / "config.json").write_text(json.dumps(fast_dllm_fields(**overrides)))
    save_shards(directory, model.state_dict(), num_shards)
    write_dream_tokenizer(directory)
    file = directory / "tokenizer_config.json"
    settings = {**json.loads(file.read_text()), "tokenizer_class": "Qwen2Tokenizer"}
    file.write_text(json.dumps({k: v for k, v in settings.items() if k != "auto_map"}))
    return directory
