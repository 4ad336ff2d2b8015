r"""Writes tables for LaTeX that fit a page's column; nothing is scaled with \resizebox.

Columns are as wide as their longest word needs, in Computer Modern. Those that do not fit side by
side go on below, with the rows' names again, and many rows go on in another float.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas

from opencompass_llada.report.writers import Cell, Table, explain_parts, show_controls

#: Inches of a line: a column of a page with two, and both together.
WIDTHS = {"one": 3.3, "two": 7.0}
#: Packages that the tables need.
PACKAGES = r"\usepackage{array,booktabs}"
POINTS_AN_INCH = 72.27
FONT_SIZE, SMALL_SIZE = 8.0, 7.0
#: Computer Modern's small fonts are cut wider than its 10 points, and its bold ones wider still.
CUT = {FONT_SIZE: 1.07, SMALL_SIZE: 1.15}
BOLD = 1.16
GAP = 3.0  # points on each side of a column
LABEL_SHARE = 0.36  # of the line: what the names of rows take at most, together
#: Lines that a float holds beside a long caption, and what a head is taken for.
MOST_LINES, HEAD_LINES = 44, 5
#: Parts of the font's size that signs take which LaTeX draws by itself, or in another font.
_DRAWN = {" ": 0.34, "_": 0.4, "<": 0.8, ">": 0.8, "\\": 0.55, "|": 0.3, "{": 0.55, "}": 0.55}
#: Signs of text that few installations have as outlines are those of maths.
_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"$\mathdollar$", "&": r"\&",
    "#": r"\#", "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "≥": r"$\geq$", "≤": r"$\leq$", "<": r"$<$", ">": r"$>$", "−": "--", "±": r"$\pm$",
    "…": r"\ldots{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$",
}  # fmt: skip
#: A score, its interval, and what follows.
_INTERVAL = re.compile(r"^(.*?) \[([^\]]+)\](.*)$")
#: Behind these signs a long name may be broken.
_BREAKS = re.compile(r"(?<=[_=/-])(?=\w)")


def escape_latex(text: str) -> str:
    """Return a text whose signs LaTeX prints as they are."""
    return "".join(_SIGNS.get(sign, sign) for sign in " ".join(show_controls(text).split()))


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One column: its fields as LaTeX and its widths in points."""

    head: str
    fields: tuple[str, ...]
    sizes: tuple[float, ...]  # of each field on one line
    least: float  # of its longest word
    natural: float  # of its longest field on one line
    align: str


def write_latex(table: Table, *, width: str = "two", label: str = "") -> str:
    r"""Return a table's floats, for a column of ``WIDTHS``; the first has the label.

    Best numbers are bold. The caption is the title with the notes. Parts have a rule between them.
    """
    room = WIDTHS[width] * POINTS_AN_INCH
    starts = {part.start for part in table.parts}
    parts = list(_cut(_measure(table, room), table.num_labels, room, starts))
    notes = [*explain_parts(table), *table.notes]
    floats = []
    for number, blocks in enumerate(parts):
        title = escape_latex(" ".join([f"{table.title}.", *map(_end, notes)]))
        if number:
            title = escape_latex(f"{table.title}, part {number + 1} of {len(parts)}.")
        anchor = f"{label or 'tab:' + table.name}{f'-{number + 1}' if number else ''}"
        star = "*" if width == "two" else ""
        floats += [
            rf"\begin{{table{star}}}[tp]",
            r"\centering",
            rf"\caption{{{title}}}\label{{{anchor.replace('_', '-')}}}\par\smallskip",
            rf"\fontsize{{{FONT_SIZE:g}}}{{9.5}}\selectfont\setlength{{\tabcolsep}}{{{GAP:g}pt}}%",
            rf"\def\interval#1{{{{\fontsize{{{SMALL_SIZE:g}}}{{8}}\selectfont{{}}[#1]}}}}%",
            "\n\\par\\medskip\n".join(blocks),
            rf"\end{{table{star}}}",
            "",
        ]
    return "\n".join([f"% needs {PACKAGES}", *floats])


def _end(note: str) -> str:
    return note if note.rstrip().endswith((".", "!", "?")) else f"{note}."


def _measure(table: Table, room: float) -> list[_Column]:
    """Return the columns; those that name rows take part of the line at most, if their words do."""
    columns = []
    for number, head in enumerate(table.heads):
        cells = [row[number] for row in table.rows]
        words = [_words(cell) for cell in cells]
        heading = [_width(word) for word in re.split(" ", head) for word in _BREAKS.split(word)]
        least = max([*heading, *(max(own) for own in words)])
        sizes = [sum(own) + _width(" ") * len(own) for own in words]
        natural = max(least, *sizes, 0.0)
        is_label = number < table.num_labels
        columns.append(_Column(
            head=_breakable(escape_latex(head)),
            fields=tuple(map(_field, cells)),
            sizes=tuple(sizes),
            least=least,
            natural=max(least, min(natural, LABEL_SHARE * room / table.num_labels))
            if is_label else natural,
            align=r"\raggedright" if is_label or _is_text(cells) else r"\raggedleft",
        ))  # fmt: skip
    return columns


def _is_text(cells: Sequence[Cell]) -> bool:
    return all(cell.value is None for cell in cells) and any(" " in cell.text for cell in cells)


def _words(cell: Cell) -> list[float]:
    """Return the widths of what stays on one line; an interval does."""
    match = _INTERVAL.match(cell.text)
    text = f"{match[1]} {match[3]}" if match else cell.text
    words = [
        _width(part, bold=cell.is_best) for word in text.split() for part in _BREAKS.split(word)
    ]
    ends = match[2].split(" to ") if match else []
    return [*words, *(_width(f"[{end}]", SMALL_SIZE) for end in ends)] or [0.0]


