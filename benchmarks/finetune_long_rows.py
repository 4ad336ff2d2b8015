"""One training step on rows longer than memory, each case on the GPUs that it needs.

    python benchmarks/finetune_long_rows.py --cases 256k_on_2 512k_documents_on_2 512k_on_4
    python benchmarks/finetune_long_rows.py --plan        # no step: what is planned, on any machine

iLLaDA's shape (grouped heads, tied embeddings), random weights, all of them trained in bfloat16.
The GPUs of a case share each row (Ulysses); `long_row_step` takes its step. Cases start in order
as soon as enough GPUs are free, each in processes of its own, so that none loses another's record,
and none starts that is not expected to end within ``--seconds``. A case that fails or takes too
long is recorded as such. ``--tiny`` runs all of it on a CPU in a minute to prove the script.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from long_row_step import CASES, describe_plan, read_row, write_row  # noqa: E402
from recording import FACTS, describe_command, describe_run, write_record  # noqa: E402

#: A line that tells of an error, of one rank or another.
ERROR = re.compile(r"(\[rank\d+\]: *)?[\w.]*Error: .")
#: Seconds that torchrun has to end its processes.
STOPPING = 20


@dataclass
class Running:
    """A case in processes of its own."""

    case: str
    process: subprocess.Popen[bytes]
    devices: list[int]
    end: float
    """When it is stopped, in seconds since the epoch."""
    log: Path


def start(case: str, devices: list[int], end: float, options: argparse.Namespace) -> Running:
    """Start a case on some devices."""
    number, log = CASES[case].processes, options.folder / f"{case}.log"
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={number}"]
    command += ["--master_addr=127.0.0.1", f"--master_port={options.port + devices[0]}"]
    command += [str(ROOT / "benchmarks/long_row_step.py"), case, f"--folder={options.folder}"]
    command += [f"--end={end}", *(["--tiny"] if options.tiny else [])]
    command += ["--set", *options.set] if options.set else []
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}
    environment.setdefault("OMP_NUM_THREADS", "1" if options.tiny else "8")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    print(f"{case} on GPUs {devices}", flush=True)
    return Running(case, process, devices, end, log)


def stop(running: Running) -> None:
    """End a case's processes: torchrun, told by SIGTERM, ends those that it started."""
    running.process.send_signal(signal.SIGTERM)
    try:
        running.process.wait(timeout=STOPPING)
    except subprocess.TimeoutExpired:
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


def finish(running: Running, options: argparse.Namespace) -> bool:
    """Tell whether a case is over, ended by us if its time is; its row then says why it failed."""
    late = time.time() > running.end
    code = running.process.poll()
    if code is None and not late:
        return False
    if code is None:
        stop(running)
    row = read_row(options.folder, running.case)
    if "seconds_a_step" not in row and "problem" not in row:
        lines = running.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        told = next((line for line in lines if ERROR.match(line) and "ChildFailed" not in line), "")
        stage = row.get("stage", "start")
        reason = "was not over in its time" if late else f"ended with code {code}: {told[:300]}"
        write_row(options.folder, row | {"problem": f"{reason}, at: {stage}"})
    print(show(read_row(options.folder, running.case)), flush=True)
    return True


def show(row: dict[str, Any]) -> str:
    """Return a line about a case."""
    line = f"{row['case']:<22} planned {row['planned_gb']:.1f} GB"
    if "seconds_a_step" not in row:
        return f"{line}   {row.get('problem', 'only planned')}"
    reserved, mfu = row["peak_reserved_gb"], row["mfu"]
    return (
        f"{line}, reserved {'-' if reserved is None else f'{reserved:.1f}'} GB, "
        f"host {row['host_gb']:.1f} GB, compiled in {row['compile_seconds']:.0f} s, "
        f"{row['seconds_a_step']:.2f} s a step, {row['tokens_per_second']:.0f} tokens/s, "
        f"MFU {'-' if mfu is None else f'{100 * mfu:.1f} %'}"
    )


