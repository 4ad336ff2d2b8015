"""Says at the start of inference what runs and where to watch it, then how far it is.

Lines of the log: soon after the start, then at growing distances, each with the expected end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from opencompass_llada.benchmarks.benchmark import benchmark_of
from opencompass_llada.runs.run_folder import RunFolder, read_run
from opencompass_llada.runs.watch import RunTotals, read_totals, write_span, write_time

logger = logging.getLogger(__name__)

#: Seconds from the start to the first look, and between two looks at most.
FIRST_LOOK, LONGEST_WAIT = 10.0, 300.0
MOST_NAMED = 6


@contextmanager
def told(work_dir: Path) -> Iterator[None]:
    """Log what the run in a folder is, and while the block runs how far it is."""
    try:
        run = read_run(work_dir)
        start = read_totals(run)
    except (ValueError, OSError) as error:
        logger.info("The run in %s cannot be described: %s", work_dir, error)
        yield
        return
    logger.info("%s", describe_run(run, start))
    ended, began = threading.Event(), time.monotonic()

    def look() -> None:
        wait = FIRST_LOOK
        while not ended.wait(wait):
            wait = min(2 * wait, LONGEST_WAIT)
            _log(run, start, time.monotonic() - began)

    thread = threading.Thread(target=look, name="narration", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _log(run, start, time.monotonic() - began, is_over=True)


def _log(run: RunFolder, start: RunTotals, seconds: float, *, is_over: bool = False) -> None:
    try:
        clock = None if is_over else datetime.now()
        line = describe_progress(start, read_totals(run), seconds, clock)
    except OSError as error:  # a file may be moved while it is looked at
        line = f"Progress cannot be read: {error}"
    logger.info("%s", line)


def describe_run(run: RunFolder, totals: RunTotals) -> str:
    """Return what runs, how much of it is there already, and where to watch it."""
    titles = dict.fromkeys(
        facts.title if facts.scaling == "none" else f"{facts.title} with {facts.scaling}"
        for facts in run.facts
    )
    benchmarks = dict.fromkeys(
        (own := benchmark_of(dataset)).title or own.name for _, dataset in run.pairs
    )
    numbers = [n for _, own in run.pairs if isinstance(n := own.get("length"), int)]
    ends = list(dict.fromkeys(f"{n:,}" for n in (min(numbers), max(numbers)))) if numbers else []
    there = f", {totals.num_answered} answered already" if totals.num_answered else ""
    lines = [
        f"This run: {totals.num_cells} cells (a model on a data set){there}.",
        f"  models      {_name_some(list(titles))}",
        f"  benchmarks  {_name_some(list(benchmarks))}",
        *([f"  lengths     {' to '.join(ends)} tokens"] if ends else []),
        f"  watch it    opencompass-llada watch {run.path}",
        f"  logs        {run.path / 'logs'}",
    ]
    return "\n".join(lines)


def describe_progress(
    start: RunTotals, now: RunTotals, seconds: float, clock: datetime | None
) -> str:
    """Return how far a run is ``seconds`` after it began with ``start``, and when it will end.

    The expected end takes the pace since the start, cells counted by their length. It is wrong by
    as much as time does not go with length. Without a ``clock`` inference is over: cells without
    all answers failed, and no end is expected.
    """
    parts = [f"{now.num_answered} of {now.num_cells} cells answered"]
    samples = now.num_samples - start.num_samples
    if samples > 0 and seconds > 0:
        parts.append(f"{samples / seconds:.3g} samples/s")
    done = now.share - start.share
    if clock is None or now.num_answered == now.num_cells:
        parts.append(f"in {write_span(timedelta(seconds=seconds))}")
    elif done > 0:
        left = timedelta(seconds=seconds * (1 - now.share) / done)
        parts.append(f"expected end {write_time(clock + left, clock)}, in {write_span(left)}")
    return ", ".join(parts)


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return "; ".join(names[:MOST_NAMED]) + more
