"""Makes the table of what each key of a recipe may be, and of its default, from the classes."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from reference import make_table, show_default

#: The groups of keys in the order of docs/reference/recipe.md -> their classes' names.
GROUPS = {
    "": "Recipe",
    "text.": "TextSource",
    "text.chat.": "Chat",
    "phases.": "Phase",
    "answer_padding.": "AnswerPadding",
    "lora.": "Lora",
    "evaluation.": "Evaluation",
}

#: Rules of the errors -> as a table says them.
SHORTER = {
    "text of at least one letter, without NUL": "text",
    "name a folder: checkpoints/mine": "a folder",
}


def describe(kind: Any) -> str:
    """Return what a value may be, in the words of the errors where there are any."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        told = next((one.description for one in inner[1:] if hasattr(one, "description")), None)
        return SHORTER.get(told or "", told) or describe(inner[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(one) for one in inner)
    if origin is tuple:
        return f"a list, each {describe(inner[0])}"
    if dataclasses.is_dataclass(kind):
        return "keys, below"
    if origin is not None:
        return "keys"
    names = {bool: "`true` or `false`", type(None): "null", int: "a whole number", str: "text"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def recipe_values() -> str:
    """Return key, value and default of every key."""
    from opencompass_llada.finetune import recipe

    rows = []
    for prefix, name in GROUPS.items():
        owner = getattr(recipe, name)
        hints = typing.get_type_hints(owner, include_extras=True)
        for field in dataclasses.fields(owner):
            default = show_default(field).replace("None", "null").replace("()", "[]")
            default = default.replace("True", "true").replace("False", "false")
            value = describe(hints[field.name])
            value += " or null" if field.default is None and "null" not in value else ""
            rows.append([f"`{prefix}{field.name}`", value, default])
    return make_table(["key", "value", "default"], rows)
