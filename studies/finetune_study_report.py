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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from recording import exit_on_error, mean_needle_tasks, read_rows  # noqa: E402

from opencompass_llada.report import drawing  # noqa: E402

TRAINED = 512  # tokens that tiny-llada was trained at
#: Scalings that a checkpoint can hold, in the order that they are printed in.
SCALINGS = ("none", "ntk", "diffusion_ntk")
#: What tells the cells apart.
GRID = ("scaling", "strategy", "method", "factor", "seed")
VARIANT = ("planned_tokens", "learning_rate")
KIND = ("method", "strategy", *VARIANT)

#: The figure's columns.
PANELS = ("needle 512", "needle target", "needle 2 x target", "perplexity target")
LOG_FROM = 8  # largest over smallest perplexity

Row = dict[str, Any]


def target(row: Row) -> int:
    """Return the length that a cell is trained to, in tokens."""
    return TRAINED * int(row["factor"])


def at(row: Row, kind: str, targets: int) -> Any:
    """Return a kind of figures at a multiple of the target; at the trained length for 0."""
    return row[kind][str(targets * target(row) or TRAINED)]


#: Heading -> figure of one cell, and how many digits are printed.
COLUMNS: dict[str, tuple[Callable[[Row], float], int]] = {
    "needle 512": (lambda row: statistics.fmean(at(row, "needle", 0).values()), 1),
    "needle target": (lambda row: statistics.fmean(at(row, "needle", 1).values()), 1),
    "needle 2 x target": (lambda row: statistics.fmean(at(row, "needle", 2).values()), 1),
    "lowest depth, target": (lambda row: float(min(at(row, "needle", 1).values())), 0),
    "RULER 512": (lambda row: mean_needle_tasks(at(row, "ruler", 0), TRAINED), 1),
    "RULER target": (lambda row: mean_needle_tasks(at(row, "ruler", 1), target(row)), 1),
    "perplexity 512": (lambda row: float(at(row, "perplexity", 0)["perplexity"]), 1),
    "perplexity target": (lambda row: float(at(row, "perplexity", 1)["perplexity"]), 1),
    "perplexity 2 x target": (lambda row: float(at(row, "perplexity", 2)["perplexity"]), 1),
    "GPU minutes": (lambda row: row["minutes"] / row["processes"], 2),
}


def describe(row: Any, names: Sequence[str]) -> str:
    """Name a cell."""
    return ", ".join(f"{name} {row[name]}" for name in names)


def measure(rows: Sequence[Row]) -> pandas.DataFrame:
    """Return a line a cell, in the order of printing: what it is, and its figures if it ran."""
    found = []
    for row in rows:
        cell = {name: row[name] for name in (*GRID, *VARIANT)} | {"failed": "error" in row}
        for heading, (figure, _) in COLUMNS.items() if "error" not in row else ():
            try:
                cell[heading] = figure(row)
            except (KeyError, ValueError, statistics.StatisticsError) as error:
                named = describe(row, GRID)
                raise ValueError(f"the cell {named} has no {heading!r}: {error}") from error
        found.append(cell)
    cells = pandas.DataFrame(found, columns=[*GRID, *VARIANT, "failed", *COLUMNS])
    others = sorted(set(cells.scaling) - set(SCALINGS))
    cells["scaling"] = pandas.Categorical(cells.scaling, [*SCALINGS, *others], ordered=True)
    return cells.sort_values(["factor", "method", "strategy", "scaling", "seed"], kind="stable")


def missing_cells(rows: Sequence[Row]) -> list[str]:
    """Return the cells that have no row, in words, of each method's own grid.

    A grid is all combinations of what its rows hold: adapters may have fewer scalings.
    """
    missing = []
    for method in sorted({row["method"] for row in rows}):
        present = {tuple(row[n] for n in GRID) for row in rows if row["method"] == method}
        values = [sorted(set(held), key=str) for held in zip(*present, strict=True)]
        absent = [cell for cell in itertools.product(*values) if cell not in present]
        missing += [describe(dict(zip(GRID, cell, strict=True)), GRID) for cell in absent]
    return missing


def group_seeds(cells: pandas.DataFrame) -> Iterator[tuple[Any, pandas.DataFrame]]:
    """Yield the cells that differ in their seed alone, the first of them before."""
    alike = ["factor", "scaling", *KIND]
    for _, own in cells.groupby(alike, sort=False, observed=True):
        yield own.iloc[0], own


