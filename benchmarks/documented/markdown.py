"""Writes Markdown tables whose cells are templates, ``{PATH:FORMAT}``, filled from a record.

A cell's base is the ``RECORD#PATH`` that the paths of its templates go on from
(`documented.records`).
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from documented.records import look_up

Template = str


class Filler(string.Formatter):
    """Fills ``{PATH:FORMAT}`` of a template with a record's figures."""

    def __init__(self, base: str) -> None:
        """Look up below a base, ``RECORD#PATH``."""
        self.base = base

    def get_field(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the figure at a path below the base, or of ``RECORD#PATH``."""
        return look_up(name if "#" in name else self.base + name), name


def fill(base: str, template: Template) -> str:
    """Return a template with each ``{PATH:FORMAT}`` looked up below ``RECORD#PATH``."""
    return Filler(base).vformat(template, (), {}).replace("%", " %")


def make(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grid(headings: Sequence[str], bases: Mapping[str, str], cells: Sequence[Template]) -> str:
    """Return a table whose rows have one form: label -> base of the cells' templates."""
    filled = ([label, *(fill(base, cell) for cell in cells)] for label, base in bases.items())
    return make(headings, filled)


def number_rows(record: str, labels: Iterable[str]) -> dict[str, str]:
    """Return the bases of a record's first ``rows``, by the labels that a table gives them."""
    return {label: f"{record}#/rows/{number}/" for number, label in enumerate(labels)}
