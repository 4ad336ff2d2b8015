"""What training starts from: tokenizer and network, from scratch or from a checkpoint.

Reads checkpoints; trains nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.lora import add_adapters, initial_adapters
from opencompass_llada.finetune.networks import llama_config
from opencompass_llada.finetune.parallel import Ranks, shard
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.text import EOS_TOKEN, MASK_TOKEN, read_documents, train_tokenizer
from opencompass_llada.logs import get_logger
from opencompass_llada.networks import (
    BidirectionalNetwork,
    LLaDAConfig,
    LLaDAForMaskedDiffusion,
    locate_checkpoint,
    open_checkpoint,
    read_model_config,
)
from opencompass_llada.networks.checkpoint import refuse_non_finite
from opencompass_llada.prompting.encode import check_vocabulary, load_tokenizer
from opencompass_llada.rope.methods import DiffusionNTKScaling, RopeScaling, parse_rope_scaling

logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingTokenizer:
    """A tokenizer and the ids that training needs.

    Attributes:
        tokenizer: As transformers loads it.
        end_token_id: Ends a document and an answer; None if the tokenizer has none.
        mask_token_id: The mask; None for an autoregressive network.
    """

    tokenizer: PreTrainedTokenizerFast
    end_token_id: int | None
    mask_token_id: int | None

    @functools.cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer without special tokens: their text is text, whatever the file marks."""
        fields = json.loads(self.tokenizer.backend_tokenizer.to_str())
        special = {*self.tokenizer.all_special_ids, self.end_token_id, self.mask_token_id}
        for token in fields["added_tokens"]:
            token["special"] = token["special"] or token["id"] in special
        plain = Tokenizer.from_str(json.dumps(fields))
        plain.no_truncation()
        plain.no_padding()
        plain.encode_special_tokens = True
        return plain

    def __getstate__(self) -> dict[str, Any]:
        """Leave `_plain` out, which forgets in another process that special tokens are text."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens; the text of a special token is text like any other."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of several texts as `encode` does.

        Raises:
            ValueError: If the tokenizer cannot read the text of its mask or end token as text.
        """
        encoded = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [row.ids for row in encoded]
        for name in ("mask_token_id", "end_token_id"):
            token = getattr(self, name)
            if any(token in ids for ids in rows):
                raise ValueError(
                    f"text: the tokenizer reads the text of its special token {token} ({name}, "
                    f"{self.decode([token])!r}) as that token, and offers no way to read it as "
                    "text. Take that text out of the documents, or use another tokenizer.json."
                )
        return rows

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special tokens as they are written."""
        return self.tokenizer.backend_tokenizer.decode(list(token_ids), skip_special_tokens=False)

    @property
    def digest(self) -> str:
        """A digest of everything that decides its output."""
        return hashlib.sha256(self._plain.to_str().encode()).hexdigest()


def make_tokenizer(recipe: Recipe) -> TrainingTokenizer:
    """Train the tokenizer on the recipe's text, or load the checkpoint's.

    Raises:
        ValueError: If the checkpoint has no fast tokenizer, or its text cannot be read.
    """
    if recipe.init_from is None:
        assert recipe.vocab_size is not None
        texts = (document.text for source in recipe.text for document in read_documents(source))
        tokenizer = train_tokenizer(texts, recipe.vocab_size)
        return TrainingTokenizer(
            tokenizer=tokenizer,
            end_token_id=tokenizer.convert_tokens_to_ids(EOS_TOKEN),
            mask_token_id=tokenizer.convert_tokens_to_ids(MASK_TOKEN),
        )
    folder = locate_checkpoint(resolve_path(recipe.init_from))
    fields = read_model_config(folder)
    try:
        tokenizer = load_tokenizer(folder, {})
    except ValueError as error:
        raise ValueError(
            f"init_from={recipe.init_from!r} holds no tokenizer that can be loaded ({error}). Put "
            "tokenizer.json and tokenizer_config.json beside config.json."
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(f"init_from={recipe.init_from!r} has no fast tokenizer (tokenizer.json).")
    return TrainingTokenizer(
        tokenizer=tokenizer,
        end_token_id=tokenizer.eos_token_id,
        mask_token_id=fields.get("mask_token_id"),
    )


def choose_scaling(recipe: Recipe, trained_length: int) -> RopeScaling:
    """Return the RoPE scaling of post-training.

    Args:
        recipe: Its scaling and longest row.
        trained_length: The checkpoint's, in tokens.

    Returns:
        The recipe's own; by default diffusion_ntk for the longest row, or none where the
        checkpoint was trained on rows as long.
    """
    if recipe.rope_scaling is not None:
        return parse_rope_scaling(recipe.rope_scaling)
    if recipe.trained_length > trained_length:
        return DiffusionNTKScaling(target_length=recipe.trained_length)
    return RopeScaling()


def network_config(recipe: Recipe, tokens: TrainingTokenizer) -> PretrainedConfig:
    """Return the network's config: what its memory can be planned from before it is built.

    Args:
        recipe: Sizes or the checkpoint.
        tokens: The tokenizer.

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


