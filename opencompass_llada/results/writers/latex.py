r"""A table in LaTeX with booktabs, to be \input into a paper."""

from __future__ import annotations

from opencompass_llada.results.safe_text import show_controls
from opencompass_llada.results.table_cells import Cell, Table

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
    lines += [" & ".join(_write(cell) for cell in row) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Return a text whose signs LaTeX prints as they are."""
    return "".join(_SIGNS.get(sign, sign) for sign in " ".join(show_controls(text).split()))


def _write(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.is_best and text else text
