"""The networks that can be trained: LLaDA, and a Llama of the same shape as its twin.

Builds them with fresh weights and runs them up to the hidden states; knows no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from opencompass_llada.finetune.arithmetic import Shape
from opencompass_llada.networks import LLaDAConfig, LLaDAForMaskedDiffusion
from opencompass_llada.options import reject_unknown

#: LLaDA's name of a size -> Llama's.
LLAMA_NAMES = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers",
    "mlp_hidden_size": "intermediate_size",
    "rms_norm_eps": "rms_norm_eps",
    "init_std": "initializer_range",
    "rope_theta": "rope_theta",
}


def llama_config(
    fields: Mapping[str, Any], *, vocab_size: int, trained_length: int, eos_token_id: int
) -> LlamaConfig:
    """Return the config of the autoregressive network of the same shape.

    Args:
        fields: Sizes in the names of LLaDA's config.json.
        vocab_size: Entries of the tokenizer.
        trained_length: Tokens of the longest row trained on.
        eos_token_id: End of sequence.

    Returns:
        A config with an untied head and RMSNorm's epsilon as LLaDA's, in a form that both majors
        of transformers read.

    Raises:
        ValueError: For a field that Llama has no name for.
    """
    reject_unknown("model key of the autoregressive objective", fields, LLAMA_NAMES)
    shape = LLaDAConfig(**fields, vocab_size=vocab_size, mask_token_id=0, eos_token_id=eos_token_id)
    sizes = {theirs: getattr(shape, ours) for ours, theirs in LLAMA_NAMES.items()}
    return LlamaConfig(
        **sizes,
        # transformers 5 reads rope_parameters, 4 reads rope_theta and ignores the other.
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        vocab_size=vocab_size,
        max_position_embeddings=trained_length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
    )


def hidden_states(model: PreTrainedModel, input_ids_BL: torch.Tensor) -> torch.Tensor:
    """Run a network up to its final norm.

    Args:
        model: LLaDA (bidirectional) or Llama (causal).
        input_ids_BL: int64.

    Returns:
        [B, L, M].
    """
    if isinstance(model, LLaDAForMaskedDiffusion):
        return model.hidden_states(input_ids_BL)
    assert isinstance(model, LlamaForCausalLM), type(model)
    return model.model(input_ids=input_ids_BL, use_cache=False).last_hidden_state


def network_shape(config: PretrainedConfig, adapter_rank: int = 0) -> Shape:
    """Return the sizes that memory and arithmetic depend on, of a LLaDA's or a Llama's config."""
    if isinstance(config, LLaDAConfig):
        own = config.shape
        heads, kv_heads, width = own.num_heads, own.num_groups, own.width
        layers, inner, entries = own.num_layers, own.mlp_width, own.vocabulary
    else:
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        width, layers = config.hidden_size, config.num_hidden_layers
        inner, entries = config.intermediate_size, config.vocab_size
    return Shape(
        width=width,
        kv_width=width // heads * kv_heads,
        num_layers=layers,
        mlp_width=inner,
        vocab_size=entries,
        adapter_rank=adapter_rank,
    )
