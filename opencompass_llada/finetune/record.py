"""What a reader needs to repeat and judge a run: training.json."""

from __future__ import annotations

import dataclasses
import platform
import time
from typing import TYPE_CHECKING, Any

import torch
import transformers

import opencompass_llada
from opencompass_llada.results.provenance import find_commit

if TYPE_CHECKING:
    from opencompass_llada.finetune.loop import Trainer


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
