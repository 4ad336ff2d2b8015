"""Builds the network that a run trains: LLaDA, or a Llama of the same shape as its twin.

From scratch or from a checkpoint, with adapters or without, whole or sharded. Trains nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.arithmetic import NetworkShape
from opencompass_llada.finetune.lora import add_adapters, check_targets, initial_adapters
from opencompass_llada.finetune.parallel import Ranks, check_heads, shard
from opencompass_llada.finetune.recipe import LLAMA_NAMES, Recipe
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.networks import (
    BidirectionalNetwork,
    LLaDAConfig,
    LLaDAForMaskedDiffusion,
    locate_checkpoint,
    open_checkpoint,
    read_model_config,
)
from opencompass_llada.networks.checkpoint import refuse_non_finite
from opencompass_llada.prompting.encode import check_vocabulary
from opencompass_llada.rope.methods import DiffusionNTKScaling, RopeScaling, parse_rope_scaling

logger = logging.getLogger(__name__)

#: Yields a checkpoint's tensors by published name; nothing for fresh weights.
StoredTensors = Callable[[], Iterator[tuple[str, torch.Tensor]]]


def network_config(recipe: Recipe, tokens: TrainingTokenizer) -> PretrainedConfig:
    """Return the network's config: what its memory can be planned from before it is built.

    Raises:
        ValueError: If the checkpoint is none that can be trained, or does not fit its tokenizer.
    """
    if recipe.init_from is None:
        return _fresh_config(recipe, tokens)
    fields = read_model_config(locate_checkpoint(resolve_path(recipe.init_from)))
    if fields.get("model_type") != "llada":
        raise ValueError(
            f"init_from={recipe.init_from!r} has model_type={fields.get('model_type')!r}; "
            "post-training knows LLaDA's ('llada')."
        )
    try:
        config = LLaDAConfig.from_dict({k: v for k, v in fields.items() if k != "auto_map"})
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"init_from={recipe.init_from!r}: its config.json makes no network ({error}). Take "
            "config.json from where the weights come from."
        ) from error
    try:
        check_vocabulary(tokens.tokenizer, config.embedding_size)
    except ValueError as error:
        raise ValueError(f"init_from={recipe.init_from!r}: {error}") from error
    return config


def _fresh_config(recipe: Recipe, tokens: TrainingTokenizer) -> PretrainedConfig:
    vocab_size, eos = len(tokens.tokenizer), tokens.end_token_id
    assert eos is not None
    assert tokens.mask_token_id is not None
    config = LLaDAConfig(
        **recipe.model,
        vocab_size=vocab_size,
        max_sequence_length=recipe.trained_length,
        mask_token_id=tokens.mask_token_id,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    if recipe.objective == "masked_diffusion":
        return config
    return LlamaConfig(
        **{theirs: getattr(config, ours) for ours, theirs in LLAMA_NAMES.items()},
        # transformers 5 reads rope_parameters, 4 reads rope_theta and ignores the other.
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        vocab_size=vocab_size,
        max_position_embeddings=recipe.trained_length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=eos,
    )


def network_shape(config: PretrainedConfig, adapter_rank: int = 0) -> NetworkShape:
    """Return the sizes that memory and arithmetic depend on, of a LLaDA's or a Llama's config."""
    if isinstance(config, LLaDAConfig):
        own = config.shape
        heads, kv_heads, width = own.num_heads, own.num_groups, own.width
        layers, inner, entries = own.num_layers, own.mlp_width, own.vocabulary
    else:
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        width, layers = config.hidden_size, config.num_hidden_layers
        inner, entries = config.intermediate_size, config.vocab_size
    return NetworkShape(
        width=width,
        kv_width=width // heads * kv_heads,
        num_layers=layers,
        mlp_width=inner,
        vocab_size=entries,
        adapter_rank=adapter_rank,
    )


def hidden_states(model: PreTrainedModel, input_ids_BL: torch.Tensor) -> torch.Tensor:
    """Run a network, LLaDA or Llama, up to its final norm: [B, L, M]."""
    if isinstance(model, LLaDAForMaskedDiffusion):
        return model.hidden_states(input_ids_BL)
    assert isinstance(model, LlamaForCausalLM), type(model)
    return model.model(input_ids=input_ids_BL, use_cache=False).last_hidden_state


def build_network(
    recipe: Recipe, config: PretrainedConfig
) -> tuple[PreTrainedModel, StoredTensors]:
    """Build the network without reading weights: on the meta device for a checkpoint.

    Raises:
        ValueError: If the checkpoint's weights do not fit its config, its scaling does not fit, an
            adapter has no layer, or heads do not divide.
    """
    if recipe.init_from is None:
        torch.manual_seed(recipe.seed)
        is_llama = isinstance(config, LlamaConfig)
        model = (LlamaForCausalLM if is_llama else LLaDAForMaskedDiffusion)(config)
        shards: Sequence[Path] = ()
    else:
        path = locate_checkpoint(resolve_path(recipe.init_from))
        scaling = _choose_scaling(recipe, config.max_sequence_length)
        model, shards = open_checkpoint(path, rope_scaling=scaling)
        _check_scaling(recipe, model, scaling)
    if recipe.lora is not None:
        check_targets(model, recipe.lora)
    if recipe.sequence_parallel > 1:
        check_heads(model.config.n_heads, model.config.n_kv_heads, recipe.sequence_parallel)
    return model, lambda: _stored_tensors(shards)


def _choose_scaling(recipe: Recipe, trained_length: int) -> RopeScaling:
    """Return the recipe's own scaling, or diffusion_ntk where rows are longer than were trained."""
    if recipe.rope_scaling is not None:
        return parse_rope_scaling(recipe.rope_scaling)
    if recipe.trained_length > trained_length:
        return DiffusionNTKScaling(target_length=recipe.trained_length)
    return RopeScaling()