def run_cases(options: argparse.Namespace) -> None:
    """Run the cases in order, side by side where the GPUs suffice."""
    free, deadline = list(range(options.gpus)), time.time() + options.seconds
    waiting, running = list(options.cases), list[Running]()
    written = time.time()
    try:
        while waiting or running:
            if time.time() > written + 3:  # lest who ends this script lose a stage
                written = time.time()
                write_all(options)
            for one in [one for one in running if finish(one, options)]:
                running.remove(one)
                free = sorted(free + one.devices)
            number = CASES[waiting[0]].processes if waiting else 0
            if waiting and (number <= len(free) or not running):
                row = read_row(options.folder, case := waiting.pop(0))
                expected, left = row["expected_seconds"], deadline - time.time()
                if number > options.gpus:
                    give_up(row, f"it needs {number} GPUs, there are {options.gpus}", options)
                elif expected > left:
                    give_up(row, f"it takes about {expected:.0f} s, {left:.0f} are left", options)
                else:
                    running.append(start(case, free[:number], deadline, options))
                    free = free[number:]
            time.sleep(0.2)
    finally:
        for one in running:
            stop(one)


def give_up(row: dict[str, Any], why: str, options: argparse.Namespace) -> None:
    """Note why a case was not started."""
    write_row(options.folder, row | {"problem": f"not started: {why}"})
    print(show(read_row(options.folder, row["case"])), flush=True)


def write_all(options: argparse.Namespace) -> None:
    """Write the record of all cases, as far as they came."""
    rows = [read_row(options.folder, case) for case in options.cases]
    ran = next((row for row in rows if "device" in row), None)
    # Before a case runs, this process must not touch a GPU, as describing it would.
    facts = {name: ran[name] for name in FACTS} if ran else describe_run() if options.plan else {}
    for row in rows:  # the same for all
        for name in FACTS:
            row.pop(name, None)
    facts["command"] = describe_command()
    write_record(options.record, facts | {"rows": rows})


def merge(records: list[Path], record: Path) -> None:
    """Write one record of several: of each case the first row that has a step, else a plan."""
    read = [json.loads(file.read_text(encoding="utf-8")) for file in records]
    rows: dict[str, dict[str, Any]] = {}
    for row in (row for one in read for row in one["rows"]):
        if row["case"] not in rows or "seconds_a_step" not in rows[row["case"]]:
            rows[row["case"]] = row
    ran = next((one for one in read if "device" in one), read[0])
    facts = {name: ran[name] for name in FACTS if name in ran}
    facts["command"] = [one["command"] for one in read]
    ordered = [rows[case] for case in CASES if case in rows]
    write_record(record, facts | {"rows": ordered})


def main(arguments: list[str] | None = None) -> None:
    """Run the cases and write the record, anew when a case is over."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--gpus", type=int, help="how many there are; all that are seen")
    parser.add_argument("--seconds", type=float, default=570, help="for all cases together")
    parser.add_argument("--folder", type=Path, default=Path("long_rows"), help="rows and logs")
    parser.add_argument("--record", type=Path, default=Path("finetune_long_rows.json"))
    parser.add_argument("--set", nargs="*", default=[], help="recipe keys, key=value")
    parser.add_argument("--port", type=int, default=29500, help="first port of the processes")
    parser.add_argument("--plan", action="store_true", help="run nothing")
    parser.add_argument("--tiny", action="store_true", help="tiny network, short rows, on a CPU")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="RECORD", help="into one record")
    options = parser.parse_args(arguments)
    if options.merge:
        merge(options.merge, options.record)
        return
    if options.gpus is None:
        options.gpus = 4 if options.tiny else torch.cuda.device_count()
    for case in options.cases:
        plan = describe_plan(
            case, tiny=options.tiny, on_cuda=not options.tiny, overrides=options.set
        )
        write_row(options.folder, plan)
        if options.plan:
            print(f"{show(plan)}, about {plan['expected_seconds']:.0f} s: {plan['plan']}")
    if not options.plan:
        run_cases(options)
    write_all(options)


if __name__ == "__main__":
    main()
