"""Reads the figures of the two papers and pairs them with measured ones.

The figures are in published_figures.csv, one a line, each with source and trust level. Nothing is
computed from them here but the difference.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from opencompass_llada.options import unknown_name_message
from opencompass_llada.report.results import finite
from opencompass_llada.report.scores import Score

FILE = Path(__file__).with_name("published_figures.csv")
#: Trust levels, from what can be cited to what cannot without the paper in hand.
TRUST = {
    "primary": "read in the paper or its official code",
    "decoded": "read off a vector figure of the paper, error up to 0.2",
    "second_hand": "from notes on the paper, not from the paper",
    "conflicting": "from notes that contradict each other; every version is given",
}
#: Figures that were published and are left out, with the reason.
LEFT_OUT = (
    "LongLLaDA's LongBench rows of Dream (its table 3): all 14 cells of Dream-Base are those of "
    "LLaDA-1.5 with lambda 4 (table 1) plus exactly 1.0, and Dream-Instruct's plus exactly 2.0, so "
    "they look like placeholders.",
)
#: Benchmarks whose measured and published figures are of the same data; perplexity is of other
#: texts, with other estimators.
COMPARABLE = ("niah", "ruler", "longbench")
#: The papers' needle figures are NeedleBench's score, with part credit.
METRICS = {"niah": "score"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One published number; model, scaling, benchmark and column as the leaderboard has them."""

    paper: str  # name and version
    table: str  # or figure in it
    model: str
    scaling: str  # words where the paper does not say
    benchmark: str
    column: str
    length: int | None  # tokens; None for all lengths, or where there are none
    value: float  # percent; perplexity for perplexity
    trust: str  # see `TRUST`
    source: str  # where it was read
    note: str

    def __post_init__(self) -> None:
        """Check the trust level."""
        if self.trust not in TRUST:
            raise ValueError(unknown_name_message("trust level", self.trust, TRUST))


@dataclass(frozen=True, kw_only=True)
class FigurePair:
    """A published figure beside the measured one."""

    figure: Figure
    measured: Score

    @property
    def difference(self) -> float | None:
        """Measured minus published, points; None where the measurement is missing."""
        return None if self.measured.score is None else self.measured.score - self.figure.value

    @property
    def is_inside(self) -> bool | None:
        """Whether the published figure lies in the measured interval; None without one."""
        if self.measured.low is None or self.measured.high is None:
            return None
        return self.measured.low <= self.figure.value <= self.measured.high


@lru_cache(maxsize=1)
def read_figures() -> tuple[Figure, ...]:
    """Read all published figures; a `ValueError` names the file and line that does not fit."""
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        try:
            if list(rows.fieldnames or ()) != [field.name for field in fields(Figure)]:
                raise ValueError("its header is not that of published figures")
            return tuple(_read_figure(row) for row in rows)
        except (ValueError, csv.Error) as error:  # bytes that are no UTF-8 are ValueErrors, too
            raise ValueError(
                f"{FILE}, line {rows.line_num}: {error}. The file is damaged; install the package "
                "again, or restore the file"
            ) from error


def _read_figure(row: dict[str, str]) -> Figure:
    if None in row or None in row.values():
        raise ValueError("the line has not as many fields as the header")
    value = finite(float(row["value"]))
    if value is None:
        raise ValueError(f"value={row['value']} must be a finite number")
    length = int(row["length"]) if row["length"] else None
    return Figure(**{**row, "length": length, "value": value})  # type: ignore[arg-type]


def compare(scores: Sequence[Score]) -> list[FigurePair]:
    """Pair measured scores with published ones of the same model, scaling, column and length.

    Scores on embedded data, or on needles drawn independently, are passed over: they are of other
    samples. Pairs are in the order of the
    scores; a conflicting figure makes one pair a version.
    """
    index: dict[tuple[str, str, str, int | None], list[Figure]] = defaultdict(list)
    for figure in read_figures():
        name = figure.model if figure.scaling == "none" else f"{figure.model}, {figure.scaling}"
        index[name, figure.benchmark, figure.column, figure.length].append(figure)
    pairs = []
    for score in scores:
        if score.benchmark not in COMPARABLE or score.is_own:
            continue
        if METRICS.get(score.benchmark, score.metric) != score.metric:
            continue
        name = score.entry.partition(" [")[0]  # without what tells runs of one model apart
        found = index.get((name, score.benchmark, score.column, score.length), ())
        pairs += [FigurePair(figure=figure, measured=score) for figure in found]
    return pairs
