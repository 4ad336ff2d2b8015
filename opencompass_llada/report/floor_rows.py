"""Shows floors and ceilings in tables: other readers below each model, chance below all.

Their cells have texts and no values, so that no sorting ranks them among the models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from opencompass_llada.report.floors import CEILINGS, CHANCE, NO_CONTEXT
from opencompass_llada.report.scores import LAST_WINDOW, Score, name_some
from opencompass_llada.report.writers import Cell

#: What is not below 100 to one decimal; ROUGE gives equal texts 99.9999995.
_SHOWN_AS_100 = 99.95
#: The place of a score in a table: series, column and length.
Place = tuple[str, str, int | None]


class FloorRows:
    """The floors and ceilings of a table, by line and place."""

    def __init__(self, floors: Sequence[Score]) -> None:
        """Keep them in their order."""
        self.floors = floors
        self._index = {(f.entry, f.series, f.column, f.length): f for f in floors}

    def lines(self, base: str = "") -> list[str]:
        """Return the lines of a model's readers; without one, those of all models."""
        return list(dict.fromkeys(floor.entry for floor in self.floors if floor.base == base))

    def get(self, line: str, place: Place) -> Score | None:
        """Return what a line has in a place."""
        return self._index.get((line, *place))

    def explain(self) -> Iterator[str]:
        """Yield what the lines are, as far as there are any, and where no solver has 100."""
        readers = {floor.reader for floor in self.floors}
        if LAST_WINDOW in readers:
            windows = sorted({floor.window for floor in self.floors if floor.window})
            shown = " to ".join(f"{n:,}" for n in dict.fromkeys((windows[0], windows[-1])))
            yield (
                "last window: the model given only the end of the context that it was pre-trained "
                f"for, {shown} tokens with question and answer; the same: the prompt is no longer "
                "than that"
            )
        if NO_CONTEXT in readers:
            yield "no context: the model given the question without any context"
        if CHANCE in readers:
            yield "chance: expected of the best guess that sees the question and no context"
        if CEILINGS[0] in readers:
            yield f"{CEILINGS[0]}: a program that reads nothing but the prompt"
        if CEILINGS[1] in readers:
            yield f"{CEILINGS[1]}: the reference itself, scored as an answer"
        short = [
            f"{floor.column}{'' if floor.length is None else f' at {floor.length:,}'} "
            f"({floor.entry} {floor.score:.1f})"
            for floor in self.floors
            if floor.reader in CEILINGS and floor.score is not None and floor.score < _SHOWN_AS_100
        ]
        if short:
            yield f"the most that can be had is below 100: {name_some(short)}"


def without_value(cell: Cell) -> Cell:
    """Return a floor's cell: it sorts last, is never the best, and stands for no line."""
    return replace(cell, value=None, is_best=False, link="")
