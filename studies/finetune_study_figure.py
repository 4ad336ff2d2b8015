"""Figure of the study of post-training: a row of panels for each factor.

Dots are means over seeds, bars their range, a cross at the left edge a cell of which every seed
failed. What a cell's figures are is `finetune_study_report`'s business.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from finetune_study_report import TRAINED, Row, group_seeds, scaling_order, values_of

matplotlib.use("Agg")

from matplotlib import pyplot, ticker  # noqa: E402

PANELS = ("needle 512", "needle target", "needle 2 x target", "perplexity target")
LOG_FROM = 8  # largest over smallest perplexity


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw all cells and write the picture."""
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
    _choose_scale(
        axes[0][-1], [v for cells in groups.values() for v in values_of(cells, PANELS[-1])]
    )
    dots = [
        axes[0][0].plot([], [], "o", color=f"C{number}")[0] for number, _ in enumerate(scalings)
    ]
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


def _dress(axis: Any, panel: str, target: int) -> None:
    """Give a panel its title, limits and grid."""
    name, _, place = panel.partition(" ")
    length = {"512": TRAINED, "target": target, "2 x target": 2 * target}[place]
    if name == "needle":
        axis.set_xlim(-4, 104)
    unit = ", %" if name == "needle" else ""
    axis.set_title(f"{name} at {length:,} tokens{unit}", fontsize=9)
    axis.tick_params(which="both", labelsize=8, labelbottom=True)
    axis.grid(axis="x", alpha=0.3)


def _choose_scale(axis: Any, values: Sequence[float]) -> None:
    """Take a logarithmic axis where values differ by much, with plain numbers on it."""
    if values and max(values) / min(values) > LOG_FROM:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
