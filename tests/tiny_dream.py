"""Tiny random Dream checkpoints in the published format, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny import save_shards
from tokenizers import pre_tokenizers

from opencompass_llada.networks import DreamConfig, DreamForMaskedDiffusion

EOS_TOKEN, EOT_TOKEN, MASK_TOKEN, START_TOKEN = (
    *("<|endoftext|>", "<|im_end|>", "<|mask|>", "<|im_start|>"),
)
MERGED = ["he", "hel", "hell"]
EOS_ID, EOT_ID, MASK_ID, START_ID, VOCAB_SIZE = 259, 260, 261, 262, 264


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
    """Write a random checkpoint with tokenizer, in the published format, and return its folder.

    Ids 0-255 are bytes, and those that merge are a few entries more, before the special tokens.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    fields = dream_fields(**overrides)
    (directory / "config.json").write_text(json.dumps(fields, indent=2))
    save_shards(directory, tiny_dream(seed=seed, **overrides).state_dict(), num_shards)
    write_dream_tokenizer(directory)
    return directory


def write_dream_tokenizer(directory: Path) -> None:
    """Write a tokenizer as Dream-org's checkpoints hold it: no tokenizer.json, a remote class."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: i for i, char in enumerate(alphabet)}
    vocabulary |= {merged: len(alphabet) + i for i, merged in enumerate(MERGED)}
    merges = [f"{merged[:-1]} {merged[-1]}" for merged in MERGED]
    specials = {EOS_ID: EOS_TOKEN, EOT_ID: EOT_TOKEN, MASK_ID: MASK_TOKEN, START_ID: START_TOKEN}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token_id): {"content": token, "special": True, **flags}
            for token_id, token in specials.items()
        },
        "additional_special_tokens": [START_TOKEN, EOT_TOKEN],
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS_TOKEN,
        "errors": "replace",
        "mask_token": MASK_TOKEN,
        "model_max_length": 131072,
        "pad_token": EOS_TOKEN,
        "split_special_tokens": False,
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
