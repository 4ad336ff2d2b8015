"""Runs the commands ``opencompass-llada report`` and ``opencompass-llada watch``."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

MOST_LISTED = 20


def add_commands(commands: Any) -> None:
    """Add both to what `argparse.ArgumentParser.add_subparsers` returned."""
    report = commands.add_parser(
        "report", help="write the leaderboard of one or several runs: HTML, Markdown, CSV, LaTeX"
    )
    report.add_argument(
        "work_dirs", nargs="+", metavar="WORKDIR", help="a run's folder, or one that holds runs"
    )
    report.add_argument("-o", "--output", metavar="DIR", required=True, help="where to write")
    report.add_argument("--title", default=None, help="heading of the page")
    report.set_defaults(run=run_report)
    watch = commands.add_parser(
        "watch", help="show how far a run is, one line a model and benchmark, and its expected end"
    )
    watch.add_argument("work_dir", metavar="WORKDIR", help="a run's folder; of several, the newest")
    watch.add_argument("--every", type=float, default=10, help="seconds between looks; default 10")
    watch.add_argument("--once", action="store_true", help="look once and end")
    watch.set_defaults(run=run_watch)


def _refuse(command: str, reason: object) -> int:
    sys.stderr.write(f"opencompass-llada {command}: {reason}\n")
    return 2


def run_report(given: argparse.Namespace) -> int:
    """Write a report; return 1 if files are damaged, 2 if there is nothing to report, else 0.

    Missing results are no fault here: the report says which they are.
    """
    from opencompass_llada.report.publish import TITLE, write_report
    from opencompass_llada.runs.run_folder import find_runs

    try:
        runs = find_runs(given.work_dirs)
        paths = write_report(runs, Path(given.output), given.title or TITLE)
    except ValueError as error:
        return _refuse("report", error)
    sys.stdout.write(f"{len(runs)} runs, {len(paths)} files; open {paths[0].resolve()}\n")
    damage = [text for run in runs for text in run.damage]
    if damage:
        more = [f"and {len(damage) - MOST_LISTED} more"] if len(damage) > MOST_LISTED else []
        listed = "\n  ".join([*damage[:MOST_LISTED], *more])
        sys.stderr.write(
            f"opencompass-llada report: {len(damage)} files are damaged and nothing of them is "
            f"shown; a run with -r makes them again:\n  {listed}\n"
        )
    return int(bool(damage))


def run_watch(given: argparse.Namespace) -> int:
    """Show progress until everything is scored, or once; return 0, or 2 if there is no run."""
    from opencompass_llada.runs.run_folder import find_runs
    from opencompass_llada.runs.watch import read_progress

    if not 0 < given.every < float("inf"):
        return _refuse("watch", f"--every {given.every} must be above 0")
    while True:
        try:
            run = find_runs([given.work_dir])[-1]
        except ValueError as error:
            return _refuse("watch", error)
        now = datetime.now()
        lines = read_progress(run, now)
        width = max((len(line.model) for line in lines), default=0)
        text = "".join(f"{line.describe(now, width)}\n" for line in lines)
        clear = "\033[2J\033[H" if sys.stdout.isatty() and not given.once else ""
        sys.stdout.write(f"{clear}{run.name}, {now:%H:%M:%S}\n{text}")
        sys.stdout.flush()
        if given.once or all(line.is_done for line in lines):
            return 0
        try:
            time.sleep(given.every)
        except KeyboardInterrupt:
            return 0
