"""Writes a run's checkpoint: published format, training.json, and the state to go on from.

Decides nothing about which checkpoints are kept.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import opencompass_llada
from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.checkpoints import STATE
from opencompass_llada.finetune.data import TrainingData
from opencompass_llada.finetune.lora import published_tensors
from opencompass_llada.finetune.parallel import wait_for_all
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.run_state import RunState
from opencompass_llada.finetune.saving import (
    config_fields,
    write_atomically,
    write_facts,
    write_weights,
)
from opencompass_llada.finetune.start import TrainingTokenizer
from opencompass_llada.finetune.token_cache import TokenizedText
from opencompass_llada.finetune.training_state import write_state
from opencompass_llada.networks import locate_checkpoint
from opencompass_llada.runs.hashes import hash_checkpoint, hash_values
from opencompass_llada.runs.provenance import find_commit


def write_checkpoint(run: RunState, folder: Path, *, with_state: bool) -> None:
    """Write a checkpoint, whole or not at all; every rank calls it.

    Args:
        run: The run.
        folder: An earlier checkpoint in it is replaced.
        with_state: Whether training can go on from it.

    Raises:
        SaveError: If it cannot be written.
    """
    recipe, ranks = run.recipe, run.ranks

    def fill(part: Path) -> None:
        run.average.swap()
        tensors = published_tensors(run.model, recipe.lora, getattr(torch, recipe.dtype))
        try:
            write_weights(part, tensors, write=ranks.is_main)
        finally:
            run.average.swap()
        if ranks.is_main:
            config = config_fields(run.model, recipe)
            write_facts(part, config, run.tokens.tokenizer, describe_run(run))
        if with_state:
            facts = {
                "step": run.step,
                "tokens": run.tokens_seen,
                "seconds": run.seconds,
                "history": run.history,
            }
            write_state(
                part / STATE,
                run.network,
                run.optimizer,
                run.average.weights,
                facts,
                is_main=ranks.is_main,
            )

    write_atomically(folder, fill, is_main=ranks.is_main, wait=lambda: wait_for_all(ranks))


def describe_run(run: RunState) -> dict[str, Any]:
    """Return the resolved recipe, the data, the figures, and the versions.

    Args:
        run: The run.
    """
    recipe = dataclasses.asdict(run.recipe)
    for name in ("output_dir", "cache_dir"):  # paths of the machine, of no use elsewhere
        del recipe[name]
    cuda = run.ranks.device.type == "cuda"
    return {
        "recipe": recipe,
        "made_from": run.index.made_from,
        "text_tokens": run.data.windows.num_tokens,
        "packing": run.data.packing,
        "step": run.step,
        "tokens": run.tokens_seen,
        "seconds": round(run.seconds, 1),
        "history": run.history,
        "date": time.strftime("%Y-%m-%d"),
        "commit": find_commit(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "processes": run.ranks.world_size,
        "versions": {
            "opencompass_llada": opencompass_llada.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def describe_inputs(
    recipe: Recipe, tokens: TrainingTokenizer, data: TrainingData
) -> dict[str, Any]:
    """Return digests of all that a recipe names and does not hold: start, tokenizer and text.

    Args:
        recipe: Names the start, whose weights are read whole (16 GB: about 15 seconds).
        tokens: The tokenizer.
        data: The text, tokenised.
    """
    start = None
    if recipe.init_from is not None:
        start = hash_checkpoint(locate_checkpoint(resolve_path(recipe.init_from)), whole=True)
    vocabulary = tokens.tokenizer.get_vocab()
    return {
        "init_from": start,
        "tokenizer": hash_values([vocabulary, tokens.end_token_id, tokens.mask_token_id]),
        "text": [_describe_text(text) for text in data.texts],
        "evaluation": None if data.held_out is None else _describe_text(data.held_out),
    }


def _describe_text(text: TokenizedText) -> dict[str, Any]:
    return {"tokens": text.digest, "files": text.files}
