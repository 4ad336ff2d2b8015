"""A table as GitHub's Markdown."""

from __future__ import annotations

from opencompass_llada.results.safe_text import escape_markdown
from opencompass_llada.results.table_cells import Cell, Table


def write_markdown(table: Table) -> str:
    """Return a table with its heading and notes; best numbers are bold.

    Args:
        table: The table.
    """
    heads = " | ".join(escape_markdown(head) for head in table.heads)
    rule = "---|" * table.num_labels + "---:|" * (len(table.heads) - table.num_labels)
    lines = [f"## {escape_markdown(table.title)}", "", f"| {heads} |", f"|{rule}"]
    lines += [f"| {' | '.join(_write(cell) for cell in row)} |" for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {escape_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _write(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return f"**{text}**" if cell.is_best and text else text
