"""Run an evaluation and keep its table, its figure and how it was made in docs/.

    python benchmarks/record_run.py configs/eval_llada_ppl.py ppl_tiny_llada
    LLADA_REPEATS=10 python benchmarks/record_run.py configs/eval_llada_niah.py niah_tiny_models
    python benchmarks/record_run.py configs/eval_leaderboard.py leaderboard_tiny_models

Writes docs/records/NAME.csv (every result), docs/records/NAME.json (command, variables, machine,
versions, the resolved settings and models) and docs/images/NAME.png. Runs the config as a user
does, through run.py; measures nothing itself but the wall time. A run that lacks a result writes
nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import ROOT, describe_run, write_record

#: What summarizers call their table of all results, and their figure of all models.
TABLES = ("summary/perplexity_*.csv", "summary/results_*.csv", "report/scores.csv")
FIGURES = ("summary/perplexity_*.png", "summary/heatmap_all_*.png")


def run_config(config: str, work_dir: Path) -> tuple[Path, float]:
    """Run a config to its end.

    Args:
        config: Path of a config file.
        work_dir: An empty folder.

    Returns:
        The run's own folder, and its wall time in seconds.

    Raises:
        SystemExit: If the run fails or a result is missing.
    """
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "run.py"), config, "-w", str(work_dir)]
    done = subprocess.run(command)
    if done.returncode:
        raise SystemExit(f"{config} ended with status {done.returncode}; nothing was recorded.")
    (run,) = work_dir.iterdir()
    return run, time.perf_counter() - start


def first_of(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    """Return the first file that fits the first pattern that any file fits."""
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)


def describe(run: Path, seconds: float) -> dict[str, Any]:
    """Return how a run was made."""
    from mmengine.config import Config

    (dumped,) = (run / "configs").glob("*.py")
    cfg = Config.fromfile(str(dumped), format_python_code=False)
    return {
        **describe_run(),
        "seconds": round(seconds),
        "settings": cfg["settings"],
        "models": cfg["models"],
    }


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description="Run a config and keep its results in docs/.")
    parser.add_argument("config", help="e.g. configs/eval_llada_ppl.py")
    parser.add_argument("name", help="of the record, e.g. ppl_tiny_llada")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where to write")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work_dir:
        run, seconds = run_config(given.config, Path(work_dir))
        record = describe(run, seconds)
        table, figure = first_of(run, TABLES), first_of(run, FIGURES)
        if table is None:
            raise SystemExit(f"{given.config} leaves no table of {', '.join(TABLES)}.")
        (given.docs / "records").mkdir(parents=True, exist_ok=True)
        (given.docs / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(table, given.docs / "records" / f"{given.name}.csv")
        if figure is not None:
            shutil.copy(figure, given.docs / "images" / f"{given.name}.png")
        write_record(given.docs / "records" / f"{given.name}.json", record)
    picture = "" if figure is None else f" and images/{given.name}.png"
    print(f"wrote records/{given.name}.csv, .json{picture} in {given.docs}")


if __name__ == "__main__":
    main()
