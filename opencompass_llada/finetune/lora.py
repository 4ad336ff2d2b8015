"""Adds low-rank adapters through peft, and merges them into plain weights for a checkpoint.

Norms stay trainable (LongLoRA, arXiv 2309.12307). Builds no optimiser and writes no files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from opencompass_llada.finetune.checks import missing_package
from opencompass_llada.finetune.parallel import whole_tensor
from opencompass_llada.finetune.recipe import Lora
from opencompass_llada.options import unknown_name_message

_ADAPTER = "default"


def check_targets(model: nn.Module, lora: Lora) -> None:
    """Refuse adapters on modules that are not there or are no linear layers."""
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    for target in lora.target_modules:
        if target not in linear:
            raise ValueError(
                "lora: " + unknown_name_message("linear layer (target_modules)", target, linear)
            )


def add_adapters(model: nn.Module, lora: Lora, dtype: torch.dtype) -> None:
    """Freeze the network, add adapters in place, and keep norms trainable.

    Raises:
        ImportError: If peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing_package("lora", "peft") from error
    check_targets(model, lora)
    model.requires_grad_(False)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        # Whole last names inside blocks: LLaDA's head has the name of the MLP's last layer.
        target_modules=rf".*blocks\.\d+\.({'|'.join(lora.target_modules)})",
        lora_dropout=0.0,
    )
    inject_adapter_in_model(config, model)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            # Autocast does it; peft would hold a float32 copy of every input.
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]
    for name, parameter in model.named_parameters():
        if _is_adapter(name) or "norm" in name or "ln_f" in name:
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(True)


def _is_adapter(name: str) -> bool:
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


def published_tensors(
    model: nn.Module, lora: Lora | None, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor by its published name, whole and merged, on the CPU.

    All ranks must take all tensors.
    """
    values = dict(model.named_parameters())
    adapters = {name: whole_tensor(values[name].detach()) for name in values if _is_adapter(name)}
    for name, value in values.items():
        if _is_adapter(name):
            continue
        weight = whole_tensor(value.detach())
        stem, is_adapted, _ = name.partition(".base_layer.weight")
        if is_adapted:
            assert lora is not None
            down, up = (
                adapters[f"{stem}.lora_{side}.{_ADAPTER}.weight"].to(weight.device).float()
                for side in "AB"
            )
            weight = weight.float() + lora.alpha / lora.rank * (up @ down)
        yield name.replace(".base_layer.", "."), weight.to("cpu", dtype).contiguous()
