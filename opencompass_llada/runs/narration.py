"""Says at the start of inference what runs and where to watch it, then how far it is.

On a terminal in one line that lives, below the log. Elsewhere in lines of the log: soon after the
start, then at growing distances. Each has the expected end.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from opencompass_llada.benchmarks.benchmark import benchmark_of
from opencompass_llada.runs.run_folder import RunFolder, read_run
from opencompass_llada.runs.watch import RunTotals, read_totals, write_span, write_time

logger = logging.getLogger(__name__)

#: Seconds from the start to the first look, and between two looks at most.
FIRST_LOOK, LONGEST_WAIT = 10.0, 300.0
#: Seconds between two looks on a terminal; more where a look takes more than this share of them.
LIVE_WAIT, LIVE_SHARE = 1.0, 0.02
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
    began = time.monotonic()

    def look(*, is_over: bool = False) -> str:
        seconds = time.monotonic() - began
        try:
            clock = None if is_over else datetime.now()
            return describe_progress(start, read_totals(run), seconds, clock)
        except OSError as error:  # a file may be moved while it is looked at
            return f"Progress cannot be read: {error}"

    try:
        with _live(run, look) if sys.stderr.isatty() else _logged(look):
            yield
    finally:
        logger.info("%s", look(is_over=True))


@contextmanager
def _logged(look: Callable[[], str]) -> Iterator[None]:
    """Log how far the run is, at growing distances."""
    ended = threading.Event()

    def repeat() -> None:
        wait = FIRST_LOOK
        while not ended.wait(wait):
            wait = min(2 * wait, LONGEST_WAIT)
            logger.info("%s", look())

    with _thread(repeat, ended):
        yield


@contextmanager
def _live(run: RunFolder, look: Callable[[], str]) -> Iterator[None]:
    """Keep one line up to date at the bottom of the terminal, with log lines above it."""
    from opencompass.utils import get_logger

    ended = threading.Event()
    where = f"watch: opencompass-llada watch {run.path} | report: {run.path}/report/report.html"
    line = tqdm(bar_format="{desc}", file=sys.stderr, leave=False, dynamic_ncols=True)

    def repeat() -> None:
        wait = 0.0
        while not ended.wait(wait):
            before = time.monotonic()
            line.set_description_str(f"{look()} | {where}")
            wait = max(LIVE_WAIT, (time.monotonic() - before) / LIVE_SHARE)

    loggers = [logging.getLogger("opencompass_llada"), get_logger()]  # with handlers of their own
    with logging_redirect_tqdm(loggers), line, _thread(repeat, ended):
        yield


@contextmanager
def _thread(work: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work, name="narration", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