def _field(cell: Cell) -> str:
    match = _INTERVAL.match(cell.text)
    score, interval, rest = match.groups() if match else (cell.text, "", "")
    value = score.rstrip("†‡")
    text = _breakable(escape_latex(value))
    text = rf"\textbf{{{text}}}" if cell.is_best and text else text
    text += escape_latex(score[len(value) :])
    if interval:
        text += rf" \interval{{{escape_latex(interval).replace(', ', ',~')}}}"
    return text + _breakable(escape_latex(rest))


def _breakable(text: str) -> str:
    return re.sub(r"(\\_|[=/-])(?=\w)", r"\1\\allowbreak{}", text)


@cache
def _font() -> Any:
    import matplotlib
    from matplotlib.ft2font import FT2Font

    return FT2Font(str(Path(matplotlib.get_data_path(), "fonts/ttf/cmr10.ttf")))


@cache
def _advance(sign: str) -> float:
    """Return a sign's width in parts of the font's size; one that it lacks counts as wide."""
    font = _font()
    if sign in _DRAWN:
        return _DRAWN[sign]
    if not font.get_char_index(ord(sign)):
        return 1.0
    return float(font.load_char(ord(sign), 1).horiAdvance / font.units_per_EM)


def _width(text: str, size: float = FONT_SIZE, bold: bool = False) -> float:
    return sum(map(_advance, text)) * size * CUT[size] * (BOLD if bold else 1.0)


def _cut(
    columns: Sequence[_Column], num_labels: int, room: float, starts: Collection[int]
) -> Iterator[list[str]]:
    """Yield the floats, each a list of tabulars that stand below each other."""
    labels, rest = list(columns[:num_labels]), columns[num_labels:]
    widest = max((own.least for own in rest), default=0.0)
    if _total([own.natural for own in labels]) + widest + 2 * GAP > room:
        # Names of rows give way, down to their longest word, where a column does not fit beside.
        labels = [replace(own, natural=own.least) for own in labels]
    blocks: list[list[_Column]] = [[]]
    for column in rest:
        taken = [own.natural for own in labels] + [own.least for own in (*blocks[-1], column)]
        if blocks[-1] and _total(taken) > room:
            blocks.append([])
        blocks[-1].append(column)
    widths = [_stretch(labels, block, room) for block in blocks]
    wholes = [[*labels, *block] for block in blocks]
    tallest = [0] * len(columns[0].fields)
    for whole, own in zip(wholes, widths, strict=True):
        for row, sizes in enumerate(zip(*(column.sizes for column in whole), strict=True)):
            lines = [math.ceil(size / width) for size, width in zip(sizes, own, strict=True)]
            tallest[row] = max([tallest[row], *lines])
    held: list[str] = []
    taken_lines = 0
    for rows in _chunks(tallest):
        for whole, own in zip(wholes, widths, strict=True):
            height = HEAD_LINES + sum(tallest[rows])
            if held and taken_lines + height > MOST_LINES:
                yield held
                held, taken_lines = [], 0
            held.append(_set(whole, own, rows, starts))
            taken_lines += height
    yield held


def _total(widths: Sequence[float]) -> float:
    return sum(widths) + 2 * GAP * len(widths)


def _chunks(lines: Sequence[int]) -> Iterator[slice]:
    """Yield the rows that one float takes, by the lines of each."""
    start = 0
    for end in range(1, len(lines) + 1):
        if end == len(lines) or sum(lines[start : end + 1]) > MOST_LINES - HEAD_LINES:
            yield slice(start, end)
            start = end


def _stretch(labels: Sequence[_Column], block: Sequence[_Column], room: float) -> list[float]:
    """Return widths: what is left of the line goes to fields that would use it, then to names."""
    widths = [own.natural for own in labels] + [own.least for own in block]
    wishes = [0.0] * len(labels) + [own.natural - own.least for own in block]
    widths = _grow(widths, wishes, room)
    wishes = [max(own.sizes, default=own.natural) - own.natural for own in labels] + [0.0] * len(
        block
    )
    return _grow(widths, wishes, room)


def _grow(widths: Sequence[float], wishes: Sequence[float], room: float) -> list[float]:
    wishes = [max(wish, 0.0) for wish in wishes]
    left = max(room - _total(widths), 0.0)
    share = min(1.0, left / sum(wishes)) if any(wishes) else 0.0
    return [width + share * wish for width, wish in zip(widths, wishes, strict=True)]


def _set(
    columns: Sequence[_Column], widths: Sequence[float], rows: slice, starts: Collection[int]
) -> str:
    """Return a tabular of some rows, with a rule before those where a part starts."""
    fields = list(zip(*(own.fields[rows] for own in columns), strict=True))
    frame = pandas.DataFrame(fields, columns=[own.head for own in columns])
    form = "".join(
        rf">{{{own.align}\arraybackslash}}p{{{width:.1f}pt}}"
        for own, width in zip(columns, widths, strict=True)
    )
    style = frame.style.hide(axis="index")
    text = str(style.to_latex(hrules=True, column_format=f"@{{}}{form}@{{}}")).rstrip()
    head, rule, body = text.partition("\\midrule\n")
    lines = body.splitlines()
    for number in range(rows.stop - rows.start - 1, 0, -1):
        if rows.start + number in starts:
            lines.insert(number, rule.rstrip())
    return "\n".join([head + rule.rstrip(), *lines])
