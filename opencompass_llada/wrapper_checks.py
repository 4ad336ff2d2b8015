"""The wrapper's checks of the machine and of a checkpoint's files, before weights load.

What arguments alone can tell is checked in `wrapper_options`.
"""

from __future__ import annotations

import os

from transformers import PreTrainedTokenizerBase

from opencompass_llada.assets import resolve_path
from opencompass_llada.modeling import (
    Adapter,
    build_without_weights,
    check_adapter,
    open_adapter,
)
from opencompass_llada.wrapper_options import WrapperOptions


def open_fitting_adapter(options: WrapperOptions) -> Adapter | None:
    """Open the adapter that a model asks for and check that it fits, without reading weights.

    Args:
        options: The model's.

    Returns:
        The adapter; None where none is asked for.

    Raises:
        CheckpointError: If it is not there, is no LoRA or does not fit the checkpoint.
    """
    if options.adapter is None:
        return None
    adapter = open_adapter(options.adapter)
    check_adapter(adapter, build_without_weights(resolve_path(options.path)))
    return adapter


def refuse_ranks() -> None:
    """Refuse a torchrun launch: OpenCompass gives every rank every sample."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ:
        raise ValueError(
            "run_cfg asks for several processes a model (num_procs), and OpenCompass would give "
            "each of them every sample; set run_cfg=dict(num_gpus=1, num_procs=1) and spread the "
            "data sets over tasks instead"
        )


def check_mask_id(given: int | None, found: int | None) -> None:
    """Refuse a mask id that is not the checkpoint's."""
    if given is not None and given != found:
        raise ValueError(
            f"diffusion_config['mask_id']={given}, but the checkpoint's mask_token_id is {found}; "
            "leave mask_id out"
        )


def check_bos(options: WrapperOptions, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse to add a BOS that the tokenizer does not have."""
    if options.add_bos and tokenizer.bos_token_id is None:
        raise ValueError(
            f"add_bos=True, but the tokenizer at {options.tokenizer_path!r} names no bos_token; "
            "leave add_bos out, or name one in tokenizer_kwargs"
        )
