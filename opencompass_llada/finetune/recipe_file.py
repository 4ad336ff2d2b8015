"""Reads recipe files: YAML over a base, with overrides, to a checked recipe.

Looks up the packing strategy and class of task rows, and words pydantic's errors like our own.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from opencompass_llada.finetune.packing import find_strategy
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.rows import find_task_rows
from opencompass_llada.options import reject_unknown, unknown_name_message

_MOST_CYCLES = 10_000
_UNIONS = (Union, types.UnionType)


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Turn parsed YAML into a checked recipe; a ValueError names the key that is wrong.

    Besides the recipe's fields the mapping may hold ``cycles`` and ``last_phases``.
    """
    values = dict(values)
    cycles = values.pop("cycles", 1)
    if isinstance(cycles, bool) or not isinstance(cycles, int) or not 1 <= cycles <= _MOST_CYCLES:
        raise ValueError(
            f"recipe: cycles={cycles!r} must be a whole number from 1 to {_MOST_CYCLES:,}."
        )
    last = values.pop("last_phases", [])
    for name, items in (("phases", values.get("phases", [])), ("last_phases", last)):
        if not isinstance(items, list | tuple) or not all(isinstance(i, Mapping) for i in items):
            raise ValueError(f"recipe: {name}={items!r} must be a list of mappings.")
    values["phases"] = [*values.get("phases", [])] * cycles + [*last]
    if not values.get("evaluation", True):
        del values["evaluation"]
    try:
        # As JSON, in which lists are tuples and mappings are classes, and nothing else changes.
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:  # a date, an alias of itself
        raise ValueError(
            f"recipe: values must be texts, numbers, lists and mappings ({error}). Put a date into "
            "quotes."
        ) from error
    try:
        return _look_up(TypeAdapter(Recipe).validate_json(text))
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def _look_up(recipe: Recipe) -> Recipe:
    """Check the recipe against the strategy and the class of rows that it names."""
    strategy = find_strategy(recipe.strategy)
    apart = strategy.attends_documents and not strategy.cuts_anywhere
    if recipe.has_samples and not apart:
        raise ValueError(
            f"recipe: prompt_field needs samples that are whole and attend to themselves alone, "
            f"and strategy={recipe.strategy!r} mixes or cuts them; use strategy=adaptive."
        )
    if recipe.normalize_by == "sample" and not apart:
        raise ValueError(
            "recipe: normalize_by='sample' counts documents that attend to themselves alone, and "
            f"strategy={recipe.strategy!r} mixes or cuts them; use strategy=adaptive, or 'row'."
        )
    if recipe.normalize_by is None:
        by: Literal["row", "sample"] = "sample" if recipe.has_samples else "row"
        recipe = dataclasses.replace(recipe, normalize_by=by)
    if not recipe.retrieval_share and recipe.retrieval_styles is None:
        return recipe
    rows = find_task_rows(recipe.rows)
    given = recipe.retrieval_styles
    styles = dict(rows.STYLES if given is None else given)
    reject_unknown("style in retrieval_styles", styles, rows.STYLES)
    if not sum(styles.values()) > 0:
        raise ValueError(
            f"recipe: retrieval_styles={styles!r} must map styles to shares from 0, one "
            "of them above 0."
        )
    shortest = min(phase.sequence_length for phase in recipe.phases)
    if recipe.retrieval_share and shortest < rows.SHORTEST:
        raise ValueError(
            f"recipe phases: sequence_length={shortest} must be at least {rows.SHORTEST}, which "
            "retrieval rows need."
        )
    if min(recipe.evaluation.retrieval_lengths, default=rows.SHORTEST) < rows.SHORTEST:
        raise ValueError(
            f"recipe evaluation: retrieval_lengths={list(recipe.evaluation.retrieval_lengths)} "
            f"must be whole numbers from {rows.SHORTEST}, which retrieval rows need."
        )
    return dataclasses.replace(recipe, retrieval_styles=styles)


