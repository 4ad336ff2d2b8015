"""Tiny random DiffusionGemma checkpoints, for tests; transformers from 5.11 on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from tiny import EOS_ID, MASK_ID, VOCAB_SIZE, tiny_tokenizer

CANVAS = 8


def tiny_diffusion_gemma(*, seed: int = 0) -> torch.nn.Module:
    """Return a random float32 network with a canvas of 8 tokens and two kinds of layers."""
    text = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,
        "pad_token_id": EOS_ID,
        "eos_token_id": EOS_ID,
        "bos_token_id": None,
    }
    vision = {
        "model_type": "gemma4_vision",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "position_embedding_size": 16,
    }
    config = transformers.DiffusionGemmaConfig(
        text_config=text,
        vision_config=vision,
        canvas_length=CANVAS,
        initializer_range=0.3,
        image_token_id=MASK_ID,
        boi_token_id=MASK_ID,
        eoi_token_id=MASK_ID,
    )
    torch.manual_seed(seed)
    return transformers.DiffusionGemmaForBlockDiffusion(config).eval().requires_grad_(False)


def write_tiny_diffusion_gemma(
    directory: Path, *, seed: int = 0, max_denoising_steps: int = 5
) -> Path:
    """Write a random checkpoint with a tokenizer and return its folder."""
    tiny_diffusion_gemma(seed=seed).save_pretrained(directory)
    file = Path(directory) / "generation_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "max_denoising_steps": max_denoising_steps}))
    tiny_tokenizer().save_pretrained(directory)
    return Path(directory)
