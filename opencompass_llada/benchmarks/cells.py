"""Writes what the data set configs of several benchmarks share, as OpenCompass reads it.

Classes stand by their dotted names, as in a dumped config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencompass_llada.old_names import dotted_name

Config = dict[str, Any]
#: OpenCompass's template, and ours, which leaves braces in texts alone.
PROMPT_TEMPLATE = "opencompass.openicl.icl_prompt_template.PromptTemplate"
ZERO_RETRIEVER = "opencompass.openicl.icl_retriever.ZeroRetriever"
LITERAL_TEMPLATE = "opencompass_llada.benchmarks.opencompass_bases.LiteralPromptTemplate"


def read_with(output_column: str, num_samples: int | None = None) -> Config:
    """Return how samples are read: all, or only the first so many."""
    config: Config = {"input_columns": ["prompt"], "output_column": output_column}
    if num_samples is not None:
        config["test_range"] = f"[0:{num_samples}]"
    return config


def generate_with(prompt_template: Config, generation_length: int | None) -> Config:
    """Return how a prompt is made and answered; without a length, of the model's own number."""
    inferencer: Config = {"type": "opencompass.openicl.icl_inferencer.GenInferencer"}
    if generation_length:
        inferencer["max_out_len"] = generation_length
    return {
        "prompt_template": prompt_template,
        "retriever": {"type": ZERO_RETRIEVER},
        "inferencer": inferencer,
    }


def score_with(evaluator: str, **options: Any) -> Config:
    """Return how answers are scored, given a class below `opencompass_llada.benchmarks`."""
    kind = f"opencompass_llada.benchmarks.{evaluator}"
    return {"evaluator": {"type": kind, **options}, "pred_role": "BOT"}


def plain_config(value: Any) -> Any:
    """Return a config's value with classes and functions as dotted names, as in a dumped config."""
    if isinstance(value, Mapping):
        return {key: plain_config(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_config(item) for item in value]
    return dotted_name(value) if callable(value) else value
