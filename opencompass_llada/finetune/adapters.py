"""Adds low-rank adapters to the network that is trained, and writes them in peft's format.

Beside adapters some modules are trained whole: the norms, and embeddings or head where the recipe
says so. A written adapter has them as ``modules_to_save``, and in its config.json the RoPE that it
was trained with.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from opencompass_llada.finetune.parallel import whole_tensor
from opencompass_llada.finetune.published import write_json
from opencompass_llada.finetune.recipe import Lora
from opencompass_llada.finetune.resources import import_for
from opencompass_llada.networks import BidirectionalNetwork
from opencompass_llada.networks.adapters import METADATA_KEY, WEIGHTS_NAME
from opencompass_llada.options import reject_unknown

#: Where a checkpoint holds its adapter.
ADAPTER = "adapter"


def check_adapters(model: BidirectionalNetwork, lora: Lora) -> None:
    """Refuse linear layers that the network lacks, and a head that is the embedding."""
    modules = model.named_modules()
    linear = {name.rpartition(".")[2] for name, own in modules if isinstance(own, nn.Linear)}
    reject_unknown("linear layer of lora.target_modules", lora.target_modules or (), linear)
    if "head" in lora.train and model.config.ties_embeddings:
        raise ValueError(
            "lora: train names head, and in this checkpoint the head is the token embedding; "
            "name embeddings, which trains both."
        )


def modules_trained_whole(model: BidirectionalNetwork, lora: Lora) -> list[str]:
    """Return the ends of the names of modules that are trained whole, as peft takes them."""
    names, block = model.names, model.names.block
    norms = (block.attention_norm, block.mlp_norm, block.query_norm, block.key_norm)
    kinds: dict[str, Sequence[str | None]] = {
        "norms": (*norms, names.final_norm),
        "embeddings": (names.embedding,),
        "head": (names.head,),
    }
    return [name for kind, own in kinds.items() if kind in lora.train for name in own if name]


def peft_config(model: BidirectionalNetwork, lora: Lora, **more: Any) -> Any:
    """Return peft's configuration of a run's adapters."""
    peft, names = import_for("lora", "peft"), model.names.block
    layers = [names.query, names.key, names.value, names.attention_out]
    layers += [names.gate, names.up, names.down]
    chosen = lora.target_modules or [name.rpartition(".")[2] for name in layers if name]
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        # Whole last names inside blocks: LLaDA's head has the name of the MLP's last layer.
        target_modules=rf"{re.escape(model.names.blocks)}\.\d+\.(.*\.)?({'|'.join(chosen)})",
        lora_dropout=0.0,
        **more,
    )


@functools.cache
def _adapted_linear() -> type[nn.Module]:
    """Return peft's linear layer with an adapter, which computes as we do."""
    linear = import_for("lora", "peft", "peft.tuners.lora.layer").Linear

    class AdaptedLinear(linear):  # type: ignore[misc, valid-type]
        """Scales the few channels between A and B.

        peft scales the sum's many, whose scaled gradient would be one more tensor of their size.
        It also holds a float32 copy of the inputs, where autocast needs none.
        """

        def forward(self, x: Tensor) -> Tensor:
            """Return the base layer's output with the adapter's added."""
            down, up = self.lora_A["default"], self.lora_B["default"]
            return self.base_layer(x) + up(down(x) * self.scaling["default"])

    return AdaptedLinear


def add_adapters(model: BidirectionalNetwork, lora: Lora, dtype: torch.dtype) -> None:
    """Freeze the network, add adapters in place, and keep the chosen modules trainable.

    Norms are, as in LongLoRA (arXiv 2309.12307), which trains embeddings, too.
    """
    model.requires_grad_(False)
    whole = [f".{name}" for name in modules_trained_whole(model, lora)]
    config = peft_config(model, lora)
    config._register_custom_module({nn.Linear: _adapted_linear()})
    import_for("lora", "peft").inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if is_adapter(name) or f".{name.rpartition('.')[0]}".endswith(tuple(whole)):
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(True)


def is_adapter(name: str) -> bool:
    """Tell whether a parameter is part of an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def initial_adapters(model: nn.Module, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yield fresh adapters by name: A as peft draws it, B zero, so that nothing changes at first.

    Drawn on the CPU from each name's own seed: every rank and device draws the same.
    """
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            yield name, torch.zeros(parameter.shape)
        elif ".lora_A." in name:
            value = torch.empty(parameter.shape)
            own = int.from_bytes(hashlib.sha256(f"{seed}-{name}".encode()).digest()[:7], "big")
            generator = torch.Generator().manual_seed(own)
            nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)
            yield name, value


def adapter_tensors(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what was trained by the names of peft's files, whole, on the CPU, on all ranks."""
    return {
        f"base_model.model.{name.replace('.default.', '.')}": whole_tensor(value.detach())
        .to("cpu", dtype)
        .contiguous()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def write_adapter(
    folder: Path,
    model: BidirectionalNetwork,
    lora: Lora,
    base: str,
    tensors: dict[str, Tensor],
    fields: Mapping[str, Any],
) -> None:
    """Write an adapter in peft's format, and the config.json that it was trained with.

    ``base`` is the checkpoint that it was trained over. The weights' metadata hold config.json,
    too, lest an adapter of which the two files of peft alone are copied be loaded unscaled.
    """
    folder.mkdir()
    metadata = {"format": "pt", METADATA_KEY: json.dumps(fields, sort_keys=True)}
    save_file(tensors, folder / WEIGHTS_NAME, metadata=metadata)
    write_json(folder / "config.json", fields)
    config = peft_config(
        model,
        lora,
        modules_to_save=modules_trained_whole(model, lora) or None,
        base_model_name_or_path=base,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
