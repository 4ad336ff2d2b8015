"""Tiny random iLLaDA checkpoints, LLaDA's format with grouped heads and tied embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import EOS_TOKEN, EOT_TOKEN, MASK_TOKEN, write_tiny_checkpoint
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

#: iLLaDA's mask (ML-GSAI/LLaDA, README); the other special tokens' ids are made up.
MASK_ID, EOS_ID, EOT_ID = 5, 0, 1


def write_tiny_illada(directory: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a checkpoint with the heads of iLLaDA-8B, four a group, and return its folder."""
    sizes = {"n_heads": 4, "n_kv_heads": 1, "weight_tying": True, "vocab_size": 262}
    ids = {"mask_token_id": MASK_ID, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID}
    fields = {**sizes, "embedding_size": 264, "init_std": 0.4, **ids, **overrides}
    folder = write_tiny_checkpoint(directory, seed=seed, **fields)
    illada_tokenizer().save_pretrained(folder)
    return folder


def illada_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with its special tokens first: bytes are ids 6 to 261."""
    specials = [EOS_TOKEN, EOT_TOKEN, *(f"<|spare_{i}|>" for i in range(3)), MASK_TOKEN]
    names = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=EOS_TOKEN,
        mask_token=MASK_TOKEN,
        clean_up_tokenization_spaces=False,
    )
