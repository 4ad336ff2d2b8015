"""Table and figure of the study of three attentions, from its record.

    python studies/attention_study_report.py docs/records/attention_study.json --plot attention.png

Prints Markdown: a row for each attention and scaling, the mean over the seeds that the record holds
and, where there are several, the range; no row for an attention that it lacks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from recording import exit_on_error, mean_needle_tasks, read_rows  # noqa: E402

from opencompass_llada.report import drawing  # noqa: E402

Row = dict[str, Any]
SCALINGS = ("none", "ntk")
ORDER = ("causal", "block 4", "block 16", "block 64", "bidirectional")


def needles(length: int) -> Callable[[Row], float]:
    """Return what reads the mean over depths at a length."""
    return lambda figures: statistics.fmean(figures["needle"][str(length)].values())


#: Heading -> figure of one cell and scaling, and its digits.
COLUMNS: dict[str, tuple[Callable[[Row], float], int]] = {
    **{f"needle {n}": (needles(n), 0) for n in (512, 1024, 2048)},
    **{
        f"RULER {n}": (lambda row, n=n: mean_needle_tasks(row["ruler"][str(n)], n), 0)
        for n in (512, 1024)
    },
    **{
        f"perplexity {n}": (lambda row, n=n: float(row["perplexity"][str(n)]["perplexity"]), 1)
        for n in (512, 1024, 2048)
    },
}


def measure(rows: Sequence[Row]) -> pandas.DataFrame:
    """Return a line for each cell and scaling, attentions in the order of printing.

    Raises:
        ValueError: If the cells were trained on different numbers of tokens.
    """
    trained = {(row["steps"], row["tokens"]) for row in rows}
    if len(trained) > 1:
        raise ValueError(
            f"the record's cells were trained for (steps, tokens) of {sorted(trained)}; means over "
            "them would be of no model. Leave all but one kind out."
        )
    found = [
        {"attention": row["attention"], "scaling": scaling, "seed": row["seed"]}
        | {heading: figure(row[scaling]) for heading, (figure, _) in COLUMNS.items()}
        for row in rows
        for scaling in SCALINGS
    ]
    frame = pandas.DataFrame(found)
    frame["attention"] = pandas.Categorical(frame["attention"], ORDER, ordered=True)
    return frame.sort_values(["attention", "scaling", "seed"], key=_scaling_order)


def _scaling_order(column: pandas.Series) -> pandas.Series:
    return column.map(SCALINGS.index) if column.name == "scaling" else column


def print_range(values: pandas.Series, digits: int) -> str:
    """Return the mean, with the range of several seeds."""
    text = f"{values.mean():.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def make_table(frame: pandas.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows."""
    keys = ["attention", "scaling"]
    groups = frame.groupby(keys, observed=True, sort=False)
    rows = [
        [*map(str, key), str(len(group))]
        + [print_range(group[heading], digits) for heading, (_, digits) in COLUMNS.items()]
        for key, group in groups
    ]
    return [*keys, "seeds", *COLUMNS], rows


def make_passes_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of passes a token and percent found at 512 tokens, by sampler."""
    found = pandas.DataFrame(
        [
            (row["attention"], sampler, kind, own["passes_a_token"], own["score"])
            for row in rows
            for sampler, kinds in row["passes"].items()
            for kind, own in kinds.items()
        ],
        columns=["attention", "sampler", "kind", "passes", "score"],
    )
    found["attention"] = pandas.Categorical(found["attention"], ORDER, ordered=True)
    means = found.groupby(["attention", "sampler", "kind"], observed=True).mean().unstack("kind")
    table = [
        [*map(str, key)]
        + [
            f"{row[figure, kind]:.{digits}f}"
            for kind in ("needle", "ruler")
            for figure, digits in (("passes", 2), ("score", 0))
        ]
        for key, row in means.iterrows()
    ]
    return [
        *("attention", "sampler", "needles: passes a token", "found, %"),
        *("RULER: passes a token", "score of all tasks, %"),
    ], table


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw percent found over length, a panel a scaling, and over depth at twice the window."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(15, 3.6), sharey=True, layout="constrained")
    for number, attention in enumerate(ORDER):
        own = [row for row in rows if row["attention"] == attention]
        if not own:
            continue
        style = {"color": f"C{number}", "label": attention, "marker": "o", "markersize": 4}
        for panel, scaling in enumerate(SCALINGS):
            tables = [pandas.DataFrame(row[scaling]["needle"]) for row in own]
            mean = sum(tables) / len(tables)
            axes[panel].plot(mean.columns.astype(int), mean.mean(), **style)
            axes[2 + panel].plot(mean.index.astype(int), mean["1024"], **style)
    for panel, scaling in enumerate(SCALINGS):
        axes[panel].set(xlabel="length, tokens", title=f"by length, {scaling}")
        lengths = sorted({int(n) for row in rows for n in row[scaling]["needle"]})
        drawing.label_lengths(axes[panel], lengths)
        axes[panel].axvline(512, color="0.7", linestyle=":", zorder=0)
        axes[2 + panel].set(xlabel="depth, %", title=f"by depth at 1,024, {scaling}")
    axes[0].set(ylabel="needles found, %", ylim=(-3, 103))
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def print_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    for row in (headings, ["---"] * len(headings), *rows):
        print(f"| {' | '.join(row)} |")


def main(arguments: list[str] | None = None) -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the figure")
    given = parser.parse_args(arguments)
    rows = read_rows(given.record)
    print_markdown(*make_table(measure(rows)))
    print()
    print_markdown(*make_passes_table(rows))
    if given.plot:
        plot(rows, given.plot)


if __name__ == "__main__":
    exit_on_error(main)
