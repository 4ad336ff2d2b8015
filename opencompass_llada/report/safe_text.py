"""Writes texts of others, such as names and answers, so that a reader's program shows them.

A spreadsheet computes a cell that begins with a sign, Markdown has markup, and control characters
hide or turn around what stands beside them. Knows no tables; HTML is escaped by its templates.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_FORMULA_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARKUP = "\\`*_|<>[&$~"
#: Marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm.
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_KEPT = "\t\n\r"


def show_controls(text: str) -> str:
    r"""Return a text with control characters and changes of direction as ``\u202e`` and the like.

    Args:
        text: Any text; tabs and line breaks stay.
    """
    if text.isprintable():  # the marks of direction are not
        return text
    return "".join(
        f"\\u{ord(sign):04x}"
        if sign in _DIRECTIONS or (unicodedata.category(sign) in ("Cc", "Cs") and sign not in _KEPT)
        else sign
        for sign in text
    )


def escape_markdown(text: str) -> str:
    """Return a text as one line whose markup is not read as such."""
    text = show_controls(text)
    return " ".join("".join("\\" + s if s in _MARKUP else s for s in text).split())


def table_field(text: str) -> str:
    """Return a text that stays in its field of a table that is read as plain text, too."""
    return " ".join(show_controls(text).replace("|", "\\|").split())


def write_csv_rows(heads: Sequence[str], rows: Iterable[Iterable[Any] | Mapping[str, Any]]) -> str:
    """Return rows as CSV in which no field is a formula; what is missing is an empty field.

    A text that a spreadsheet would compute has an apostrophe before it, as spreadsheets write it
    themselves. Numbers stay numbers, also where they are texts: ``-0.5``, ``+2``.

    Args:
        heads: Names of the columns.
        rows: Values in their order, or by name.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for row in rows:
        values = [row[name] for name in heads] if isinstance(row, Mapping) else row
        writer.writerow([_guard(value) for value in values])
    return text.getvalue()


def _guard(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    shown = show_controls(value)
    if not shown.lstrip().startswith(_FORMULA_SIGNS):
        return shown
    try:
        float(shown)
    except ValueError:
        return "'" + shown
    return shown
