"""Runs a config here and on Slurm and compares the answers, byte for byte; tries a wrong partition.

    eval "$(benchmarks/slurm_two_nodes.sh slurm_test)"
    python benchmarks/slurm_two_nodes.py configs/eval_llada_niah.py configs/eval_llada_ruler.py \
        --record benchmarks/records/slurm_two_nodes.json

Each config runs its demo (LLADA_DEMO=1) with tiny-llada and 1,280 tokens. Exit status 0 if all
answers are equal.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from recording import describe_run, write_record  # noqa: E402

SMALL = {"LLADA_DEMO": "1", "LLADA_MODELS": "tiny_llada", "LLADA_LENGTHS": "1280"}


def run(config: str, folder: Path, *options: str) -> tuple[int, dict[str, str]]:
    """Run a config; return the exit status, and a digest of each file of answers."""
    command = [sys.executable, str(ROOT / "run.py"), config, "-w", str(folder), *options]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        status = subprocess.run(command, env=os.environ | SMALL, stdout=log, stderr=log).returncode
    files = folder.glob("*/predictions/*/*.json")
    return status, {
        f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def main() -> int:
    """Compare and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--partition", default="cpu")
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for number, config in enumerate(options.configs):
            here, answers = run(config, Path(name) / f"{number}-here")
            there, others = run(
                config, Path(name) / f"{number}-slurm", "--slurm", "-p", options.partition
            )
            equal = sum(others.get(file) == digest for file, digest in answers.items())
            rows.append({"config": config, "status_here": here, "status_on_slurm": there})
            rows[-1] |= {"files_here": len(answers), "files_on_slurm": len(others), "equal": equal}
            print(rows[-1], flush=True)
        wrong, _ = run(options.configs[0], Path(name) / "wrong", "--slurm", "-p", "no-such")
        print(f"a partition that is not there: exit status {wrong}")
    version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True).stdout.strip()
    found = {"slurm": version, "nodes": 2, "rows": rows, "status_of_wrong_partition": wrong}
    write_record(options.record, describe_run() | found)
    fine = all(
        row["equal"] == row["files_here"] == row["files_on_slurm"] > 0
        and row["status_here"] == row["status_on_slurm"] == 0
        for row in rows
    )
    return 0 if fine and wrong == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
