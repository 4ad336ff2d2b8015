"""Where the time of a small run on this machine goes: the model, and all that is around it.

    python benchmarks/local_run_time.py [sweep niah] [--rounds 1] [--checkout OTHER]

Runs ``python run.py configs/eval_llada_niah.py`` as a user does, imports, scores and report
included. ``sweep`` is tiny-llada under 4 scalings on 4 cells, ``niah`` what ``make niah`` runs
after the install. The model's seconds are those that its engines counted. Their share of the wall
time adds up over workers side by side, that of the CPU's time does not. Writes
benchmarks/records/local_run_time.json; other load of the machine, which the record holds,
lengthens the wall time. ``--checkout`` measures another version's files, on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recording import ROOT, describe_run, exit_on_error, write_record

from opencompass_llada.runs.provenance import read_provenance

SWEEP = {
    "LLADA_MODELS": "tiny_llada",
    "LLADA_SCALING": "none,linear:factor=2,ntk:target_length=1024,diffusion_ntk:target_length=1024",
    "LLADA_LENGTHS": "256,512,768,1024",
    "LLADA_DEPTHS": "50",
}
CASES: dict[str, dict[str, str]] = {"sweep": SWEEP, "niah": {}}


def run_once(checkout: Path, variables: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Run the config in a process of its own; return its times and counts.

    Raises:
        ValueError: If the run fails; the message is the end of its output.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith(("LLADA_", "OMP_NUM_THREADS"))}
    command = [sys.executable, "run.py", "configs/eval_llada_niah.py", "-w", str(folder)]
    load, before, start = os.getloadavg()[0], _cpu_seconds(), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=checkout,
        env={**own, "PYTHONPATH": str(checkout), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    wall, cpu = time.perf_counter() - start, _cpu_seconds() - before
    if done.returncode:
        raise ValueError(
            f"the run ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}"
        )
    (run,) = folder.iterdir()
    records = read_provenance(run).datasets.values()
    model = sum(float(record["seconds"]) for record in records)
    return {
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "model_seconds": round(model, 2),
        "model_share_of_wall": round(model / wall, 3),
        "model_share_of_cpu": round(model / cpu, 3),
        "cells": len(records),
        "samples": sum(int(record["num_samples"]) for record in records),
        "load_before": round(load, 1),
    }


def _cpu_seconds() -> float:
    """Return the CPU time of all children that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[], choices=[*CASES, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=1, help="times that each is measured")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the files that are measured")
    parser.add_argument(
        "--record", type=Path, default=ROOT / "benchmarks/records/local_run_time.json"
    )
    given = parser.parse_args()
    record: dict[str, Any] = {**describe_run(), "cores": os.cpu_count(), "cases": {}}
    for name in given.cases or CASES:
        rounds = []
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "runs"
                rounds.append(run_once(given.checkout.resolve(), CASES[name], out))
            sys.stdout.write(f"{name}: {json.dumps(rounds[-1])}\n")
            sys.stdout.flush()
        best = min(rounds, key=lambda own: own["wall_seconds"])
        record["cases"][name] = {"variables": CASES[name], "best": best, "rounds": rounds}
    write_record(given.record, record)


if __name__ == "__main__":
    exit_on_error(main)
