"""Builds options classes from what a config gives, and refuses unknown names and wrong types.

An options class is a frozen dataclass; its annotations alone say which types its values have.
`build` is the one way from a mapping to it; ranges are checked by each class itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

Options = TypeVar("Options")
_LARGEST = 2**63 - 1
_SHOWN = 120  # characters of a value in a message
_LEAVE_OUT = "leave it out for the default"
_EXPECTED = {
    bool: "a boolean",
    int: "an integer, a whole number",
    float: "a finite number",
    str: "a text",
    type(None): "None",
}


def build(
    cls: type[Options],
    given: Any,
    what: str,
    also: Iterable[str] = (),
    by_name: str | None = None,
    hints: Mapping[str, str] | None = None,
) -> Options:
    """Make an options class of what a config gives for it.

    Args:
        cls: A dataclass that checks its own values (`check_fields`, then ranges).
        given: A mapping of its fields, an instance, or None for all defaults.
        what: What messages call it, e.g. ``"cache"``.
        also: Further names that a mapping may hold; they are left out.
        by_name: The field that a text alone stands for, such as ``"type"``; None for none.
        hints: What to say of unknown names, as `unknown_name_message` takes it.

    Raises:
        ValueError: If it is no mapping, a name is unknown (the nearest is named), one is missing,
            or a value does not fit.
    """
    if isinstance(given, cls):
        return given
    if by_name is not None and isinstance(given, str):
        given = {by_name: given}
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if given is not None and not isinstance(given, Mapping):
        alone = "" if by_name is None else f"a {by_name}'s name or "
        raise ValueError(
            f"{what}={show(given)} must be {alone}a dict of options, of these: {', '.join(fields)}"
        )
    values = dict(given or {})
    reject_unknown(f"{what} option", values, [*fields, *also], hints)
    absent = (dataclasses.MISSING, dataclasses.MISSING)
    needed = [name for name, f in fields.items() if (f.default, f.default_factory) == absent]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{what} needs {', '.join(missing)}, which the config does not give")
    return cls(**{name: value for name, value in values.items() if name in fields})


def check_fields(options: Any, prefix: str = "") -> None:
    """Check every field of a frozen dataclass by its annotation, and put it into that form.

    Called in ``__post_init__``; messages put the prefix before a field's name.
    """
    hints = _read_annotations(options.__class__)
    for field in dataclasses.fields(options):
        value, name = getattr(options, field.name), f"{prefix}{field.name}"
        needed = field.default is field.default_factory is dataclasses.MISSING
        remedy = "give one, it has no default" if needed else _LEAVE_OUT
        checked = check_value(name, value, hints[field.name], remedy)
        if checked is not value:
            object.__setattr__(options, field.name, checked)


@functools.cache
def _read_annotations(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def check_at_least(options: object, lowest: int, *names: str) -> None:
    """Raise a ValueError if one of these fields is below a limit; None is no number."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < lowest:
            raise ValueError(f"{name}={value} must be at least {lowest}; use {lowest} or more")


def check_value(name: str, value: Any, expected: Any, remedy: str = _LEAVE_OUT) -> Any:
    """Return a value in the type that is expected of it, else raise a ValueError with the remedy.

    Expected is a type or annotation: int, float, bool, str, None, unions, mappings, sequences and
    tuples of these, or a class whose instances are meant; Any is anything. Integers of any library
    stand for int and float, and paths for texts; booleans for neither, and texts for no number.
    Numbers become Python's own, paths texts, and sequences of a checked type tuples.
    """
    is_union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    alternatives = typing.get_args(expected) if is_union else (expected or type(None),)
    for alternative in alternatives:
        fits, converted = _convert(name, value, alternative)
        if fits:
            return converted
    kinds = dict.fromkeys(map(_describe, alternatives))
    remedy = "use True or False" if expected is bool else remedy
    if isinstance(value, str) and not {str, bool} & set(alternatives):
        with suppress(ValueError):
            float(value)
            remedy = "write it without quotes"
    raise ValueError(f"{name}={show(value)} must be {' or '.join(kinds)}; {remedy}")


def _convert(name: str, value: Any, expected: Any) -> tuple[bool, Any]:
    """Return whether a value is of one type, and the value in that type's own form."""
    if expected is Any or expected is object:
        return True, value
    if expected is bool:
        is_bool = type(value).__name__ in ("bool_", "bool")
        return is_bool, bool(value) if is_bool else value
    if expected in (int, float):
        return _convert_number(name, value, expected)
    if expected is str:
        fits = isinstance(value, str | os.PathLike)
        return fits, os.fspath(value) if isinstance(value, os.PathLike) else value
    origin = typing.get_origin(expected)
    if _is_a(origin, Mapping):
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value), value
    if _is_a(origin, Sequence):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            return False, value
        item = typing.get_args(expected)[0]
        return True, tuple(check_value(f"{name}[{i}]", v, item) for i, v in enumerate(value))
    kind = origin or expected
    return inspect.isclass(kind) and isinstance(value, kind), value


def _convert_number(name: str, value: Any, expected: type) -> tuple[bool, Any]:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False, value
    if not isinstance(value, numbers.Integral):
        return expected is float and math.isfinite(value), float(value)
    if abs(int(value)) > _LARGEST:
        raise ValueError(f"{name}={show(value)} must be at most {_LARGEST}; use {_LARGEST} or less")
    return True, int(value)


def _is_a(kind: Any, base: type) -> bool:
    return inspect.isclass(kind) and issubclass(kind, base)


def _describe(expected: Any) -> str:
    if expected in _EXPECTED:
        return _EXPECTED[expected]
    origin = typing.get_origin(expected)
    if _is_a(origin, Mapping):
        return "a dict of options"
    if _is_a(origin, Sequence):
        return f"a list, each {_describe(typing.get_args(expected)[0])}"
    return f"a {getattr(expected, '__name__', expected)}"


def show(value: object) -> str:
    """Return a value as a message shows it: one line, shortened."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of more digits than Python writes
        text = f"<{type(value).__name__} of too many digits>"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


def reject_unknown(
    what: str,
    given: Iterable[str],
    allowed: Iterable[str],
    hints: Mapping[str, str] | None = None,
) -> None:
    """Raise a ValueError for the first name that is not allowed; see `unknown_name_message`."""
    names = list(allowed)
    for name in given:
        if name not in names:
            raise ValueError(unknown_name_message(what, str(name), names, hints))


def unknown_name_message(
    what: str, name: str, allowed: Iterable[str], hints: Mapping[str, str] | None = None
) -> str:
    """Return the value, the nearest valid name and all valid names, in a sentence each.

    ``hints`` has a sentence for names whose nearest one is not what is meant: of other codes, say.
    """
    names = sorted(allowed)
    guess = nearest(name, names)
    hint = f"Did you mean {guess!r}? " if guess else ""
    hint = f"{hints[name]} " if hints and name in hints else hint
    return f"Unknown {what} {name!r}. {hint}Valid: {', '.join(names) or '(none)'}."


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest in spelling; None when nothing comes near."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return matches[0] if matches else None
