"""Tiny random LLaDA checkpoints in the published format, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opencompass_llada.networks import LLaDAConfig, LLaDAForMaskedDiffusion

EOS_TOKEN, EOT_TOKEN, MASK_TOKEN = "<|endoftext|>", "<|eot_id|>", "<|mdm_mask|>"
EOS_ID, EOT_ID, MASK_ID, VOCAB_SIZE = 256, 257, 258, 260


def tiny_config(**overrides: Any) -> LLaDAConfig:
    """Return a two-block configuration; any published field can be overridden."""
    fields: dict[str, Any] = {
        "d_model": 32,
        "n_heads": 2,
        "n_kv_heads": 2,
        "n_layers": 2,
        "mlp_hidden_size": 48,
        "vocab_size": VOCAB_SIZE,
        "embedding_size": VOCAB_SIZE,
        "max_sequence_length": 64,
        "rope_theta": 10000.0,
        "init_std": 0.2,
        "mask_token_id": MASK_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
    }
    return LLaDAConfig(**{**fields, **overrides})


def tiny_model(*, seed: int = 0, **overrides: Any) -> LLaDAForMaskedDiffusion:
    """Return a random float32 network whose predictions vary with position and content."""
    torch.manual_seed(seed)
    return LLaDAForMaskedDiffusion(tiny_config(**overrides)).eval().requires_grad_(False)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer: ids 0-255 are bytes, then EOS, EoT, mask and one spare."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS_TOKEN, EOT_TOKEN, MASK_TOKEN, "<|spare|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=EOS_TOKEN,
        mask_token=MASK_TOKEN,
        clean_up_tokenization_spaces=False,
    )


def published_fields(config: LLaDAConfig) -> dict[str, Any]:
    """Return config.json as GSAI-ML/LLaDA-8B-Base writes it, with this configuration's sizes."""
    own = ("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "vocab_size")
    own += ("embedding_size", "max_sequence_length", "rope_theta", "rms_norm_eps", "init_std")
    own += ("mask_token_id", "eos_token_id", "pad_token_id", "weight_tying")
    return {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "embedding_dropout": 0.0,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rope": True,
        "rope_full_precision": True,
        "scale_logits": False,
        "transformers_version": "4.46.3",
        "use_cache": False,
        **{name: getattr(config, name) for name in own},
    }


def write_tiny_checkpoint(
    directory: Path, *, seed: int = 0, num_shards: int = 1, **overrides: Any
) -> Path:
    """Write a random checkpoint with tokenizer, in the published format, and return its folder."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model = tiny_model(seed=seed, **overrides)
    fields = published_fields(model.config)
    (directory / "config.json").write_text(json.dumps(fields, indent=2))
    save_shards(directory, model.state_dict(), num_shards)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def save_shards(directory: Path, weights: dict[str, torch.Tensor], num_shards: int) -> None:
    """Write weights as one safetensors file, or as several with their index."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    names = sorted(tensors)
    if num_shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::num_shards]}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