def explain(error: ValidationError) -> str:
    """Word the first fault of a recipe that pydantic found: the value, the rule and the remedy."""
    faults = error.errors()
    order = {"unexpected_keyword_argument": 0, "missing": 1}
    fault = min(faults, key=lambda fault: order.get(fault["type"], 2))
    if fault["type"] == "value_error":  # from a check of ours, in its own words
        return str(fault["ctx"]["error"])
    cls: Any = Recipe
    what, place, rule = "recipe", "", None
    for part in fault["loc"]:
        if not place:
            place, rule = str(part), get_type_hints(cls, include_extras=True).get(str(part))
        else:
            place = f"{place}[{part!r}]"
            if get_origin(rule) is not Annotated:  # whose description is of the entries
                rule = get_args(rule)[0 if get_origin(rule) is tuple else -1]
        members = get_args(rule) if get_origin(rule) in _UNIONS else [rule]
        if group := next(filter(dataclasses.is_dataclass, members), None):  # a group of keys
            what, cls, place, rule = f"{what} {place.partition('[')[0]}", group, "", None
    if fault["type"] == "unexpected_keyword_argument":
        names = [field.name for field in dataclasses.fields(cls)]
        return unknown_name_message(f"{what} key", place, names)
    if fault["type"] == "missing" and not place.endswith("]"):  # a key, not an entry of a list
        above = fault["loc"][:-1]
        missing = [f["loc"] for f in faults if f["type"] == "missing" and f["loc"][:-1] == above]
        return f"{what}: {', '.join(sorted(str(loc[-1]) for loc in missing))} must be given."
    value = fault["input"]
    if not place:
        return f"{what}={value!r} must be a mapping of keys to values."
    if get_origin(rule) is Literal and isinstance(value, str):
        return f"{what}: " + unknown_name_message(place, value, get_args(rule))
    words = _describe(rule)
    hint = f": [{value}]" if words.partition(",")[0] == "a list" else ""
    if isinstance(value, str) and "number" in words:
        hint = _number_hint(value)
    verb = "" if words.startswith("name") else "be "
    return f"{what}: {place}={value!r} must {verb}{words}{hint}."


def _describe(annotation: Any) -> str:
    """Say in words what an annotation allows."""
    members = get_args(annotation)
    for part in members:
        if isinstance(part, FieldInfo) and part.description:
            return part.description
    origin = get_origin(annotation)
    if origin in _UNIONS:
        parts = " or ".join(_describe(part) for part in members if part is not type(None))
        return f"{parts}, or null"
    if origin is Literal:
        return f"one of {', '.join(members)}"
    if origin is tuple:
        return "a list of mappings" if dataclasses.is_dataclass(members[0]) else "a list"
    return "true or false" if annotation is bool else "a mapping of keys to values"


def _number_hint(text: str) -> str:
    """Say how YAML takes a number: 3e-3 is text, 3.0e-3 is none."""
    mantissa, mark, exponent = text.strip().lower().partition("e")
    try:
        number = f"{float(mantissa)}e{exponent}" if mark else str(yaml.safe_load(text))
        float(number)
    except (ValueError, yaml.YAMLError):
        return ""
    return f" (YAML takes {text} for text: write {number})"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file; a ValueError if it is missing or no mapping, or a key or value is wrong.

    A recipe with ``base: OTHER.yaml`` (beside it) takes every key that it does not give from there.
    Overrides are ``key=value``, ``group.key=value`` for keys of a group (``lora.rank=8``); values
    are YAML.
    """
    values = _read(Path(path))
    for override in overrides:
        key, value = parse_override(override)
        *groups, last = key.split(".")
        place = values
        for group in groups:
            inner = {} if place.get(group) is None else place[group]
            if not isinstance(inner, dict):
                raise ValueError(f"Override {override!r}: {group} is no group of keys.")
            place[group] = place = dict(inner)
        place[last] = value
    return parse_recipe(values)


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
    """Parse YAML; a ValueError of one line where it is none."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"no valid YAML: {reason[:300]}") from error


def parse_override(override: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``, the value parsed as YAML."""
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ValueError(f"Override {override!r} must have the form key=value.")
    try:
        return key, _parse(text)
    except ValueError as error:
        raise ValueError(f"Override {override!r}: its value is {error}") from error
