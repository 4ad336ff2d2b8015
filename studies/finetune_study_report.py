"""Table and figure of the study of post-training, from its record.

    python studies/finetune_study_report.py study.json --plot docs/images/finetune_study.png

Prints Markdown: a row for each scaling, strategy, method and factor, the mean over seeds and, where
there are several, the range. A figure that is missing is missing: failed cells are said, and a
record that lacks a cell of its own grid is an error unless ``--partial`` says that it may.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from recording import exit_on_error, mean_needle_tasks, read_rows  # noqa: E402

TRAINED = 512  # tokens that tiny-llada was trained at
#: Scalings that a checkpoint can hold, in the order that they are printed in.
SCALINGS = ("none", "ntk", "diffusion_ntk")
#: What tells the cells apart.
GRID = ("scaling", "strategy", "method", "factor", "seed")
VARIANT = ("planned_tokens", "learning_rate")

Row = dict[str, Any]
Figure = Callable[[Row], float]


def mean_needle(row: Row, length: int) -> float:
    """Return percent found at one length, over the depths."""
    return statistics.fmean(row["needle"][str(length)].values())


def lowest_depth(row: Row, length: int) -> float:
    """Return percent found at the depth with the fewest."""
    return float(min(row["needle"][str(length)].values()))


def mean_ruler(row: Row, length: int) -> float:
    """Return the mean of RULER's eight needle tasks at one length."""
    return mean_needle_tasks(row["ruler"][str(length)], length)


def perplexity(row: Row, length: int) -> float:
    """Return the perplexity of the target tokens at one context length."""
    return float(row["perplexity"][str(length)]["perplexity"])


def target(row: Row) -> int:
    """Return the length that a cell was trained to."""
    return TRAINED * int(row["factor"])


#: Heading -> figure of one cell, and how many digits are printed.
COLUMNS: dict[str, tuple[Figure, int]] = {
    "needle 512": (lambda row: mean_needle(row, TRAINED), 1),
    "needle target": (lambda row: mean_needle(row, target(row)), 1),
    "needle 2 x target": (lambda row: mean_needle(row, 2 * target(row)), 1),
    "lowest depth, target": (lambda row: lowest_depth(row, target(row)), 0),
    "RULER 512": (lambda row: mean_ruler(row, TRAINED), 1),
    "RULER target": (lambda row: mean_ruler(row, target(row)), 1),
    "perplexity 512": (lambda row: perplexity(row, TRAINED), 1),
    "perplexity target": (lambda row: perplexity(row, target(row)), 1),
    "perplexity 2 x target": (lambda row: perplexity(row, 2 * target(row)), 1),
    "GPU minutes": (lambda row: row["minutes"] / row["processes"], 2),
}


def missing_cells(rows: Sequence[Row]) -> list[str]:
    """Return the cells that have no row, in words, of each method's own grid.

    A grid is all combinations of what its rows hold: adapters may have fewer scalings.
    """
    missing = []
    for method in sorted({row["method"] for row in rows}):
        present = {tuple(row[n] for n in GRID) for row in rows if row["method"] == method}
        values = [sorted(set(held), key=str) for held in zip(*present, strict=True)]
        missing += [
            ", ".join(f"{name} {value}" for name, value in zip(GRID, cell, strict=True))
            for cell in itertools.product(*values)
            if cell not in present
        ]
    return missing


def group_seeds(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows of each scaling, strategy, method, factor and variant, in print order."""
    names = (*(name for name in GRID if name != "seed"), *VARIANT)
    groups: dict[tuple[Any, ...], list[Row]] = {}

    def order(row: Row) -> tuple[Any, ...]:
        scaling = scaling_order(row["scaling"])
        return row["factor"], row["method"], row["strategy"], *scaling, row["seed"]

    for row in sorted(rows, key=order):
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def scaling_order(name: str) -> tuple[int, str]:
    """Return what scalings are sorted by."""
    return SCALINGS.index(name) if name in SCALINGS else len(SCALINGS), name


def values_of(rows: Sequence[Row], heading: str) -> list[float]:
    """Return a column's figures of the rows that did not fail."""
    figure, _ = COLUMNS[heading]
    values = []
    for row in rows:
        if "error" in row:
            continue
        try:
            values.append(figure(row))
        except (KeyError, ValueError, statistics.StatisticsError) as error:
            cell = ", ".join(f"{name} {row[name]}" for name in GRID)
            raise ValueError(f"the cell {cell} has no {heading!r}: {error}") from error
    return values


def print_value(values: Sequence[float], digits: int) -> str:
    """Return mean and range; the value alone of one seed, ``failed`` of none."""
    if not values:
        return "failed"
    mean = f"{statistics.fmean(values):,.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def make_table(rows: Sequence[Row]) -> str:
    """Return the Markdown table."""
    groups = group_seeds(rows)
    variants = (
        {key[4:] for key in groups if key[2] == "full"},
        {key[4:] for key in groups if key[2] != "full"},
    )
    named = any(len(found) > 1 for found in variants)
    headings = ["scaling", "strategy", "method", "factor", "seeds", *COLUMNS]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for key, cells in groups.items():
        failed = sum("error" in row for row in cells)
        method = f"{key[2]}, {key[4] / 1e6:g}M tokens, rate {key[5]:g}" if named else key[2]
        seeds = f"{len(cells)}, {failed} failed" if failed else str(len(cells))
        figures = [print_value(values_of(cells, name), COLUMNS[name][1]) for name in COLUMNS]
        lines.append("| " + " | ".join([*key[:2], method, str(key[3]), seeds, *figures]) + " |")
    return "\n".join(lines)


def list_failures(rows: Sequence[Row]) -> list[str]:
    """Return a line for each failed cell."""
    return [
        f"failed: {', '.join(f'{name} {row[name]}' for name in GRID)}: {row['error']}"
        for row in rows
        if "error" in row
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--plot", type=Path, help="a .png to write")
    parser.add_argument("--over", choices=GRID, help="average over it, too; counted as seeds")
    parser.add_argument("--partial", action="store_true", help="cells may be missing")
    given = parser.parse_args(arguments)
    rows = read_rows(given.record)
    missing = missing_cells(rows)
    if not rows or (missing and not given.partial):
        sys.exit(
            f"{given.record} holds {len(rows)} cells and lacks {len(missing)} of its grid"
            + "".join(f"\n  {cell}" for cell in missing)
            + "\nRun them, or give --partial."
        )
    print(make_table([row | {given.over: "all"} for row in rows] if given.over else rows))
    for line in [*list_failures(rows), *(f"not run: {cell}" for cell in missing)]:
        print(f"\n{line}")
    if given.plot:
        from finetune_study_figure import draw

        draw(rows, given.plot)


if __name__ == "__main__":
    exit_on_error(main)
