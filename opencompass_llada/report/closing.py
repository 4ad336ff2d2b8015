"""What a run says at its end: one short table, the verdict's first sentences, and where to look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from opencompass_llada.report import writers
from opencompass_llada.report.groups import sort_lines
from opencompass_llada.report.scores import Score, choose_headlines

MOST_COLUMNS, MOST_LINES, MOST_SENTENCES = 6, 20, 2


def describe_end(
    scores: Sequence[Score], verdict: Sequence[str], page: Path, picture: Path | None
) -> str:
    """Return the text: models by their headline columns, who leads, picture and page."""
    shown = f"picture: {picture.resolve()}\n" if picture else ""
    sentences = "\n".join(verdict[:MOST_SENTENCES])
    return f"\n{_make_table(scores)}\n{sentences}\n\n{shown}page:    {page.resolve()}"


def _make_table(scores: Sequence[Score]) -> str:
    """Return lines in columns of equal width, best first."""
    columns = choose_headlines(scores)
    lines = sort_lines(scores, columns)
    rows = [["", *(_name(*column) for column in columns[:MOST_COLUMNS])]]
    for entry, own in list(lines.items())[:MOST_LINES]:
        cells = [own.get(column) for column in columns[:MOST_COLUMNS]]
        rows.append([writers.plain_field(entry), *map(_show, cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = ""
    for first, *rest in rows:
        padded = (field.rjust(width) for field, width in zip(rest, widths[1:], strict=True))
        text += f"{'  '.join([first.ljust(widths[0]), *padded])}\n"
    for number, most, what in (
        (len(lines), MOST_LINES, "models"),
        (len(columns), MOST_COLUMNS, "columns"),
    ):
        text += f"({number - most} more {what} are on the page)\n" if number > most else ""
    return text


def _name(series: str, column: str, length: int | None) -> str:
    name = series if series == column else f"{series}: {column}"
    return writers.plain_field(name if length is None else f"{name} at {length:,}")


def _show(score: Score | None) -> str:
    if score is None or score.score is None:
        return "-"
    return f"{score.score:.1f} %" if score.higher_is_better else f"{score.score:.4g}"
