"""A table as CSV: the numbers that cells sort by, and their texts where there is none."""

from __future__ import annotations

import csv
import io

from opencompass_llada.results.table_cells import Table


def write_csv(table: Table) -> str:
    """Return a table as it is read by people; `leaderboard_scores.csv` is the one for programs.

    Args:
        table: The table.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.heads)
    writer.writerows([cell.text for cell in row] for row in table.rows)
    return text.getvalue()
