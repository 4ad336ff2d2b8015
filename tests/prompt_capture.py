"""The prompts that a model's `generate` gets, along OpenCompass's own inference task."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.config import Config
from opencompass.tasks import OpenICLInferTask
from tiny import write_tiny_checkpoint

from opencompass_llada.old_names import dotted_name
from opencompass_llada.wrapper import LLaDACausalLM

# The shape of LLaDA-8B-Instruct's chat format, as OpenCompass writes it.
CHAT_TEMPLATE = {
    "round": [
        {"role": "HUMAN", "begin": "<|start|>user\n", "end": "<|eot|>"},
        {"role": "BOT", "begin": "<|start|>assistant\n", "end": "<|eot|>", "generate": True},
    ]
}


class CapturingModel(LLaDACausalLM):
    """The package's wrapper without weights: keeps the prompts that it is asked to answer."""

    captured: list[str] = []

    def generate(self, inputs, max_out_len=None, stopping_criteria=None):
        CapturingModel.captured += [str(text) for text in inputs]
        return ["" for _ in inputs]


@lru_cache(maxsize=1)
def byte_checkpoint() -> str:
    """Write a checkpoint whose tokens are bytes and return its folder."""
    return str(write_tiny_checkpoint(Path(tempfile.mkdtemp(prefix="bytes")) / "byte-tokens"))


def received_prompts(
    cells: Sequence[Mapping[str, Any]], meta_template: Mapping[str, Any] | None = None
) -> list[str]:
    """Run inference on data sets and return every prompt that reached the model.

    Args:
        cells: Data set configs.
        meta_template: OpenCompass's chat template; none for a base model.
    """
    model = dict(
        type=CapturingModel, abbr="model", path=byte_checkpoint(), tokenizer_only=True,
        max_out_len=1, batch_size=1, run_cfg=dict(num_gpus=0),
    )  # fmt: skip
    if meta_template:
        model["meta_template"] = meta_template
    CapturingModel.captured = []
    with tempfile.TemporaryDirectory() as folder:
        run = plain(dict(models=[model], datasets=[list(cells)], work_dir=folder))
        OpenICLInferTask(Config(deepcopy(run))).run()
    return CapturingModel.captured


def plain(value: Any) -> Any:
    """Return a config value with classes as dotted names, as a dumped config has them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return dotted_name(value) if isinstance(value, type) else value
