"""Two settings of the study of post-training against each other, cell by cell.

    python studies/finetune_study_pairs.py study.json scaling diffusion_ntk ntk
    python studies/finetune_study_pairs.py study.json strategy adaptive eod --leave-out none lora

Prints Markdown: for each factor the mean difference (first minus second) over the pairs of cells
that are alike in everything else, and its standard error over the pairs as if they were independent
(those of one seed are not quite). All cells share their prompts: the error is of training, not of
what was asked. ``*`` marks p < 0.05 of Student's t, each figure by itself, three pairs or more.
What a column is, `finetune_study_report` says. A failed cell, and one without a partner, makes no
pair; how many pairs there are is printed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import pandas
from finetune_study_report import COLUMNS, GRID, VARIANT, Row, describe, measure, write_table
from recording import exit_on_error, read_rows
from scipy.stats import ttest_1samp

from opencompass_llada.options import reject_unknown

#: What may be compared; cells differ in their figures by factor, and seeds have no order.
AXES = tuple(name for name in GRID if name not in ("factor", "seed"))
FEWEST = 3  # pairs that a test is made of


def find_pairs(rows: Sequence[Row], axis: str, first: str, second: str) -> pandas.DataFrame:
    """Return the differences of figures, first less second setting, indexed by what is alike."""
    if first == second:
        raise ValueError(f"{axis} {first!r} against itself; name two settings.")
    reject_unknown(axis, (first, second), sorted({str(row[axis]) for row in rows}))
    # Methods have learning rates of their own.
    free = {axis, "learning_rate"} if axis == "method" else {axis}
    alike = [name for name in (*GRID, *VARIANT) if name not in free]
    cells = measure([row for row in rows if "error" not in row])
    ours, theirs = (cells[cells[axis] == setting].set_index(alike) for setting in (first, second))
    if len(twice := theirs[theirs.index.duplicated()]):
        cell = describe(twice.reset_index().iloc[0], alike)
        raise ValueError(f"two cells of {axis} {second} have {cell}; leave one out.")
    ours = ours[ours.index.isin(theirs.index)]
    return ours[[*COLUMNS]] - theirs.loc[ours.index, [*COLUMNS]]


def print_difference(apart: Sequence[float], digits: int) -> str:
    """Return mean, standard error and mark; the mean alone of one pair."""
    text = f"{statistics.fmean(apart):+.{digits}f}"
    if len(apart) == 1:
        return text
    text += f" ± {statistics.stdev(apart) / len(apart) ** 0.5:.{digits}f}"
    if len(apart) < FEWEST or len(set(apart)) == 1:
        return text
    return text + (" *" if ttest_1samp(apart, 0.0).pvalue < 0.05 else "")


def make_table(pairs: pandas.DataFrame) -> str:
    """Return the Markdown table."""
    lines = []
    for factor, apart in pairs.groupby(level="factor"):
        digits = {heading: max(1, digits) for heading, (_, digits) in COLUMNS.items()}
        figures = [print_difference(apart[heading], digits[heading]) for heading in COLUMNS]
        lines.append([str(factor), str(len(apart)), *figures])
    return write_table(["factor", "pairs", *COLUMNS], lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("axis", choices=AXES)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="VALUE", help="of any axis")
    given = parser.parse_args(arguments)
    rows = read_rows(given.record)
    reject_unknown(
        "--leave-out", given.leave_out, {row[name]: None for row in rows for name in AXES}
    )
    rows = [row for row in rows if not {row[name] for name in AXES} & set(given.leave_out)]
    pairs = find_pairs(rows, given.axis, given.first, given.second)
    if pairs.empty:
        raise ValueError(f"{given.record}: no two cells differ in {given.axis} alone.")
    print(make_table(pairs))


if __name__ == "__main__":
    exit_on_error(main)