def build_network(
    recipe: Recipe, config: PretrainedConfig
) -> tuple[PreTrainedModel, Callable[[], Iterator[tuple[str, torch.Tensor]]]]:
    """Build the network without reading weights.

    Args:
        recipe: The checkpoint, and the scaling.
        config: From `network_config`.

    Returns:
        The network (on the meta device for a checkpoint), and a function that yields a
        checkpoint's tensors by name (nothing for fresh weights, which the network then holds).

    Raises:
        ValueError: If the checkpoint's weights do not fit its config, or its scaling does not fit.
    """
    if recipe.init_from is None:
        torch.manual_seed(recipe.seed)
        is_llama = isinstance(config, LlamaConfig)
        return (LlamaForCausalLM if is_llama else LLaDAForMaskedDiffusion)(config), lambda: iter(())
    path = locate_checkpoint(resolve_path(recipe.init_from))
    scaling = choose_scaling(recipe, config.max_sequence_length)
    model, shards = open_checkpoint(path, rope_scaling=scaling)
    rope = model.resolved_rope
    logger.info(rope.describe())
    longest = rope.longest_context
    if recipe.trained_length < model.config.max_sequence_length and scaling.type != "none":
        raise ValueError(
            f"phases: the longest sequence_length={recipe.trained_length} is below the "
            f"checkpoint's trained length {model.config.max_sequence_length}; scaling only "
            "lengthens. Use longer rows, or rope_scaling={type: none}."
        )
    # Without scaling rows may be of any length: a choice that studies compare with.
    if recipe.trained_length > longest and scaling.type != "none":
        raise ValueError(
            f"phases: sequence_length={recipe.trained_length} is longer than the {longest} tokens "
            f"that rope_scaling {scaling.type!r} was computed for; set its target_length to "
            f"{recipe.trained_length}."
        )
    return model, lambda: _stored_tensors(shards)


def _fresh_config(recipe: Recipe, tokens: TrainingTokenizer) -> PretrainedConfig:
    vocab_size, eos = len(tokens.tokenizer), tokens.end_token_id
    assert eos is not None
    if recipe.objective == "autoregressive":
        return llama_config(
            recipe.model,
            vocab_size=vocab_size,
            trained_length=recipe.trained_length,
            eos_token_id=eos,
        )
    assert tokens.mask_token_id is not None
    return LLaDAConfig(
        **recipe.model,
        vocab_size=vocab_size,
        max_sequence_length=recipe.trained_length,
        mask_token_id=tokens.mask_token_id,
        eos_token_id=eos,
        pad_token_id=eos,
    )


def _stored_tensors(shards: Sequence[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in shards:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no dict)
                tensor = tensors.get_tensor(name)
                refuse_non_finite([(name, tensor)], str(file))
                yield name, tensor


def fill_weights(model: nn.Module, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Copy a checkpoint's tensors into the parameters, whole or sharded, in their own dtype.

    Args:
        model: The network with storage for its weights, adapters or not, sharded or not.
        tensors: By published name.
    """
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


def place_network(
    model: PreTrainedModel,
    recipe: Recipe,
    ranks: Ranks,
    stored: Callable[[], Iterator[tuple[str, torch.Tensor]]],
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
        fill_weights(model, stored())
    fill_weights(model, initial_adapters(model, recipe.seed))
    return network.train()
