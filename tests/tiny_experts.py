"""Tiny random LLaDA2 and LLaDA-MoE checkpoints in the published format, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny import save_shards
from tiny_dream import EOS_ID, MASK_ID, VOCAB_SIZE, write_dream_tokenizer

from opencompass_llada.networks import (
    BidirectionalNetwork,
    LLaDA2MoeConfig,
    LLaDA2MoeForMaskedDiffusion,
    LLaDAMoEConfig,
    LLaDAMoEForMaskedDiffusion,
)

#: Of the tokenizer of `tiny_dream`; published files have another one, and do not name the mask.
IDS = {"mask_token_id": MASK_ID, "eos_token_id": EOS_ID}


def llada2_fields(**overrides: Any) -> dict[str, Any]:
    """Return config.json in the fields of inclusionAI's LLaDA2.0-mini, at a tiny size."""
    fields: dict[str, Any] = {
        "architectures": ["LLaDA2MoeModelLM"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
            "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
            "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
        },
        **IDS,
        "num_hidden_layers": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "model_type": "llada2_moe",
        "moe_intermediate_size": 16,
        "norm_topk_prob": True,
        "num_experts_per_tok": 3,
        "norm_head": False,
        "num_attention_heads": 4,
        "num_experts": 8,
        "num_key_value_heads": 2,
        "rope_theta": 10000,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.3",
        "use_bias": False,
        "use_rmsnorm": True,
        "rms_norm_eps": 1e-06,
        "head_dim": 16,
        "num_shared_experts": 1,
        "use_cache": False,
        "use_qkv_bias": False,
        "embedding_dropout": 0.0,
        "norm_softmax": False,
        "output_dropout": 0.0,
        "vocab_size": VOCAB_SIZE,
        "rotary_dim": 8,
        "using_split_qkv_in_self_attention": False,
        "router_dtype": "fp32",
        "moe_router_enable_expert_bias": True,
        "routed_scaling_factor": 2.5,
        "n_group": 4,
        "topk_group": 2,
        "score_function": "sigmoid",
        "initializer_range": 0.2,
        "max_window_layers": 28,
        "output_router_logits": False,
        "pad_token_id": EOS_ID,
        "partial_rotary_factor": 0.5,
        "use_sliding_window": False,
    }
    return {**fields, **overrides}


def llada_moe_fields(**overrides: Any) -> dict[str, Any]:
    """Return config.json in the fields of LLaDA-MoE's code, with all that it may have."""
    fields: dict[str, Any] = {
        "architectures": ["LLaDAMoEModelLM"],
        **IDS,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_lladamoe.LLaDAMoEConfig",
            "AutoModel": "modeling_lladamoe.LLaDAMoEModelLM",
        },
        "clip_qkv": None,
        "dense_intermediate_size": 48,
        "expert_intermediate_size": 16,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.2,
        "max_position_embeddings": 128,
        "model_type": "lladamoe",
        "moe_layer_freq": [0, 1, 1],
        "moe_router_enable_expert_bias": True,
        "moe_router_score_function": "softmax",
        "norm_topk_prob": None,
        "num_attention_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "output_router_logits": False,
        "pad_token_id": EOS_ID,
        "partial_rotary_factor": 1,
        "qk_layernorm": True,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 50000,
        "routed_scaling_factor": 1,
        "router_aux_loss_coef": 0.01,
        "router_num_group": None,
        "router_topk_group": None,
        "shared_expert_intermediate_size": 24,
        "tie_word_embeddings": False,
        "use_cache": False,
        "vocab_size": VOCAB_SIZE,
    }
    return {**fields, **overrides}


def _random(model: BidirectionalNetwork, seed: int) -> BidirectionalNetwork:
    """Return a network whose scales and biases are random too, or they would not be tested."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.state_dict().items():
        std, mean = (0.1, float("norm" in name)) if "norm" in name or "bias" in name else (0.2, 0.0)
        weight.copy_(mean + std * torch.randn(weight.shape, generator=generator))
    return model.eval().requires_grad_(False)


def tiny_llada2(*, seed: int = 0, **overrides: Any) -> BidirectionalNetwork:
    """Return a random float32 network."""
    config = LLaDA2MoeConfig(**llada2_fields(**overrides))
    return _random(LLaDA2MoeForMaskedDiffusion(config), seed)


def tiny_llada_moe(*, seed: int = 0, **overrides: Any) -> BidirectionalNetwork:
    """Return a random float32 network."""
    config = LLaDAMoEConfig(**llada_moe_fields(**overrides))
    return _random(LLaDAMoEForMaskedDiffusion(config), seed)


def write_tiny_llada2(
    directory: Path, *, seed: int = 0, merged: bool = False, **overrides: Any
) -> Path:
    """Write a random checkpoint and return its folder; ``merged`` as dFactory's converter does."""
    weights = tiny_llada2(seed=seed, **overrides).state_dict()
    if merged:
        number = llada2_fields(**overrides)["num_experts"]
        for first in [name for name in weights if ".experts.0." in name]:
            parts = [
                weights.pop(first.replace(".experts.0.", f".experts.{i}.")) for i in range(number)
            ]
            weights[first.replace(".experts.0.", ".experts.").removesuffix(".weight")] = (
                torch.stack(parts)
            )
        overrides = {"model_type": "llada2_moe_veomni", **overrides}
    return _write(directory, llada2_fields(**overrides), weights)


def write_tiny_llada_moe(directory: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a random checkpoint and return its folder."""
    weights = tiny_llada_moe(seed=seed, **overrides).state_dict()
    return _write(directory, llada_moe_fields(**overrides), weights)


def _write(directory: Path, fields: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(fields, indent=2))
    save_shards(directory, weights, 1)
    write_dream_tokenizer(directory)
    return directory
