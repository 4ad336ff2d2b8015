"""Runs configs here and on Slurm, and compares all answers byte for byte; nothing fails here.

    eval "$(benchmarks/slurm/two_nodes.sh slurm_test)"
    python benchmarks/slurm/answers.py --record benchmarks/records/slurm_answers.json

Each config runs small: its demo (LLADA_DEMO=1) with tiny-llada. One is scored there, too, and also
runs by plain `opencompass CONFIG --slurm`; of the others only inference is run. Exit status 0 if
all answers are equal.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import runs
from recording import describe_run, write_record

#: What makes each config small, besides its demo.
SMALL = {"LLADA_DEMO": "1", "LLADA_MODELS": "tiny_llada"}
CONFIGS: dict[str, dict[str, str]] = {
    "eval_llada_niah.py": {"LLADA_LENGTHS": "1280"},
    "eval_llada_ruler.py": {"LLADA_LENGTHS": "1280"},
    "eval_llada_ppl.py": {"LLADA_LENGTHS": "1280"},
    "eval_llada_long.py": {},
    "eval_llada_short.py": {},
    "eval_leaderboard.py": {"LLADA_LENGTHS": "512", "LLADA_BENCHMARKS": "niah,ppl"},
    "eval_llada_datasets.py": {"LLADA_DATASETS": "graph_walks,changing_state"},
    "eval_llada_suites.py": {"LLADA_LEVELS": "1", "LLADA_SAMPLES": "1"},
    "eval_llada_published_suites.py": {"LLADA_SUITES": "babilong", "LLADA_SAMPLES": "1"},
}
SCORED = "eval_llada_niah.py"


def compare(name: str, settings: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run a config here and on Slurm."""
    config, given = f"configs/{name}", {**SMALL, **settings}
    here, there, plain = folder / "here", folder / "slurm", folder / "plain"
    folder.mkdir()
    stages = ("-m", "all" if name == SCORED else "infer")
    command = runs.command_of(config, here, *stages)
    status_here, _ = runs.run(command, folder / "here.log", given)
    on_slurm = (*stages, "--slurm", "-p", runs.PARTITION)
    command = runs.command_of(config, there, *on_slurm)
    status_there, _ = runs.run(command, folder / "slurm.log", given)
    row: dict[str, Any] = {"config": config, "status_here": status_here}
    row |= {"status_on_slurm": status_there, **count_equal(here, there)}
    row["left_in_working_folder"] = sorted(
        path.name for path in folder.iterdir() if path.suffix != ".log" and path.is_dir()
        and path not in (here, there, plain)
    )  # fmt: skip
    if name == SCORED:
        own = [str(Path(sys.executable).with_name("opencompass")), str(runs.ROOT / config)]
        status, _ = runs.run([*own, "-w", str(plain), *on_slurm], folder / "plain.log", given)
        row["plain_opencompass"] = {"status": status, **count_equal(here, plain)}
        row["plain_opencompass"]["records"] = len(list(plain.glob("*/provenance/*.jsonl")))
    return row


def count_equal(here: Path, there: Path) -> dict[str, int]:
    """Compare the answers of two work directories."""
    own, other = runs.digest_answers(here), runs.digest_answers(there)
    equal = sum(other.get(file) == digest for file, digest in own.items())
    return {"cells_here": len(own), "cells_on_slurm": len(other), "equal": equal}


def is_fine(row: dict[str, Any]) -> bool:
    """Tell whether a row is one of equal answers."""
    plain = row.get("plain_opencompass", {"status": 0, "records": 1})
    equal = all(
        own["equal"] == own["cells_here"] == own["cells_on_slurm"] > 0
        for own in (row, plain)
        if "equal" in own
    )
    clean = row["status_here"] == row["status_on_slurm"] == plain["status"] == 0
    return equal and clean and plain["records"] > 0


def main() -> int:
    """Compare and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configs", nargs="*", default=list(CONFIGS), help="names of configs/")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--keep", type=Path, help="folder in which the runs are kept")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.configs:
        rows.append(compare(name, CONFIGS[name], folder / name.removesuffix(".py")))
        print(rows[-1], flush=True)
        found = {"slurm": runs.slurm_version(), "nodes": 2, "rows": rows}
        if options.record:  # after each, for a run that is stopped
            write_record(options.record, describe_run() | found)
    if not options.keep:
        shutil.rmtree(folder)
    return 0 if all(map(is_fine, rows)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
