"""Reads what is known of a checkpoint that a run names by its path, and gives each a name.

config.json tells family, blocks and trained length; how it generates is the family's in the table.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from opencompass_llada import assets
from opencompass_llada.options import nearest
from opencompass_llada.runs.model_table import KNOWN_MODELS, KnownModel

logger = logging.getLogger(__name__)
#: A key, if any, and a path.
_PART = re.compile(r"^(\w+=)?(.*)", re.DOTALL)


#: Stands between a checkpoint and an adapter over it: ``/my/base+peft=/my/adapter``.
PEFT = "+peft="


def split_adapter(path: str) -> tuple[str, str | None]:
    """Return a checkpoint's path and that of the adapter over it, None for no adapter."""
    base, mark, adapter = (part.strip() for part in path.partition(PEFT))
    if mark and not (base and adapter):
        raise ValueError(f"model {path!r}: {PEFT} stands between a checkpoint and an adapter.")
    return base, adapter or None


def is_path(text: str) -> bool:
    """Tell a path, a hub id or ``asset:NAME`` from the name of a model."""
    starts = (".", "~", assets.PREFIX)
    return "/" in text or text.startswith(starts) or os.path.isdir(text)


def hint_folder(name: str, models: Iterable[str]) -> dict[str, str]:
    """Return the hint for an unknown model whose nearest name is a checkpoint's folder, or none."""
    folders = [path.parent.name for path in Path().glob("*/config.json")]
    guess = nearest(name, [*models, *folders])
    if guess not in folders:
        return {}
    return {name: f"No folder has that name. Did you mean the folder {guess!r}?"}


def full_path(path: str) -> str:
    """Return a folder's absolute path, so that a dumped config holds; anything else as it is.

    With an adapter over it, both are made absolute.
    """
    base, adapter = split_adapter(path)
    if adapter is not None:
        return f"{full_path(base)}{PEFT}{full_path(adapter)}"
    folder = os.path.abspath(os.path.expanduser(path))
    return folder if os.path.isdir(folder) else path


def label_paths(
    paths: Sequence[str], prefixes: Sequence[str], taken: Mapping[str, str]
) -> list[str]:
    """Return the last parts of each path, as few as tell it from the others and from `taken`.

    Args:
        paths: Checkpoints.
        prefixes: What stands before each one's label in its name.
        taken: The paths of models that there are already, by `plain_name`.
    """
    parts = [PurePath(path).parts for path in paths]
    depths = [1] * len(paths)
    while True:
        labels = ["/".join(own[-depth:]) for own, depth in zip(parts, depths, strict=True)]
        named: dict[str, set[str]] = {name: {path} for name, path in taken.items()}
        names = [plain_name(first + label) for first, label in zip(prefixes, labels, strict=True)]
        for name, path in zip(names, paths, strict=True):
            named.setdefault(name, set()).add(path)
        alike = [n for n, name in enumerate(names)
                 if len(named[name]) > 1 and depths[n] < len(parts[n])]  # fmt: skip
        if not alike:
            return labels
        for number in alike:
            depths[number] += 1


def cut_paths(texts: Iterable[str]) -> dict[str, str]:
    """Return each text; of absolute paths the last parts, as few as tell them from the others.

    A text is a path, or several such as ``/home/me/base + peft=/home/me/adapter``.
    """
    parts = {text: [_PART.findall(part)[0] for part in text.split(" + ")] for text in texts}
    names = sorted({name for own in parts.values() for _, name in own})
    paths = [name for name in names if PurePath(name).is_absolute()]
    others = {plain_name(name): name for name in names if name not in paths}
    labels = dict(zip(paths, label_paths(paths, [""] * len(paths), others), strict=True))
    return {
        text: " + ".join(key + labels.get(name, name) for key, name in own)
        for text, own in parts.items()
    }


def plain_name(text: str) -> str:
    """Return a text as it stands in an abbr and in files' names."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-")


def read_facts(path: str, title: str) -> KnownModel:
    """Return what a checkpoint's config.json, and the table for its family, say of it.

    Raises:
        ValueError: If it is no checkpoint, or its config.json states no trained length.
    """
    from opencompass_llada.benchmarks.counting import find_template
    from opencompass_llada.families import find_family
    from opencompass_llada.networks import read_model_config

    fields = read_model_config(path)
    family = find_family(fields, path, None).name
    like = _find_like(family)
    facts = replace(
        like,
        title=title,
        path=path,
        family=family,
        chat=find_template(path) is not None,
        licence="not known",
        source="its config.json",
        scalings=(),
        short={},
        paper_dtype=None,
    )
    length, block_length = _read_sizes(facts, fields)
    length = length if like.states_length else like.trained_length
    if length is None:
        raise ValueError(
            f"config.json of the checkpoint {path!r} states no trained length, which default "
            "lengths and scalings are worked out from. Write NAME=PATH with the NAME of "
            "docs/reference/models.md that it is like, or state max_position_embeddings there."
        )
    logger.info(
        "%s: family %s, trained on %d tokens, %s chat template; it generates as %s.",
        path, family, length, "with a" if facts.chat else "without", like.title,
    )  # fmt: skip
    return replace(facts, trained_length=length, block_length=block_length)


def _find_like(family: str) -> KnownModel:
    """Return the table's first published model of a family; of one outside the table LLaDA-8B."""
    published = [own for own in KNOWN_MODELS.values() if not own.path.startswith(assets.PREFIX)]
    return next((own for own in published if own.family == family), published[0])


def _read_sizes(facts: KnownModel, fields: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return trained length, if config.json states one, and block length of a checkpoint."""
    from opencompass_llada.networks import NETWORKS, read_config

    if facts.family not in NETWORKS:
        stated = fields.get("max_position_embeddings")
        return (None if stated is None else int(stated)), facts.block_length
    config = read_config(NETWORKS[facts.family], fields)
    return config.trained_length, getattr(config.attention_pattern, "block_length", None)


def stated_length(facts: KnownModel) -> int | None:
    """Return the trained length in tokens that a folder's config.json states; else the table's.

    None where config.json states none or cannot be read: the table's would be another checkpoint's.
    Over a checkpoint the length is that of the adapter's config.json, where it has one.
    """
    place = facts.path
    if facts.adapter is not None and os.path.isfile(os.path.join(facts.adapter, "config.json")):
        place = facts.adapter
    if not facts.states_length or not os.path.isdir(place):
        return facts.trained_length
    from opencompass_llada.networks import read_model_config

    try:
        return _read_sizes(facts, read_model_config(place))[0]
    except (KeyError, TypeError, ValueError, OSError):  # what is wrong is said before the run
        return None
