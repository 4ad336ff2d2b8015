"""Finds models that are asked in another form than they were tuned to, for a warning before a run.

A warning and no error: published evaluations ask chat models as base models, too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.benchmark import benchmark_of
from opencompass_llada.benchmarks.counting import find_template
from opencompass_llada.networks import is_hub_id
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.checkpoints import full_path
from opencompass_llada.runs.model_table import KNOWN_MODELS

logger = logging.getLogger(__name__)
#: Parts of a checkpoint's name that its makers use for models tuned to a chat template.
_TUNED = re.compile(r"(^|[-_.])(instruct|chat|it|sft|rlhf|dpo)([-_.]|$)", re.IGNORECASE)
MOST_NAMED = 4


def warn_of_chat_forms(cfg: Mapping[str, Any]) -> None:
    """Log one warning that names the models of a config with chat missing, or where it has no use.

    Only models of this package that generate are looked at.
    """
    missing: dict[str, str] = {}
    useless: dict[str, str] = {}
    for models, datasets in recorded.list_groups(cfg):
        if all(benchmark_of(dataset).name == "perplexity" for dataset in datasets):
            continue
        for model in models:
            if not recorded.is_ours(model) or model.get("meta_template") or not model.get("path"):
                continue
            is_tuned, reason = _judge(str(model["path"]))
            name = recorded.model_name(model)
            if is_tuned and not model.get("chat"):
                missing[name] = reason
            if is_tuned is False and model.get("chat"):
                useless[name] = reason
    if missing:
        logger.warning(
            "Asked as base models, without a chat template: %s. If they are tuned to one, set "
            "chat=True in the model's config, LLADA_PROMPT=chat, or new-config --chat.",
            _name(missing),
        )
    if useless:
        logger.warning(
            "Asked with a chat template, though base models: %s. Leave out chat=True (in shipped "
            "configs LLADA_PROMPT=base), or give the instruct checkpoint.", _name(useless)
        )  # fmt: skip


def _judge(path: str) -> tuple[bool | None, str]:
    """Return whether a checkpoint is tuned to a chat template, None where nothing tells; and why.

    What is known of it counts first, then its name, then its tokenizer.
    """
    known = next((own for own in KNOWN_MODELS.values() if full_path(own.path) == path), None)
    if known is not None:
        return known.chat, "docs/reference/models.md says so"
    name = path.rstrip("/").rpartition("/")[2]
    if found := _TUNED.search(name):
        return True, f"its name says {found[2]}"
    place = resolve_path(path)
    if not is_hub_id(place) and find_template(path) is not None:
        return True, "its tokenizer has a chat template"
    return None, ""


def _name(found: Mapping[str, str]) -> str:
    shown: Iterable[str] = [f"{name} ({reason})" for name, reason in [*found.items()][:MOST_NAMED]]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return ", ".join(shown) + more
