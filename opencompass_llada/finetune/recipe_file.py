"""Recipe files: YAML over a base, with overrides, to a checked recipe.

Knows how the groups of keys nest; the values are checked by their classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from opencompass_llada.finetune.recipe import Evaluation, Lora, Phase, Recipe, TextSource, explain
from opencompass_llada.options import reject_unknown

_MOST_CYCLES = 10_000


def _build(cls: type, what: str, values: Mapping[str, Any]) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{what}={values!r} must be a mapping of keys to values.")
    fields = {item.name for item in dataclasses.fields(cls) if item.init}
    reject_unknown(f"{what} key", values, fields)
    required = {
        item.name
        for item in dataclasses.fields(cls)
        if item.init
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - values.keys()):
        raise ValueError(f"{what}: {', '.join(missing)} must be given.")
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except ValidationError as error:
        raise ValueError(explain(error, what, cls)) from error


def _build_evaluation(values: Any) -> Evaluation:
    if isinstance(values, Mapping) and values.get("text") is not None:
        values = {**values, "text": _build(TextSource, "recipe evaluation text", values["text"])}
    return _build(Evaluation, "recipe evaluation", values)


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Turn parsed YAML into a checked recipe.

    Besides the recipe's fields the mapping may hold ``cycles``: how many times all phases are gone
    through, one after the other. Rows of several lengths then alternate, so that post-training to a
    long context does not unlearn the short one. ``last_phases`` follow them, once.

    Args:
        values: The YAML mapping.

    Returns:
        The recipe.

    Raises:
        ValueError: For unknown or missing keys and values out of range.
    """
    values = dict(values)
    for name, cls in (("text", TextSource), ("phases", Phase), ("last_phases", Phase)):
        items = values.get(name, ())
        if not isinstance(items, list | tuple) or not all(isinstance(i, Mapping) for i in items):
            raise ValueError(f"recipe: {name}={items!r} must be a list of mappings.")
        values[name] = tuple(_build(cls, f"recipe {name}", item) for item in items)
    cycles = values.pop("cycles", 1)
    if isinstance(cycles, bool) or not isinstance(cycles, int) or not 1 <= cycles <= _MOST_CYCLES:
        raise ValueError(
            f"recipe: cycles={cycles!r} must be a whole number from 1 to {_MOST_CYCLES:,}."
        )
    values["phases"] = values["phases"] * cycles + values.pop("last_phases")
    if values.get("lora") is not None:
        values["lora"] = _build(Lora, "recipe lora", values["lora"])
    if "evaluation" in values:
        values["evaluation"] = _build_evaluation(values["evaluation"] or {})
    return _build(Recipe, "recipe", values)


def _read(file: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe file over the one that it names as its base."""
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise ValueError(f"Recipe {str(file)!r} {what}. Recipes lie in configs/finetune/.")
    try:
        values = _parse(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Recipe {str(file)!r} cannot be read ({error}). It must be a YAML file in UTF-8; see "
            "configs/finetune/."
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"Recipe {str(file)!r} must be a YAML mapping of keys to values.")
    base = values.pop("base", None)
    if base is None:
        return values
    seen = (*seen, file.resolve())
    target = file.parent / str(base)
    if target.resolve() in seen:
        raise ValueError(f"Recipe {str(file)!r}: base={base!r} leads back to itself.")
    return {**_read(target, seen), **values}


def _parse(text: str) -> Any:
    """Parse YAML.

    Raises:
        ValueError: In one line, if it is none.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"no valid YAML: {reason[:300]}") from error


def _put(values: dict[str, Any], key: str, value: Any, override: str) -> None:
    """Put a value under a dotted key."""
    *groups, last = key.split(".")
    for group in groups:
        inner = values.get(group)
        inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise ValueError(f"Override {override!r}: {group} is no group of keys.")
        values[group] = values = dict(inner)
    values[last] = value


def parse_override(override: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``, the value parsed as YAML.

    Raises:
        ValueError: If there is no equals sign, no key, or the value is no YAML.
    """
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ValueError(f"Override {override!r} must have the form key=value.")
    try:
        return key, _parse(text)
    except ValueError as error:
        raise ValueError(f"Override {override!r}: its value is {error}") from error


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file.

    A recipe with ``base: OTHER.yaml`` (beside it) takes every key that it does not give from there.

    Args:
        path: YAML file.
        overrides: ``key=value`` pairs, ``group.key=value`` for keys of a group (``lora.rank=8``);
            the value is parsed as YAML.

    Returns:
        The recipe.

    Raises:
        ValueError: If the file is missing or no mapping, or a key or value is wrong.
    """
    values = _read(Path(path))
    for override in overrides:
        key, value = parse_override(override)
        _put(values, key, value, override)
    return parse_recipe(values)
