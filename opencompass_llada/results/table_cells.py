"""What tables are made of: cells with the text to read, the value to sort by and a hover.

Missing numbers are words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from opencompass_llada.results.board import Score
from opencompass_llada.results.effective_length import EffectiveLength

#: Line, benchmark, task and length -> anchor of the samples.
Links = Mapping[tuple[str, str, str, int | None], str]
NOT_RUN = "-"
MISSING = "missing"
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of a table."""

    text: str
    """What stands there."""
    value: float | None = None
    """What it sorts by, where that is a number."""
    hover: str = ""
    """What a pointer resting on it shows."""
    is_best: bool = False
    """Whether it is the best number of its column."""
    link: str = ""
    """Anchor of the samples behind it; '' for an average of several cells."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its notes."""

    name: str
    """Short name, for files and anchors."""
    title: str
    """Heading."""
    heads: tuple[str, ...]
    """Heads of the columns."""
    rows: tuple[tuple[Cell, ...], ...]
    """As many cells a row as heads."""
    notes: tuple[str, ...] = ()
    """What to know to read it."""
    num_labels: int = field(default=1)
    """Columns on the left that name a row, not measured."""


def score_cell(score: Score | None, links: Links | None = None) -> Cell:
    """Return a score with its interval; words where there is none.

    Args:
        score: The score.
        links: Anchors of samples.
    """
    if score is None or score.status == "not run":
        return Cell(text=NOT_RUN, hover="" if score is None else score.reason)
    link = (links or {}).get((score.entry, score.benchmark, score.column, score.length), "")
    if score.score is None:
        return Cell(text=MISSING, hover=score.reason, link=link)
    form = "{:.1f}" if score.higher_is_better else "{:.4g}"
    text = form.format(score.score)
    if score.low is not None and score.high is not None:
        text += f" [{form.format(score.low)}, {form.format(score.high)}]"
    parts = [f"{score.num_cells} cells"] if score.num_cells > 1 else []
    parts += [f"{score.n:,} {'samples' if score.higher_is_better else 'tokens'}"] if score.n else []
    parts += [f"rank {score.rank}{'=' if score.tied else ''}"] if score.rank else []
    return Cell(
        text=text,
        value=score.score,
        hover=", ".join(parts),
        is_best=score.is_top,
        link=link,
    )


def rank_cell(score: Score | None) -> Cell:
    """Return a score's rank, ``=`` after it where tied."""
    if score is None or score.rank is None:
        return Cell(text="")
    return Cell(text=f"{score.rank}{'=' if score.tied else ''}", value=float(score.rank))


def length_cell(item: EffectiveLength | None) -> Cell:
    """Return an effective length."""
    if item is None:
        return Cell(text=NOT_RUN)
    value = item.tokens if item.tokens is not None else (0 if item.bound == "below" else None)
    return Cell(text=item.describe(), value=value)


def number_cell(value: float | None, form: str, reason: str) -> Cell:
    """Return a number, or that it is missing and why."""
    if value is None:
        return Cell(text=MISSING, hover=reason)
    return Cell(text=form.format(value), value=value)


def file_name(title: str) -> str:
    """Return a title as part of a file's name."""
    kept = "".join(letter if letter.isalnum() else "_" for letter in title.lower())
    return "_".join(part for part in kept.split("_") if part)
