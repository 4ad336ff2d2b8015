"""Writes tables as text: Markdown, CSV and LaTeX. HTML is in `report`."""

from collections.abc import Callable, Mapping

from opencompass_llada.results.table_cells import Table
from opencompass_llada.results.writers.csv_text import write_csv
from opencompass_llada.results.writers.latex import write_latex
from opencompass_llada.results.writers.markdown import write_markdown

#: Suffix of the file -> what writes one table. A new format is an entry here.
WRITERS: Mapping[str, Callable[[Table], str]] = {
    "md": write_markdown,
    "csv": write_csv,
    "tex": write_latex,
}

__all__ = ["WRITERS", "write_csv", "write_latex", "write_markdown"]
