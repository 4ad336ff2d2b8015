"""What a config says of a cell's meaning: prompts, tokenizer, sampler, limits, kind of model.

Reads configs and small local files (config.json, tokenizer.json). Compares nothing; `identity`
does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.old_names import dotted_name
from opencompass_llada.runs.hashes import hash_values
from opencompass_llada.sampling import STRATEGIES

#: Parts of a data set's config that do not change what the model is asked: names, places in the
#: grid (`identity` compares those), how answers are scored, and how many samples there are.
NOT_PROMPTS = ("abbr", "type", "eval_cfg", "length", "depth", "task", "benchmark", "path", "name",
               "tokenizer", "tokenizer_model", "num_samples", "num_repeats_per_file", "n", "k",
               "max_seq_length", "previous_length", "cache", "cache_folder",
               "generation_reserve", "tokens_to_generate")  # fmt: skip
#: What records named the engine before they said how it generates.
_ENGINES = {"MaskedDiffusionEngine": "masked_diffusion", "AutoregressiveEngine": "autoregressive"}
_NO_SAMPLER = "defaults"


def describe_sampler(model: Mapping[str, Any]) -> str:
    """Return how a model config generates and scores, as ``name=value`` in alphabetical order.

    Precision and draws of a likelihood are part of it where the config gives them, and the seed
    where sampling draws random numbers. The generation length is not, since data sets set it.
    """
    options: dict[str, Any] = {}
    for key in ("generation_kwargs", "diffusion_config", "sampler"):
        options |= dict(model.get(key) or {})
    options["seed"] = options.get("seed", model.get("seed"))
    options["dtype"] = model.get("dtype") or (model.get("model_kwargs") or {}).get("torch_dtype")
    options["draws"] = (model.get("likelihood") or {}).get("num_draws")
    strategy = STRATEGIES.get(str(options.get("remasking")))
    random = options.get("temperature") or (strategy is not None and not strategy.confident)
    left_out = ("generation_length", "max_out_len", *(() if random else ("seed",)))
    named = [
        f"{name}={value}"
        for name, value in sorted(options.items())
        if name not in left_out and value is not None
    ]
    return " ".join(named) or _NO_SAMPLER


def generation_length(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> int | None:
    """Return the tokens that a cell generates: the data set's number, else the model's."""
    inferencer = (dataset.get("infer_cfg") or {}).get("inferencer") or {}
    value = inferencer.get("max_out_len") or model.get("max_out_len")
    return None if value is None else int(value)


def prompt_limit(model: Mapping[str, Any]) -> str:
    """Return what bounds a model's prompts, '' for nothing."""
    if not model.get("max_seq_len"):
        return ""
    policy = model.get("truncation") or ("middle" if model.get("drop_middle") else "error")
    return f"{model['max_seq_len']} tokens, {policy}"


def template_hash(dataset: Mapping[str, Any]) -> str:
    """Return the hash of what a data set's config says on prompts, but for places in the grid."""
    kept = {key: value for key, value in dataset.items() if key not in NOT_PROMPTS}
    infer = dict(kept.pop("infer_cfg", None) or {})
    inferencer = dict(infer.pop("inferencer", None) or {})
    inferencer.pop("max_out_len", None)
    window = {
        key: value
        for key, value in dict(inferencer.pop("window", None) or {}).items()
        if not key.endswith("length")
    }
    return hash_values(_plain({**kept, "infer": infer, "how": inferencer, "window": window}))


def _plain(value: Any) -> Any:
    """Return a config value with classes as dotted names, as it stands in a dump."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | type(None)) else dotted_name(value)


def find_kind(model: Mapping[str, Any], recorded: Mapping[str, Any] | None) -> str:
    """Tell masked diffusion from autoregressive models.

    By what the engine recorded, else by the family of the recorded ``model_type``, of config.json
    where that is at hand, or of the config's own ``model_type``. No name is guessed from.

    Args:
        model: The model's config.
        recorded: The process's record (``generates_by``, ``engine``, ``model_type``), if any.

    Returns:
        ``diffusion``, ``autoregressive`` or ``unknown``.
    """
    record = recorded or {}
    told = record.get("generates_by") or _ENGINES.get(str(record.get("engine")))
    if told is None:
        names = (record.get("model_type"), _read_model_type(str(model.get("path"))),
                 model.get("model_type"))  # fmt: skip
        told = next((kind for kind in map(_family_kind, names) if kind), None)
    return {"masked_diffusion": "diffusion", None: "unknown"}.get(told, str(told))


@lru_cache(maxsize=256)
def _family_kind(model_type: str | None) -> str | None:
    if not model_type:
        return None
    from opencompass_llada.families import generates_by  # imports torch, which a report spares

    return generates_by(str(model_type))


@lru_cache(maxsize=256)
def _read_model_type(path: str) -> str | None:
    try:
        file = Path(resolve_path(path)).expanduser() / "config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("model_type") if isinstance(content, dict) else None
