"""What a block keeps from its forward pass to its backward pass: its input, and perhaps attention.

Decides nothing about memory (finetune.memory_plan does).
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from opencompass_llada.finetune.recipe import Recipe

#: Operators whose outputs `keep_attention` keeps: PyTorch's attention kernels by their names in
#: torch.ops. Plain matrix products are none of them, so that the math backend is computed again.
_ATTENTION = (
    ("aten", "_scaled_dot_product_cudnn_attention"),
    ("aten", "_scaled_dot_product_flash_attention"),
    ("aten", "_scaled_dot_product_efficient_attention"),
    ("aten", "_scaled_dot_product_flash_attention_for_cpu"),
    ("torch_attn", "_varlen_attn"),
)


def run_checkpointed(recipe: Recipe, block: nn.Module, *inputs: Any) -> Tensor:
    """Run a block so that the backward pass computes its activations again.

    Args:
        recipe: Whether the attention's output is kept, and whether inputs lie on the host.
        block: The block.
        inputs: Its arguments; the first is the residual stream.

    Returns:
        The block's output; gradients are those of a plain call.
    """
    if recipe.keep_attention:
        context: Any = functools.partial(create_selective_checkpoint_contexts, _policy)
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=context)
    kept: Any = contextlib.nullcontext()
    if recipe.offload_checkpoints:
        kept = torch.autograd.graph.save_on_cpu(pin_memory=inputs[0].is_cuda)
    with kept:
        return checkpoint(block, *inputs, use_reentrant=False)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep what attention kernels return."""
    name = tuple(str(operator).split(".")[:2])
    return CheckpointPolicy.MUST_SAVE if name in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE
