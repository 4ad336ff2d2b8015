"""Reads the config that OpenCompass dumped into a run's folder, without running any of it.

A dumped config is assignments of literals and of ``dict(...)``; it is read as such, so that a
report of somebody else's folder executes nothing and needs no OpenCompass. Hand-written configs,
with imports and `read_base`, are refused.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any


def read_dumped_config(path: Path) -> dict[str, Any]:
    """Return a dumped config's values by name.

    Args:
        path: A file under a run's configs/ folder.

    Returns:
        Plain dictionaries, lists, numbers and strings; classes are dotted names.

    Raises:
        ValueError: For anything but literals and ``dict(...)``; names file and line.
    """
    try:
        tree = ast.parse(path.read_bytes().decode("utf-8"), filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is no Python file ({error}); was it cut off?") from error
    values = {}
    for statement in tree.body:
        if (
            not isinstance(statement, ast.Assign)
            or len(statement.targets) != 1
            or not isinstance(statement.targets[0], ast.Name)
        ):
            raise _refusal(path, statement)
        values[statement.targets[0].id] = _read(path, statement.value)
    return values


def _read(path: Path, node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        return _read_call(path, node)
    if isinstance(node, ast.Dict):
        return {
            _read(path, key): _read(path, value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        items = [_read(path, item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _refusal(path, node) from error


def _read_call(path: Path, node: ast.Call) -> dict[str, Any]:
    """Read ``dict(...)`` and ``dict({...}, ...)``."""
    if not isinstance(node.func, ast.Name) or node.func.id != "dict":
        raise _refusal(path, node)
    values: dict[str, Any] = {}
    for argument in node.args:
        values |= _read(path, argument)
    for keyword in node.keywords:
        if keyword.arg is None:
            raise _refusal(path, keyword.value)
        values[keyword.arg] = _read(path, keyword.value)
    return values


def _refusal(path: Path, node: ast.stmt | ast.expr) -> ValueError:
    return ValueError(
        f"{path}, line {node.lineno}: {ast.unparse(node)[:60]!r} is not what a dumped config "
        "holds (literals and dict(...)). Point to the run's own folder, whose configs/ OpenCompass "
        "wrote, not to a hand-written config."
    )