def _check_scaling(recipe: Recipe, model: PreTrainedModel, scaling: RopeScaling) -> None:
    rope = model.resolved_rope
    logger.info(rope.describe())
    if scaling.type == "none":  # rows may be of any length: a choice that studies compare with
        return
    if recipe.trained_length < model.config.max_sequence_length:
        raise ValueError(
            f"phases: the longest sequence_length={recipe.trained_length} is below the "
            f"checkpoint's trained length {model.config.max_sequence_length}; scaling only "
            "lengthens. Use longer rows, or rope_scaling={type: none}."
        )
    if recipe.trained_length > rope.longest_context:
        raise ValueError(
            f"phases: sequence_length={recipe.trained_length} is longer than the "
            f"{rope.longest_context} tokens that rope_scaling {scaling.type!r} was computed for; "
            f"set its target_length to {recipe.trained_length}."
        )


def _stored_tensors(shards: Sequence[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in shards:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no dict)
                tensor = tensors.get_tensor(name)
                refuse_non_finite([(name, tensor)], str(file))
                yield name, tensor


def place_network(
    model: PreTrainedModel,
    recipe: Recipe,
    ranks: Ranks,
    stored: StoredTensors,
    wrap: Callable[[PreTrainedModel], nn.Module],
) -> nn.Module:
    """Add adapters, set precisions, shard, and put the weights in place.

    Args:
        model: From `build_network`.
        recipe: Adapters and precision.
        ranks: Device and sharding.
        stored: Yields a checkpoint's tensors.
        wrap: Makes the module whose forward pass is called.

    Returns:
        The wrapped network, its weights on the device.
    """
    trained = getattr(torch, recipe.parameter_dtype)
    # Frozen weights need no float32; FSDP wants one dtype for all.
    one_device = ranks.world_size == 1 and ranks.device.type == "cuda"
    is_meta = any(parameter.is_meta for parameter in model.parameters())
    if recipe.lora is None:
        model.to(trained).requires_grad_(True)
    else:
        model.to(torch.bfloat16 if one_device else trained)
        add_adapters(model, recipe.lora, trained)
    if not is_meta:
        model.to(ranks.device)
    network = wrap(model)
    blocks = model.blocks if isinstance(model, BidirectionalNetwork) else model.model.layers
    shard(network, list(blocks), ranks)
    if is_meta:
        network.to_empty(device=ranks.device)
        _fill_weights(model, stored())
    _fill_weights(model, initial_adapters(model, recipe.seed))
    return network.train()


def _fill_weights(model: nn.Module, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Copy tensors into the parameters, whole or sharded, adapters or not, in their own dtype."""
    parameters: dict[str, Any] = {
        name.replace(".base_layer.", "."): parameter for name, parameter in model.named_parameters()
    }
    with torch.no_grad():
        for name, tensor in tensors:
            parameter = parameters[name]
            mesh = getattr(parameter, "device_mesh", None)
            value = tensor.to(parameter.dtype)
            if mesh is not None:
                from torch.distributed.tensor import distribute_tensor

                value = distribute_tensor(
                    value.to(parameter.device), mesh, parameter.placements, src_data_rank=None
                )
            parameter.copy_(value)
