"""Holds every table of the docs by the name that its mark has: ``<!-- table: NAME -->``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

#: Name -> what makes the table. The files of documented/tables fill it with `table`.
TABLES: dict[str, Callable[[], str]] = {}


def table(name: str, *arguments: Any) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Return a decorator that names a function's table.

    A function that makes several tables has a decorator for each.

    Args:
        name: What stands in the page's mark.
        arguments: What the function is called with to make this table.

    Raises:
        ValueError: If another table has the name.
    """

    def add(maker: Callable[..., str]) -> Callable[..., str]:
        if name in TABLES:
            raise ValueError(f"two tables are called {name!r}, and a mark has one; rename one.")
        TABLES[name] = functools.partial(maker, *arguments)
        return maker

    return add
