"""Builds the network that a run trains: LLaDA, SDAR, or a Llama of LLaDA's shape as its twin.

From scratch or from a checkpoint, with low-rank adapters (by peft) or without, whole or sharded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.adapters import (
    add_adapters,
    check_adapters,
    initial_adapters,
    is_adapter,
)
from opencompass_llada.finetune.forward import TrainingNetwork
from opencompass_llada.finetune.frozen import freeze_in_float8, frozen_layers
from opencompass_llada.finetune.parallel import Ranks, shard, whole_tensor
from opencompass_llada.finetune.recipe import LLAMA_NAMES, Lora, Recipe
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.networks import (
    BidirectionalNetwork,
    LLaDAConfig,
    LLaDAForMaskedDiffusion,
    SDARConfig,
    SDARForMaskedDiffusion,
    locate_checkpoint,
    open_checkpoint,
    read_model_config,
)
from opencompass_llada.networks.attention_pattern import Blocks
from opencompass_llada.networks.checkpoint import refuse_non_finite
from opencompass_llada.networks.config import BidirectionalConfig
from opencompass_llada.networks.sequence_parallel import check_heads
from opencompass_llada.prompting.encode import check_vocabulary
from opencompass_llada.rope.methods import (
    DiffusionNTKScaling,
    NTKScaling,
    RopeScaling,
    parse_rope_scaling,
)

logger = logging.getLogger(__name__)

#: Tensors by published name, read one by one as they are taken.
NamedTensors = Iterable[tuple[str, Tensor]]


class StoredTensors:
    """A checkpoint's tensors by published name, read when they are asked for.

    The files stay mapped into memory until `close`: see `reads_start_again`.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Open the files, and read what they hold but no tensor."""
        self._places: dict[str, tuple[Path, Any]] = {}
        for file in files:
            tensors = safe_open(file, framework="pt")
            self._places |= dict.fromkeys(tensors.keys(), (file, tensors))

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor with its name."""
        return ((name, self[name]) for name in self._places)

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor on the CPU; one that is not finite is a CheckpointError."""
        file, tensors = self._places[name]
        tensor = tensors.get_tensor(name)
        refuse_non_finite([(name, tensor)], str(file))
        return tensor

    def close(self) -> None:
        """Let go of the files, whose tensors cannot be read any more."""
        self._places.clear()


def reads_start_again(recipe: Recipe) -> bool:
    """Tell whether checkpoints are written from weights of ``init_from``, and not the network's.

    Those that float8 rounds are merged with adapters unrounded. Their files stay open, since they
    must be there when a run of days ends, even where somebody has removed or replaced them.
    """
    lora = recipe.lora
    return lora is not None and lora.frozen_precision is not None and lora.save != "adapter"


#: The networks that an objective trains, by their model_type; Llama is the small twin alone.
TRAINED: dict[str, dict[str, type[BidirectionalConfig]]] = {
    "masked_diffusion": {"llada": LLaDAConfig},
    "block_diffusion": {"sdar": SDARConfig},
    "autoregressive": {},
}


def network_config(recipe: Recipe, tokens: TrainingTokenizer) -> BidirectionalConfig:
    """Return the sizes of the network, or of the autoregressive twin's LLaDA, checked."""
    config = _read_config(recipe, tokens)
    blocks = config.shape.num_layers
    if recipe.keep_mlp > blocks:
        raise ValueError(
            f"recipe: keep_mlp={recipe.keep_mlp} must be at most the {blocks} blocks of the "
            f"network: it says in how many of them, the last ones, the MLP's products are kept. "
            f"Use keep_mlp={blocks} for all of them."
        )
    return config


