"""Time and memory of making RULER's 13 data sets: ours, ours read back from disk, OpenCompass's.

    COMPASS_DATA_CACHE=DIR TIKTOKEN_CACHE_DIR=DIR python benchmarks/ruler_build.py

Each subject runs in a process of its own, so that its peak memory is its own; imports are not
timed. Also says for each task whether both made the same prompts; they differ where a data file
has fewer documents than fit, as a cut-down dev-v2.0.json at 128K (see `questions.py`). Lengths are
counted with GPT-4's tokenizer. Needs RULER's data files. Writes one record.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import ROOT, describe_run, write_record

SUBJECTS = ("opencompass", "ours", "ours, from disk")
HOST_KEYS = ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg")


def stock_loader(length: int, num_samples: int) -> dict[str, Any]:
    """Return for each task a function that makes it with OpenCompass's class."""
    import opencompass
    from mmengine.config import Config

    folder = Path(opencompass.__file__).parent / "configs" / "datasets" / "ruler"
    loaders = {}
    for entry in Config.fromfile(str(folder / "ruler_4k_gen.py"))["ruler_datasets"]:
        options = {key: value for key, value in entry.items() if key not in HOST_KEYS}
        options.update(max_seq_length=length, num_samples=num_samples)
        task = entry["abbr"].removeprefix("ruler_").removesuffix("_4k")
        loaders[task] = lambda kind=entry["type"], options=options: kind.load(**options)
    return loaders


def own_loader(length: int, num_samples: int) -> dict[str, Any]:
    """Return for each task a function that makes it with this package's class."""
    from opencompass_llada.benchmarks.ruler.dataset import RulerDataset
    from opencompass_llada.benchmarks.ruler.prompts import TASKS

    return {
        task: lambda task=task: RulerDataset.load(
            task=task, length=length, num_samples=num_samples, fwe_room=False
        )
        for task in TASKS
    }


def measure(subject: str, length: int, num_samples: int) -> dict[str, Any]:
    """Make all tasks in this process.

    Args:
        subject: One of `SUBJECTS`; for the third the second must have run with the same cache.
        length: Tokens.
        num_samples: Samples a task.

    Returns:
        Seconds and prompt digest of each task, and the process's memory in MiB.
    """
    make = stock_loader if subject == "opencompass" else own_loader
    loaders = make(length, num_samples)
    before = peak_memory()
    tasks = {}
    for task, load in loaders.items():
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            prompts = list(load()["prompt"])
        seconds = time.perf_counter() - start
        digest = hashlib.sha256("\0".join(prompts).encode()).hexdigest()[:16]
        tasks[task] = {"seconds": round(seconds, 3), "prompts": digest}
    return {"tasks": tasks, "memory_before": before, "peak_memory": peak_memory()}


def peak_memory() -> int:
    """Return this process's peak resident memory in MiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run_subject(subject: str, length: int, num_samples: int, cache: str) -> dict[str, Any]:
    """Measure in a process of its own."""
    keep = cache if subject != "opencompass" else "none"
    environment = {**os.environ, "OPENCOMPASS_LLADA_CACHE": keep}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, __file__, "--one", subject, str(length), str(num_samples)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def report(length: int, results: dict[str, dict[str, Any]]) -> None:
    """Print one length's table."""
    names = list(results)
    print(f"\n{length:,} tokens; seconds")
    print(f"{'task':<18}" + "".join(f"{name:>18}" for name in names) + "   same prompts")
    for task in results["ours"]["tasks"]:
        found = [results[name]["tasks"][task] for name in names]
        same = len({entry["prompts"] for entry in found}) == 1
        row = "".join(f"{entry['seconds']:>18.2f}" for entry in found)
        print(f"{task:<18}{row}   {'yes' if same else 'NO'}")
    totals = [sum(t["seconds"] for t in results[name]["tasks"].values()) for name in names]
    print(f"{'all 13':<18}" + "".join(f"{total:>18.2f}" for total in totals))
    memory = [results[name]["peak_memory"] - results[name]["memory_before"] for name in names]
    print(f"{'memory, MiB more':<18}" + "".join(f"{value:>18}" for value in memory))


def main() -> None:
    """Measure every subject at every length and write the record."""
    parser = argparse.ArgumentParser(description="Time and memory of making RULER's data sets.")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32768, 131072])
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        subject, length, num_samples = arguments.one
        print(json.dumps(measure(subject, int(length), int(num_samples))))
        return
    runs = {}
    with tempfile.TemporaryDirectory() as cache:
        for length in arguments.lengths:
            results = {
                subject: run_subject(subject, length, arguments.samples, cache)
                for subject in arguments.subjects
            }
            report(length, results)
            runs[str(length)] = results
    record = {
        **describe_run(),
        "num_samples": arguments.samples,
        "units": {"seconds": "wall", "memory": "MiB, peak resident of the process"},
        "runs": runs,
    }
    path = arguments.record
    if path is None:
        path = ROOT / "benchmarks" / "records" / f"ruler_build_{arguments.samples}_samples.json"
    write_record(path, record)
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
