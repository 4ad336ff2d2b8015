"""What a reader needs to repeat and judge a run: training.json."""

from __future__ import annotations

import dataclasses
import platform
import time
from typing import TYPE_CHECKING, Any

import torch
import transformers

import opencompass_llada
from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.token_cache import TokenizedText
from opencompass_llada.modeling import locate_checkpoint
from opencompass_llada.results.fingerprints import hash_checkpoint, hash_values
from opencompass_llada.results.provenance import find_commit

if TYPE_CHECKING:
    from opencompass_llada.finetune.data import TrainingData
    from opencompass_llada.finetune.loop import Trainer
    from opencompass_llada.finetune.start import TrainingTokenizer


def describe_run(trainer: Trainer) -> dict[str, Any]:
    """Return the resolved recipe, the data, the figures, and the versions.

    Args:
        trainer: The run.
    """
    recipe = dataclasses.asdict(trainer.recipe)
    for name in ("output_dir", "cache_dir"):  # paths of the machine, of no use elsewhere
        del recipe[name]
    cuda = trainer.ranks.device.type == "cuda"
    return {
        "recipe": recipe,
        "made_from": trainer.index.made_from,
        "text_tokens": trainer.data.windows.num_tokens,
        "packing": trainer.data.packing,
        "step": trainer.step,
        "tokens": trainer.tokens_seen,
        "seconds": round(trainer.seconds, 1),
        "history": trainer.history,
        "date": time.strftime("%Y-%m-%d"),
        "commit": find_commit(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "processes": trainer.ranks.world_size,
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