def _read_config(recipe: Recipe, tokens: TrainingTokenizer) -> BidirectionalConfig:
    if recipe.init_from is None:
        config = LLaDAConfig(
            **recipe.model,
            vocab_size=len(tokens.tokenizer),
            max_sequence_length=recipe.trained_length,
            mask_token_id=cast(int, tokens.mask_token_id),
            eos_token_id=cast(int, tokens.end_token_id),
            pad_token_id=tokens.end_token_id,
        )
        return _sdar_config(config, recipe) if recipe.objective == "block_diffusion" else config
    fields = read_model_config(locate_checkpoint(resolve_path(recipe.init_from)))
    if recipe.objective == "autoregressive":
        return _twin_config(fields, recipe, tokens)
    kind, own = fields.get("model_type"), TRAINED[recipe.objective]
    if kind not in own:
        others = [name for name, kinds in TRAINED.items() if kind in kinds]
        known = {kind: name for name, kinds in TRAINED.items() for kind in kinds}
        remedy = f"Use objective={others[0]}." if others else "Use a checkpoint of one of them."
        raise ValueError(
            f"init_from={recipe.init_from!r} has model_type={kind!r}, and post-training with "
            f"objective={recipe.objective!r} knows {' and '.join(map(repr, own))} alone (of all, "
            f"{', '.join(f'{kind!r} with {name}' for kind, name in known.items())}). {remedy}"
        )
    try:
        config = own[kind].from_dict({k: v for k, v in fields.items() if k != "auto_map"})
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"init_from={recipe.init_from!r}: its config.json makes no network ({error}). Take "
            "config.json from where the weights come from."
        ) from error
    try:
        check_vocabulary(tokens.tokenizer, config.shape.vocabulary)
    except ValueError as error:
        raise ValueError(f"init_from={recipe.init_from!r}: {error}") from error
    return config


def _twin_config(
    fields: Mapping[str, Any], recipe: Recipe, tokens: TrainingTokenizer
) -> LLaDAConfig:
    """Return the LLaDA that a twin's config.json is the shape of."""
    length = int(fields.get("max_position_embeddings") or 0)
    names = {**LLAMA_NAMES, "vocab_size": "vocab_size"}
    if fields.get("model_type") != "llama" or any(fields.get(n) is None for n in names.values()):
        raise ValueError(
            f"init_from={recipe.init_from!r} is no small Llama of this package, and training with "
            "objective='autoregressive' goes on from these alone, such as asset:tiny-ar."
        )
    if recipe.trained_length > length:
        raise ValueError(
            f"phases: sequence_length={recipe.trained_length} is longer than the {length} tokens "
            f"of init_from={recipe.init_from!r}, whose RoPE is not scaled; use shorter rows."
        )
    return LLaDAConfig(
        **{ours: fields[theirs] for ours, theirs in names.items()},
        max_sequence_length=length,
        mask_token_id=tokens.tokenizer.mask_token_id,
        eos_token_id=cast(int, tokens.end_token_id),
        pad_token_id=tokens.end_token_id,
    )