def print_value(values: Sequence[float], digits: int) -> str:
    """Return mean and range; the value alone of one seed, ``failed`` of none."""
    if not len(values):
        return "failed"
    mean = f"{statistics.fmean(values):,.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def make_table(rows: Sequence[Row]) -> str:
    """Return the Markdown table."""
    cells = measure(rows)
    variants = cells[[*VARIANT]].assign(full=cells.method == "full").drop_duplicates()
    is_named = variants.full.duplicated().any()
    lines = []
    for first, own in group_seeds(cells):
        method, seeds, failed = first.method, str(len(own)), own.failed.sum()
        if is_named:
            method += f", {first.planned_tokens / 1e6:g}M tokens, rate {first.learning_rate:g}"
        if failed:
            seeds += f", {failed} failed"
        ran = own[~own.failed]
        figures = [print_value(ran[name], digits) for name, (_, digits) in COLUMNS.items()]
        lines.append([first.scaling, first.strategy, method, str(first.factor), seeds, *figures])
    return write_table(["scaling", "strategy", "method", "factor", "seeds", *COLUMNS], lines)


def write_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    head, *written = (f"| {' | '.join(line)} |" for line in (headings, *lines))
    return "\n".join([head, "|" + "---|" * len(headings), *written])


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw a row of panels for each factor.

    Dots are means over seeds, bars their range, a cross at the left edge a cell that failed.
    """
    cells = measure(rows)
    factors = list(cells.factor.unique())
    scalings = [name for name in cells.scaling.cat.categories if (cells.scaling == name).any()]
    # Not in the order of the rows: a factor may lack a kind that others have.
    kinds = sorted(set(cells[[*KIND]].itertuples(index=False, name=None)))
    columns, size = len(PANELS), (11 / len(PANELS), 0.6 + 0.25 * len(kinds))
    figure, panels = drawing.make_panels(
        len(factors) * columns, columns, size, (0, 0.8), sharex="col", sharey=True
    )
    for first, own in group_seeds(cells):
        number = scalings.index(first.scaling)
        height = kinds.index(tuple(first[[*KIND]])) + 0.22 * (number - (len(scalings) - 1) / 2)
        line = panels[columns * factors.index(first.factor) :]
        for axis, name in zip(line, PANELS, strict=False):
            _draw_value(axis, own[name][~own.failed], height, f"C{number}")
    for axis, (factor, name) in zip(panels, itertools.product(factors, PANELS), strict=True):
        _dress(axis, name, TRAINED * factor)
    panels[0].set_yticks(range(len(kinds)), _labels(kinds))
    panels[0].invert_yaxis()
    shown = cells[PANELS[-1]].dropna()
    if len(shown) and shown.max() / shown.min() > LOG_FROM:
        panels[columns - 1].set_xscale("log")
        drawing.label_decades(panels[columns - 1].xaxis, shown.max() / shown.min(), ".10g")
    dots = [panels[0].plot([], [], "o", color=f"C{number}")[0] for number in range(len(scalings))]
    figure.legend(dots, scalings, loc="outside lower center", ncols=len(scalings), fontsize=9)
    drawing.save_figure(figure, path)


def _labels(kinds: Sequence[tuple[Any, ...]]) -> list[str]:
    """Name each method and strategy; tokens and rate where one pair of them has several."""
    repeated = len({kind[:2] for kind in kinds}) < len(kinds)
    return [
        f"{method}, {strategy}" + (f", {tokens / 1e6:g}M, {rate:g}" if repeated else "")
        for method, strategy, tokens, rate in kinds
    ]


def _draw_value(axis: Any, values: Sequence[float], height: float, colour: str) -> None:
    if not len(values):
        axis.plot([0.02], [height], "x", color=colour, transform=axis.get_yaxis_transform())
        return
    axis.plot([min(values), max(values)], [height, height], color=colour, linewidth=1.5)
    axis.plot([statistics.fmean(values)], [height], "o", color=colour, markersize=4)


def _dress(axis: Any, panel: str, end: int) -> None:
    """Give a panel its title, limits and grid."""
    name, _, place = panel.partition(" ")
    length = {"512": TRAINED, "target": end, "2 x target": 2 * end}[place]
    if name == "needle":
        axis.set_xlim(-4, 104)
    unit = ", %" if name == "needle" else ""
    axis.set_title(f"{name} at {length:,} tokens{unit}", fontsize=9)
    axis.tick_params(which="both", labelsize=8, labelbottom=True)
    axis.grid(axis="x", alpha=0.3)


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
    for row in rows:
        if "error" in row:
            print(f"\nfailed: {describe(row, GRID)}: {row['error']}")
    for cell in missing:
        print(f"\nnot run: {cell}")
    if given.plot:
        draw(rows, given.plot)


if __name__ == "__main__":
    exit_on_error(main)
