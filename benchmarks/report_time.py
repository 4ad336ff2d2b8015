"""Time and size of the report of a work directory of 200 models, each at 6 lengths and 11 depths.

    python benchmarks/report_time.py [--samples 2] [--models 200] [--rounds 1]

Makes the directory (with RULER's 13 tasks at two lengths besides; prompts of 4 characters a token),
then runs ``opencompass-llada report`` on it in a process of its own, imports included.
Writes benchmarks/records/report_time.json and fails if the median takes 60 s or the page 5 MB.
Other load of the machine, which the record holds, lengthens it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recording import ROOT, describe_run, write_record

sys.path.insert(0, str(ROOT / "tests"))
MOST_SECONDS, MOST_BYTES = 60.0, 5_000_000


def make_work_dir(folder: Path, num_models: int, num_samples: int) -> None:
    """Write a finished run.

    Args:
        folder: Its folder.
        num_models: Models; every fourth is autoregressive.
        num_samples: Samples a cell.
    """
    from work_dirs import DEPTHS, LENGTHS, RULER_TASKS, make_model, niah_cell, ruler_cell, write_run

    models = [
        make_model(f"model-{'ar' if number % 4 == 3 else 'diffusion'}-{number}")
        for number in range(num_models)
    ]
    cells = [niah_cell(n, depth, num_samples) for n in LENGTHS for depth in DEPTHS]
    cells += [ruler_cell(task, n, num_samples) for task in RULER_TASKS for n in (4096, 8192)]
    write_run(folder, models, cells, characters_a_token=4)


def main() -> int:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1, help="times that it is measured")
    parser.add_argument("--samples", type=int, default=2, help="samples a cell")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        make_work_dir(folder, given.models, given.samples)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        seconds = []
        command = [sys.executable, "-m", "opencompass_llada.cli", "report", str(folder)]
        for number in range(given.rounds):
            out = Path(temporary) / f"out{number}"
            start = time.perf_counter()
            subprocess.run(
                [*command, "-o", str(out)],
                check=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
            )
            seconds.append(round(time.perf_counter() - start, 2))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = (out / "report.html").stat().st_size
    record = {
        **describe_run(),
        "models": given.models,
        "samples": given.samples,
        "work_dir_bytes": size,
        "seconds": seconds,
        "cpu_seconds_each": round((used.ru_utime + used.ru_stime) / given.rounds, 2),
        "peak_memory_mib": round(used.ru_maxrss / 1024),
        "page_bytes": page,
    }
    write_record(ROOT / "benchmarks/records/report_time.json", record)
    print(json.dumps(record, indent=1))
    return int(statistics.median(seconds) >= MOST_SECONDS or page >= MOST_BYTES)


if __name__ == "__main__":
    raise SystemExit(main())
