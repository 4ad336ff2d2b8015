"""The tables and figures of the docs, from their records: checked, or written anew.

    python benchmarks/documented_figures.py            # shows what differs from the records
    python benchmarks/documented_figures.py --write    # writes them

In a page a table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; a function of
benchmarks/documented/tables with the decorator ``@table("NAME")`` makes it. A figure in the text,
with its unit, is followed by ``<!-- figure: RECORD#/PATH -->``, and has as many digits as the page
gives it; `documented.records` says what RECORD and PATH are.
"""

from __future__ import annotations

import argparse
import re
import sys
from difflib import unified_diff

from documented.records import look_up
from documented.tables import TABLES
from recording import ROOT, exit_on_error

from opencompass_llada.options import unknown_name_message

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TABLE = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FIGURE = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)([ *%]*[a-z]*<!-- figure: (.+?) -->)", re.IGNORECASE)


def rewrite(text: str) -> str:
    """Return a page's text with every marked table and figure as its record has it."""

    def remake(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        if name not in TABLES:
            where = "A function of benchmarks/documented/tables makes each."
            raise ValueError(f"{unknown_name_message('table', name, TABLES)} {where}")
        return start + TABLES[name]() + end

    def refigure(match: re.Match[str]) -> str:
        number, rest, reference = match.groups()
        digits = len(number.partition(".")[2])
        sign = "+" if number.startswith("+") else ""
        return f"{look_up(reference):{sign}{',' if ',' in number else ''}.{digits}f}{rest}"

    return FIGURE.sub(refigure, TABLE.sub(remake, text))


def main() -> None:
    """Name the lines that differ from their records, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write what differs")
    given = parser.parse_args()
    differing = 0
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = rewrite(old)
        if new == old:
            continue
        differing += 1
        name = str(page.relative_to(ROOT))
        print(
            "\n".join(unified_diff(old.splitlines(), new.splitlines(), name, name, "", "", 0, ""))
        )
        if given.write:
            page.write_text(new, encoding="utf-8")
    if differing and not given.write:
        sys.exit(f"{differing} pages differ from their records; --write writes them.")


if __name__ == "__main__":
    exit_on_error(main)