def _sdar_config(config: LLaDAConfig, recipe: Recipe) -> SDARConfig:
    return SDARConfig(
        **{theirs: getattr(config, ours) for ours, theirs in LLAMA_NAMES.items()},
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_sequence_length,
        block_size=recipe.final_block_length,
        mask_token_id=config.mask_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _llama_config(config: LLaDAConfig) -> LlamaConfig:
    return LlamaConfig(
        **{theirs: getattr(config, ours) for ours, theirs in LLAMA_NAMES.items()},
        # transformers 5 reads rope_parameters, 4 reads rope_theta and ignores the other.
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_sequence_length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def build_network(
    recipe: Recipe, config: BidirectionalConfig
) -> tuple[PreTrainedModel, StoredTensors]:
    """Build the network, and say what to fill it with: a checkpoint's is on the meta device."""
    shards: Sequence[Path] = ()
    if recipe.init_from is None:
        torch.manual_seed(recipe.seed)
        if recipe.objective == "autoregressive":
            model = LlamaForCausalLM(_llama_config(cast(LLaDAConfig, config)))
        elif recipe.objective == "block_diffusion":
            model = SDARForMaskedDiffusion(config)
        else:
            model = LLaDAForMaskedDiffusion(config)
    elif recipe.objective == "autoregressive":
        model = LlamaForCausalLM.from_pretrained(resolve_path(recipe.init_from))
    else:
        path, scaling = locate_checkpoint(resolve_path(recipe.init_from)), RopeScaling()
        if recipe.rope_scaling is not None:
            scaling = parse_rope_scaling(recipe.rope_scaling)
        elif recipe.trained_length > config.trained_length:
            one_sided = recipe.objective == "block_diffusion"
            method = NTKScaling if one_sided else DiffusionNTKScaling
            scaling = method(target_length=recipe.trained_length)
        block_length = recipe.final_block_length
        pattern = None if block_length is None else Blocks(block_length)
        model, shards = open_checkpoint(path, rope_scaling=scaling, attention_pattern=pattern)
        if block_length is not None and hasattr(model.config, "block_size"):
            model.config.block_size = block_length
        _check_scaling(recipe, model, scaling)
    if recipe.lora is not None:
        check_adapters(cast(BidirectionalNetwork, model), recipe.lora)
    if recipe.sequence_parallel > 1:
        check_heads(config, recipe.sequence_parallel)
    return model, StoredTensors(shards)


def _check_scaling(recipe: Recipe, model: PreTrainedModel, scaling: RopeScaling) -> None:
    rope = model.resolved_rope
    logger.info(rope.describe())
    if scaling.type == "none":  # rows may be of any length: a choice that studies compare with
        return
    if recipe.trained_length < model.config.trained_length:
        raise ValueError(
            f"phases: the longest sequence_length={recipe.trained_length} is below the "
            f"checkpoint's trained length {model.config.trained_length}; scaling only "
            "lengthens. Use longer rows, or rope_scaling={type: none}."
        )
    if recipe.trained_length > rope.longest_context:
        raise ValueError(
            f"phases: sequence_length={recipe.trained_length} is longer than the "
            f"{rope.longest_context} tokens that rope_scaling {scaling.type!r} was computed for; "
            f"set its target_length to {recipe.trained_length}."
        )


def place_network(
    model: PreTrainedModel,
    recipe: Recipe,
    ranks: Ranks,
    stored: NamedTensors,
    group: dist.ProcessGroup | None,
) -> nn.Module:
    """Add adapters, set precisions, add the objective, shard, put weights in place on the device.

    ``group`` shares each row with this process, if any does.
    """
    trained = getattr(torch, recipe.parameter_dtype)
    # Frozen weights need no float32; FSDP wants one dtype for all.
    one_device = ranks.world_size == 1 and ranks.device.type == "cuda"
    is_meta = any(parameter.is_meta for parameter in model.parameters())
    if recipe.lora is None:
        model.to(trained).requires_grad_(True)
    else:
        model.to(torch.bfloat16 if one_device else trained)
        add_adapters(cast(BidirectionalNetwork, model), recipe.lora, trained)
        if recipe.lora.frozen_precision == "float8":
            freeze_in_float8(cast(BidirectionalNetwork, model))
    if not is_meta:
        model.to(ranks.device)
    network = TrainingNetwork(model, recipe, ranks.device, group)
    blocks = model.blocks if isinstance(model, BidirectionalNetwork) else model.model.layers
    # FSDP gathers a block in one piece of one dtype, which float8 weights and scales are not.
    layers = frozen_layers(model).values()
    whole = {parameter for layer in layers for parameter in (layer.weight, layer.scales)}
    shard(network, list(blocks), ranks, whole)
    if is_meta:
        network.to_empty(device=ranks.device)
        _fill_weights(model, stored)
    _fill_weights(model, initial_adapters(model, recipe.seed))
    return network.train()


def _fill_weights(model: nn.Module, tensors: NamedTensors) -> None:
    """Copy tensors into the parameters, whole or sharded, adapters or not, in their own dtype."""
    frozen = frozen_layers(model)
    parameters: dict[str, Any] = {
        name.replace(".base_layer.", "."): parameter for name, parameter in model.named_parameters()
    }
    with torch.no_grad():
        for name, tensor in tensors:
            if name in frozen:
                frozen[name].load(tensor)
                continue
            parameter = parameters[name]
            value = tensor.to(parameter.dtype)
            if isinstance(parameter, DTensor):
                value, places = value.to(parameter.device), parameter.placements
                value = distribute_tensor(value, parameter.device_mesh, places, src_data_rank=None)
            parameter.copy_(value)


def published_tensors(
    model: nn.Module, lora: Lora | None, dtype: torch.dtype, stored: StoredTensors
) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor by its published name, whole and merged, on the CPU, on all ranks.

    What the network has in float8 is taken as it is in the start checkpoint, ``stored``.
    """
    values, frozen = dict(model.named_parameters()), frozen_layers(model)
    adapters = {name: whole_tensor(values[name].detach()) for name in values if is_adapter(name)}
    scales = {f"{name.removesuffix('.weight')}.scales" for name in frozen}
    for name, value in values.items():
        published = name.replace(".base_layer.", ".")
        if is_adapter(name) or published in scales:
            continue
        if published in frozen:
            weight = stored[published].to(value.device)
        else:
            weight = whole_tensor(value.detach())
        stem, is_adapted, _ = name.partition(".base_layer.weight")
        if is_adapted:
            assert lora is not None
            down, up = (adapters[f"{stem}.lora_{side}.default.weight"].float() for side in "AB")
            weight = weight.float() + lora.alpha / lora.rank * (up @ down)
        yield published, weight.to("cpu", dtype).contiguous()
