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
from collections import Counter
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


def describe(row: Row, names: Sequence[str]) -> str:
    """Name a cell."""
    return ", ".join(f"{name} {row[name]}" for name in names)


def missing_cells(rows: Sequence[Row]) -> list[str]:
    """Return the cells that have no row, in words, of each method's own grid.

    A grid is all combinations of what its rows hold: adapters may have fewer scalings.
    """
    missing = []
    for method in sorted({row["method"] for row in rows}):
        present = {tuple(row[n] for n in GRID) for row in rows if row["method"] == method}
        values = [sorted(set(held), key=str) for held in zip(*present, strict=True)]
        missing += [
            describe(dict(zip(GRID, cell, strict=True)), GRID)
            for cell in itertools.product(*values)
            if cell not in present
        ]
    return missing


def group_seeds(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows of each scaling, strategy, method, factor and variant, in print order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}

    def order(row: Row) -> tuple[Any, ...]:
        scaling = scaling_order(row["scaling"])
        return row["factor"], row["method"], row["strategy"], *scaling, row["seed"]

    for row in sorted(rows, key=order):
        key = tuple(row[name] for name in (*GRID, *VARIANT) if name != "seed")
        groups.setdefault(key, []).append(row)
    return groups


def scaling_order(name: str) -> tuple[int, str]:
    """Return what scalings are sorted by."""
    return SCALINGS.index(name) if name in SCALINGS else len(SCALINGS), name


def values_of(rows: Sequence[Row], heading: str) -> list[float]:
    """Return a column's figures of the rows that did not fail."""
    values = []
    for row in rows:
        if "error" in row:
            continue
        try:
            values.append(COLUMNS[heading][0](row))
        except (KeyError, ValueError, statistics.StatisticsError) as error:
            cell = describe(row, GRID)
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
    variants = {(key[2] == "full", *key[4:]) for key in groups}
    named = max(Counter(is_full for is_full, *_ in variants).values(), default=0) > 1
    headings = ["scaling", "strategy", "method", "factor", "seeds", *COLUMNS]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for key, cells in groups.items():
        failed = sum("error" in row for row in cells)
        method = f"{key[2]}, {key[4] / 1e6:g}M tokens, rate {key[5]:g}" if named else key[2]
        seeds = f"{len(cells)}, {failed} failed" if failed else str(len(cells))
        figures = [print_value(values_of(cells, name), COLUMNS[name][1]) for name in COLUMNS]
        lines.append("| " + " | ".join([*key[:2], method, str(key[3]), seeds, *figures]) + " |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw a row of panels for each factor.

    Dots are means over seeds, bars their range, a cross at the left edge a cell that failed.
    """
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("Agg")
    groups = group_seeds(rows)
    factors = sorted({row["factor"] for row in rows})
    # Not in the order of the rows: a factor may lack a kind that others have.
    kinds = sorted({(key[2], key[1], *key[4:]) for key in groups})
    scalings = sorted({row["scaling"] for row in rows}, key=scaling_order)
    figure, axes = pyplot.subplots(
        len(factors),
        len(PANELS),
        figsize=(11, 0.8 + len(factors) * (0.6 + 0.25 * len(kinds))),
        sharex="col",
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for (line, factor), (column, panel) in itertools.product(enumerate(factors), enumerate(PANELS)):
        axis = axes[line][column]
        for number, scaling in enumerate(scalings):
            shift = 0.22 * (number - (len(scalings) - 1) / 2)
            for place, (method, strategy, *variant) in enumerate(kinds):
                cells = groups.get((scaling, strategy, method, factor, *variant))
                if cells:
                    _draw_value(axis, values_of(cells, panel), place + shift, f"C{number}")
        _dress(axis, panel, TRAINED * factor)
    axes[0][0].set_yticks(range(len(kinds)), _labels(kinds))
    axes[0][0].invert_yaxis()
    _choose_scale(axes[0][-1], values_of(rows, PANELS[-1]))
    dots = [axes[0][0].plot([], [], "o", color=f"C{n}")[0] for n, _ in enumerate(scalings)]
    figure.legend(dots, scalings, loc="outside lower center", ncols=len(scalings), fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _labels(kinds: Sequence[tuple[Any, ...]]) -> list[str]:
    """Name each method and strategy; tokens and rate where one pair of them has several."""
    repeated = len({kind[:2] for kind in kinds}) < len(kinds)
    return [
        f"{method}, {strategy}" + (f", {tokens / 1e6:g}M, {rate:g}" if repeated else "")
        for method, strategy, tokens, rate in kinds
    ]


def _draw_value(axis: Any, values: Sequence[float], height: float, colour: str) -> None:
    if not values:
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


def _choose_scale(axis: Any, values: Sequence[float]) -> None:
    """Take a logarithmic axis where values differ by much, with plain numbers on it."""
    from matplotlib import ticker

    if values and max(values) / min(values) > LOG_FROM:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())


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
