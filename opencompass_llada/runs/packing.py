"""Cuts the samples of a run into parts of given shares of its cost: numbers alone, no configs.

The samples that are to be answered lie in a line, model by model; a cut falls where the shares
say, so that parts are as large as they should be to about a sample, and few cells are cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

Range = tuple[int, int]
#: Rounds of tasks that each worker has: of falling size, so that the last to end is a small one.
MOST_ROUNDS = 4
#: A task takes at least so many times as long as it takes to load its model.
LOADS_A_TASK = 5
#: A cut falls between cells where one is this near, as a share of the smaller neighbour.
NEAR = 0.02


@dataclass(frozen=True, kw_only=True)
class Span:
    """Neighbouring samples of one cell."""

    cell: int
    start: int
    stop: int
    seconds: float
    """Of one sample."""
    step: int = 1
    """Cuts fall on its multiples, counted from the cell's first sample; 0 for no cut."""

    @property
    def cost(self) -> float:
        """Seconds of all samples."""
        return (self.stop - self.start) * self.seconds

    def nearest_cut(self, seconds: float) -> int:
        """Return the sample to cut before, so that about so many seconds come before it."""
        wanted = self.start + seconds / self.seconds if self.seconds > 0 else self.start
        if not self.step:
            return self.start if wanted - self.start < self.stop - wanted else self.stop
        return min(max(self.step * round(wanted / self.step), self.start), self.stop)


def share_out(total: float, num_workers: int, least: float) -> list[float]:
    """Return the sizes in seconds of the tasks of a run of ``total`` seconds, the largest first.

    Each worker gets up to four, of 4, 3, 2 and 1 parts, or fewer where a part would be below
    ``least``; a run too short for one a worker has tasks of that length. An error of the costs then
    makes the others wait for a share of the smallest task.
    """
    for rounds in range(MOST_ROUNDS, 0, -1):
        part = total / num_workers / (rounds * (rounds + 1) / 2)
        if part >= least:
            return [part * size for size in range(rounds, 0, -1) for _ in range(num_workers)]
    return share_equally(total, max(1, int(total // least)))


def share_equally(total: float, number: int) -> list[float]:
    """Return so many equal sizes."""
    return [total / number] * number


def cut_line(spans: Sequence[Span], sizes: Sequence[float], smallest: float = 0.0) -> list[Part]:
    """Cut spans, one after the other, into parts of these sizes in seconds; parts may be empty.

    Every sample is in one part. A cell of less than ``smallest`` seconds is not cut.
    """
    parts: list[Part] = [[] for _ in sizes]
    ends = list(itertools.accumulate(sizes))
    scale = sum(span.cost for span in spans) / ends[-1] if ends[-1] else 1.0
    place, reached = 0, 0.0
    for span in spans:
        rest: Span | None = span if span.cost >= smallest else replace(span, step=0)
        while rest is not None:
            last = place == len(sizes) - 1
            border = scale * ends[place]
            near = NEAR * scale * min(sizes[place : place + 2])
            if last or reached + rest.cost <= border + near:
                parts[place].append(replace(rest, step=span.step))
                reached, rest = reached + rest.cost, None
                continue
            cut = rest.nearest_cut(border - reached)
            if (cut - rest.start) * rest.seconds <= near:
                cut = rest.start
            if cut > rest.start:
                done = replace(rest, stop=cut, step=span.step)
                parts[place].append(done)
                reached += done.cost
            rest = replace(rest, start=cut) if cut < rest.stop else None
            place += 1
    return parts


Part = list[Span]


def split_open(
    allowed: Sequence[Range], done: Sequence[Range], begun: Sequence[Range] = ()
) -> tuple[list[Range], list[Range]]:
    """Return what is still to be answered: ranges that may be cut, and those to be kept whole.

    ``done`` are ranges (start, stop) with all their answers, the first of two that overlap counts;
    ``begun`` ones with some, which are continued as they are where nothing done overlaps and they
    lie in what is ``allowed``. Done, free and kept together hold each allowed sample once.
    """
    taken: list[Range] = []
    for start, stop in sorted(done):
        if not taken or start >= taken[-1][1]:
            taken.append((start, stop))
    kept: list[Range] = []
    for start, stop in begun:
        is_allowed = any(first <= start and stop <= last for first, last in allowed)
        if is_allowed and all(stop <= a or start >= b for a, b in [*taken, *kept]):
            kept.append((start, stop))
    free: list[Range] = []
    for first, last in sorted(allowed):
        reached = first
        for start, stop in [*sorted([*taken, *kept]), (last, last)]:
            if stop < first or start > last:
                continue
            if start > reached:
                free.append((reached, start))
            reached = max(reached, stop)
    return free, sorted(kept)
