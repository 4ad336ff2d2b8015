"""Writes tables as Markdown and CSV; texts of others are shown as they are.

A spreadsheet computes a cell that begins with a sign, Markdown has markup, and control characters
hide or turn around what stands beside them. HTML is escaped by its template.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

#: Names and groups of lines that are listed; of more names, the first and the last.
MOST_NAMED = 6
_FORMULA_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARKUP = "\\`*_|<>[&$~"
#: Marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm.
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of a table."""

    text: str
    value: float | None = None  # what it sorts by, where that is a number
    count: str = ""  # of how many samples it is
    hover: str = ""  # what a pointer resting on it shows
    is_best: bool = False  # whether it is the best number of its column
    link: str = ""  # anchor of the samples behind it; '' for an average of several cells


class Part(NamedTuple):
    """Rows of a table that may be compared with each other."""

    start: int = 0
    stop: int | None = None  # one past the last row; None for all to the end
    reason: str = ""  # why they stand apart; '' for a table that has no other


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its notes."""

    name: str  # short, for files and anchors
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]  # as many cells a row as heads
    notes: tuple[str, ...] = ()  # what to know to read it
    num_labels: int = 1  # columns on the left that name a row, not measured
    series: str = ""  # the benchmark's title that it is of; '' for several
    head_series: tuple[str, ...] = ()  # the same of each column; () for a table of none or one
    parts: tuple[Part, ...] = (Part(),)


def explain_parts(table: Table) -> list[str]:
    """Return which lines stand apart, and why; [] where none does."""
    told: dict[str, list[str]] = {}  # places by reason
    for part in table.parts:
        names = list(dict.fromkeys(row[0].text for row in table.rows[part.start : part.stop]))
        shown = ", ".join(names) if len(names) <= MOST_NAMED else f"{names[0]} to {names[-1]}"
        place = (
            f"Line {part.stop}"
            if part.start + 1 == part.stop
            else (f"Lines {part.start + 1} to {part.stop}")
        )
        if part.reason:
            told.setdefault(part.reason, []).append(f"{place} ({shown})")
    return [
        ", ".join(places[:MOST_NAMED])
        + (f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else "")
        + f": {reason}"
        for reason, places in told.items()
    ]


def show_controls(text: str) -> str:
    r"""Return a text with control characters and changes of direction as ``\u202e`` or such."""
    if text.isprintable():  # the marks of direction are not
        return text
    return "".join(f"\\u{ord(sign):04x}" if _is_control(sign) else sign for sign in text)


def _is_control(sign: str) -> bool:
    is_control = unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\t\n\r"
    return is_control or sign in _DIRECTIONS


def file_name(title: str) -> str:
    """Return a title as part of a file's name."""
    letters = "".join(letter if letter.isalnum() else " " for letter in title.lower())
    return "_".join(letters.split())


def write_csv_rows(heads: Sequence[str], rows: Iterable[Iterable[Any] | Mapping[str, Any]]) -> str:
    """Return rows as CSV in which no field is a formula; what is missing is an empty field.

    A text that a spreadsheet would compute has an apostrophe before it, as spreadsheets write it
    themselves. Numbers stay numbers, also where they are texts: ``-0.5``, ``+2``. Rows are values
    in the order of the heads, or by name.
    """
    import pandas

    named = ([row[h] for h in heads] if isinstance(row, Mapping) else row for row in rows)
    # Objects, since pandas would turn a column of whole numbers with a gap into one of floats.
    frame = pandas.DataFrame([list(map(_guard, row)) for row in named], columns=heads, dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))


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


def write_csv(table: Table) -> str:
    """Return a table as it is read by people, with a column for its parts if it has several.

    `scores.csv` is the one for programs.
    """
    rows = [[cell.text for cell in row] for row in table.rows]
    if len(table.parts) == 1:
        return write_csv_rows(table.heads, rows)
    numbered = (
        [str(number), *row]
        for number, part in enumerate(table.parts, start=1)
        for row in rows[part.start : part.stop]
    )
    return write_csv_rows(("group", *table.heads), numbered)


def write_markdown(table: Table) -> str:
    """Return a table with its heading and notes; best numbers are bold."""
    heads = [escape_markdown(head) for head in table.heads]
    rows = [
        [f"**{text}**" if (text := escape_markdown(c.text)) and c.is_best else text for c in row]
        for row in table.rows
    ]
    lines = [f"## {escape_markdown(table.title)}", ""]
    lines.append(write_plain_table(heads, rows, table.num_labels))
    if notes := [*explain_parts(table), *table.notes]:
        lines += ["", *(f"- {escape_markdown(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Return a text as one line whose markup is not read as such."""
    text = show_controls(text)
    return " ".join("".join("\\" + s if s in _MARKUP else s for s in text).split())


def plain_field(text: str) -> str:
    """Return a text that stays in its field of a table that is read as plain text, too."""
    return " ".join(show_controls(text).replace("|", "\\|").split())


def name_scaling(scaling: str) -> str:
    """Return a RoPE scaling as tables and figures name it."""
    return "no scaling" if scaling == "none" else scaling


def write_plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]], labels: int = 1) -> str:
    """Return a table for a log, in Markdown that stays legible as it is; lines without a break."""
    rule = "---|" * labels + "---:|" * (len(heads) - labels)
    lines = [f"| {' | '.join(heads)} |", f"|{rule}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
