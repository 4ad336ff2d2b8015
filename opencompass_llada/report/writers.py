"""Writes tables as text: Markdown, CSV and LaTeX. HTML is in `page`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opencompass_llada.report.safe_text import escape_markdown, show_controls, write_csv_rows
from opencompass_llada.report.tables import Cell, Table


def write_csv(table: Table) -> str:
    """Return a table as it is read by people; `leaderboard_scores.csv` is the one for programs.

    Args:
        table: The table.
    """
    return write_csv_rows(table.heads, ([cell.text for cell in row] for row in table.rows))


_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "≥": r"$\geq$", "<": r"$<$", ">": r"$>$", "−": "--", "±": r"$\pm$", "…": r"\ldots{}",
    "[": "{[}", "]": "{]}",
}  # fmt: skip


def write_latex(table: Table) -> str:
    r"""Return a tabular between booktabs rules; needs ``\usepackage{booktabs}``.

    Best numbers are bold. Notes are comments.

    Args:
        table: The table.
    """
    columns = "l" * table.num_labels + "r" * (len(table.heads) - table.num_labels)
    lines = [f"% {table.title}; needs \\usepackage{{booktabs}}"]
    lines += [f"% {' '.join(show_controls(note).split())}" for note in table.notes]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(escape_latex(head) for head in table.heads) + r" \\", r"\midrule"]
    lines += [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Return a text whose signs LaTeX prints as they are."""
    return "".join(_SIGNS.get(sign, sign) for sign in " ".join(show_controls(text).split()))


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.is_best and text else text


def write_markdown(table: Table) -> str:
    """Return a table with its heading and notes; best numbers are bold.

    Args:
        table: The table.
    """
    heads = " | ".join(escape_markdown(head) for head in table.heads)
    rule = "---|" * table.num_labels + "---:|" * (len(table.heads) - table.num_labels)
    lines = [f"## {escape_markdown(table.title)}", "", f"| {heads} |", f"|{rule}"]
    lines += [f"| {' | '.join(_markdown_cell(cell) for cell in row)} |" for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {escape_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return f"**{text}**" if cell.is_best and text else text


#: Suffix of the file -> what writes one table. A new format is an entry here.
WRITERS: Mapping[str, Callable[[Table], str]] = {
    "md": write_markdown,
    "csv": write_csv,
    "tex": write_latex,
}

__all__ = ["WRITERS", "write_csv", "write_latex", "write_markdown"]
