"""Reads OpenCompass's own configs of a task: its wording for chat models, and its metric.

Nothing of OpenCompass is imported before a prompt or a score is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from opencompass_llada.benchmarks.data_checks import find_class

#: What numbers of OpenCompass's own metric are called in results, before its own names for them.
PREFIX = "opencompass_"


@cache
def load_stock(module: str) -> Mapping[str, Any]:
    """Return the first data set config of a module below ``opencompass.configs.datasets``."""
    found = importlib.import_module(f"opencompass.configs.datasets.{module}")
    lists = [value for name, value in vars(found).items() if name.endswith("_datasets")]
    config: Mapping[str, Any] = lists[0][0]
    return config


def stock_wording(module: str) -> tuple[str, str]:
    """Return a config's system prompt, '' where it has none, and its user's turn, with slots."""
    template = load_stock(module)["infer_cfg"]["prompt_template"]["template"]
    turns = [*template.get("begin", []), *template["round"]]
    by_role = {turn["role"]: turn["prompt"] for turn in turns}
    return by_role.get("SYSTEM", ""), by_role["HUMAN"]


def score_stock(
    module: str, predictions: Sequence[str], references: Sequence[Any]
) -> dict[str, float]:
    """Return what OpenCompass's config makes of these answers, as `PREFIX` and its own names."""
    config = load_stock(module)["eval_cfg"]
    answers = _process(config.get("pred_postprocessor"), predictions)
    golds = _process(config.get("dataset_postprocessor"), references)
    options = dict(config["evaluator"])
    found = find_class(options.pop("type"))(**options).score(answers, golds)
    return {PREFIX + name: float(value) for name, value in found.items()}


def score_one(evaluator: str, prediction: str, reference: Any, **options: Any) -> float:
    """Return the first number that an evaluator, by its dotted name, gives one answer."""
    found = find_class(evaluator)(**options).score([prediction], [reference])
    return float(next(iter(found.values())))


def _process(config: Mapping[str, Any] | None, values: Sequence[Any]) -> list[Any]:
    if config is None:
        return list(values)
    options = dict(config)
    function = options.pop("type")
    return [function(value, **options) for value in values]
