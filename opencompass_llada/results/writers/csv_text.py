"""A table as CSV: the numbers that cells sort by, and their texts where there is none."""

from __future__ import annotations

from opencompass_llada.results.safe_text import write_csv_rows
from opencompass_llada.results.table_cells import Table


def write_csv(table: Table) -> str:
    """Return a table as it is read by people; `leaderboard_scores.csv` is the one for programs.

    Args:
        table: The table.
    """
    return write_csv_rows(table.heads, ([cell.text for cell in row] for row in table.rows))
