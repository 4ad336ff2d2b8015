"""Does a run survive what happens to runs? Kills, full disks, damaged files, bad inputs.

    python benchmarks/survival.py [--kills 100] [--parts kills,training] [--seed 0]

One small run (a random model on two needle cells; two models for ``damage``) is made without
interruption; then

- ``kills``: the same run is killed (SIGKILL) at random moments and resumed with ``-r`` until done;
- ``writes``: it is killed inside every write, before every move, and given a disk that becomes full
  inside every write, each once, and resumed;
- ``training``: both with a small training (eight steps, a checkpoint every second step), whose
  final weights, tokenizer and log (without its times) must be those of an uninterrupted one;
- ``damage``: single files of the finished run are damaged (digits, bits, halves, swaps, another
  model's ...): does a report show another number, does ``-r`` make the run again as it was, and the
  same for the unfinished answers of a killed run;
- ``tables``: the tests with tables of bad inputs are run.

Parts that are not asked for stay in the record as they are; each part says what made it.

A run is healed if its predictions and results are byte-equal to those of the first, its exit status
is 0, and nothing is left over. Writes benchmarks/records/survival.json; fails if anything is not
healed or any number is wrong. The runs are forks of one process that has imported everything, with
``--debug``: tasks in the run's own process. That tasks end with their driver is tested in
tests/test_task_lifetime.py. Not a timed test; about three seconds a run.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import importlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

from recording import ROOT, describe_run, write_record

TESTS = ROOT / "tests"
sys.path.insert(0, str(TESTS))
#: Settings of the run: one length, two depths, three samples a cell.
SETTINGS = {
    "LLADA_MODELS": "tiny_llada", "LLADA_DATA": "embedded", "LLADA_LENGTHS": "256",
    "LLADA_DEPTHS": "0,100", "LLADA_REPEATS": "3", "LLADA_GENERATION_LENGTH": "4",
    "LLADA_STEPS": "2", "LLADA_SCALING": "none",
}  # fmt: skip
#: Tests that hold tables of bad inputs or of damage; those that are there are run.
TABLES = ("test_bad_*.py", "test_finetune_errors.py", "test_finetune_inputs.py",
          "test_durability.py", "test_task_lifetime.py", "test_files.py")  # fmt: skip
NAME = "20260101_000000"
PARTS = ("kills", "writes", "training", "damage", "tables")
#: What a training's log says of the machine.
TIMES = ("seconds", "tokens_per_second", "seconds_left", "mfu", "peak_memory_gb")


@dataclass
class Writes:
    """Counts a process's writes below a folder, and makes one of them fail."""

    root: Path
    at: int | None = None
    action: str = ""
    seen: list[str] = field(default_factory=list)
    is_full: bool = False

    def install(self) -> None:
        """Put this between the process and its files, for good."""
        for module, name in ((builtins, "open"), (io, "open")):
            mock.patch.object(module, name, self._opening(getattr(module, name))).start()
        for name in ("replace", "rename", "unlink", "remove"):
            mock.patch.object(os, name, self._moving(name, getattr(os, name))).start()
        if saving := sys.modules.get("opencompass_llada.finetune.saving"):
            mock.patch.object(saving, "save_file", self._saving(saving.save_file)).start()

    def _saving(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Stand for safetensors' own writing, which is no Python."""

        def save_file(tensors: Any, path: Any, *args: Any, **options: Any) -> None:
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            number = self._note("write", path)
            real(tensors, path, *args, **options)
            if number == self.at:
                os.truncate(path, os.path.getsize(path) // 2)
                self.fail()

        return save_file

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self._is_below(file):
                return real(file, mode, *args, **options)
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
            number = self._note("write", file)
            opened = real(file, mode, *args, **options)
            return Torn(opened, self) if number == self.at else opened

        return opening

    def _moving(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def moving(source: Any, *args: Any, **options: Any) -> Any:
            if self._is_below(source) and self._note(name, args[0] if args else source) == self.at:
                self.fail()
            return real(source, *args, **options)

        return moving

    def _is_below(self, file: Any) -> bool:
        if not isinstance(file, str | os.PathLike):
            return False
        path = os.path.abspath(os.fspath(file))
        is_config = re.search(r"/tmp\w{8}\.py$", path)  # mmengine's, in a folder that it removes
        return path.startswith(f"{self.root}/") and not path.endswith(".log") and not is_config

    def _note(self, what: str, file: Any) -> int:
        path = os.path.relpath(os.path.abspath(os.fspath(file)), self.root)
        path = re.sub(r"~.*?\.part|[0-9a-f-]{36}|\d{8}_\d{6}(_\d+)?|_?(length|depth)\d+", "*", path)
        path = re.sub(r"step-\d+|shard-\d+|(?<=cache/)\.?[0-9a-f]{20}", "*", path)
        path = re.sub(r"(?<=heatmap_)[a-z]+|(?<=report/)(plots/|tables/)?\.?\w+", "*", path)
        self.seen.append(f"{what} {path}")
        return len(self.seen) - 1

    def fail(self) -> None:
        """Do what is to be done at this place."""
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.is_full = True
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Torn:
    """A file of which the first half of the first write reaches the disk."""

    def __init__(self, real: Any, writes: Writes) -> None:
        """Keep the file."""
        self._real, self._writes = real, writes

    def write(self, content: Any) -> int:
        """Write half, then fail."""
        self._real.write(content[: len(content) // 2])
        self._real.flush()
        self._writes.fail()
        raise AssertionError("the process is dead or an error was raised")

    def __enter__(self) -> Torn:
        """Return this file."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Close it."""
        self._real.close()

    def __getattr__(self, name: str) -> Any:
        """Do all else as the file does."""
        return getattr(self._real, name)


@dataclass
class Bench:
    """The run, and folders to run it in."""

    root: Path
    num_models: int
    config: Path = field(init=False)
    number: int = 0

    def __post_init__(self) -> None:
        """Make the models and the config."""
        from mmengine.config import Config
        from tiny import write_tiny_checkpoint

        os.environ.update(SETTINGS)
        cfg = Config.fromfile(str(ROOT / "configs/eval_llada_niah.py"), format_python_code=False)
        for name in SETTINGS:
            del os.environ[name]
        self.config = self.root / "survival.py"
        cfg.dump(str(self.config))  # read again, its classes are names
        cfg = Config.fromfile(str(self.config), format_python_code=False)
        models = []
        for seed, name in enumerate(("first", "second")[: self.num_models]):
            path = str(write_tiny_checkpoint(self.root / name, seed=seed))
            model = {**cfg.models[0], "abbr": name, "path": path}
            models.append({key: value for key, value in model.items() if key != "tokenizer_path"})
        cfg.models = models
        cfg.pop("model_dataset_combinations", None)
        cfg.summarizer.pop("models", None)
        cfg.dump(str(self.config))

    def place(self) -> Path:
        """Return a new empty folder to run in."""
        self.number += 1
        folder = self.root / f"place{self.number}"
        (folder / NAME).mkdir(parents=True)  # -r refuses a run that is not there
        return folder

    def run(
        self, place: Path, writes: Writes | None = None, seconds: float | None = None
    ) -> tuple[int, list[str]]:
        """Run or resume in a folder.

        Args:
            place: The folder; the run's own lies in it.
            writes: What is to fail.
            seconds: When to kill it.

        Returns:
            Exit status (negative: the signal), and the writes that were seen.
        """
        seen = place.with_suffix(".seen")
        child = os.fork()
        if child == 0:
            self._be_a_run(place, writes, seen)
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
            if pid:
                break
            if deadline is not None and time.monotonic() >= deadline:
                os.kill(child, signal.SIGKILL)
                deadline = None
            time.sleep(0.01)
        lines = seen.read_text().splitlines() if seen.exists() else []
        return os.waitstatus_to_exitcode(status), lines

    def warm(self) -> None:
        """Run once in this process, so that its forks find everything imported."""
        place, here, given = self.place(), Path.cwd(), sys.argv
        outputs = [os.dup(number) for number in (1, 2)]
        try:
            self._run_here(place)
        finally:
            os.chdir(here)
            sys.argv = given
            for number, kept in zip((1, 2), outputs, strict=True):
                os.dup2(kept, number)
        shutil.rmtree(place)

    def _be_a_run(self, place: Path, writes: Writes | None, seen: Path) -> None:
        status = 1
        try:
            os.setsid()
            if writes is not None:
                writes.install()
            status = self._run_here(place)
        except BaseException as error:
            os.write(2, f"survival: {type(error).__name__}: {error}\n".encode())
        finally:
            if writes is not None and writes.at is None:
                seen.write_text("\n".join(writes.seen))
            os._exit(status)

    def _run_here(self, place: Path) -> int:
        log = os.open(place / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(log, number)
        os.chdir(place)
        try:
            return self._main()
        except SystemExit as end:
            if isinstance(end.code, int):
                return end.code
            sys.stderr.write(f"{end.code}\n")
            return 1

    def _main(self) -> int:
        from opencompass_llada.runs.launch import launch

        sys.argv = ["run.py", str(self.config), "-w", ".", "-r", NAME, "--debug"]
        return launch()

    def snapshot(self, place: Path) -> dict[str, bytes]:
        """Return answers and results of a run, and the names of what is left over beside them."""
        run = place / NAME
        return {
            str(path.relative_to(run)): path.read_bytes()
            for folder in ("predictions", "results")
            for path in sorted((run / folder).rglob("*"))
            if path.is_file()
        } | find_left_overs(place)


class TrainingBench(Bench):
    """A small training, and folders to run it in."""

    def __post_init__(self) -> None:
        """Write the recipe."""
        from finetune_runs import RECIPE

        self.config = self.root / "survival.yaml"
        phases = [{"sequence_length": 128, "num_steps": 8, "rows_per_step": 2}]
        own = {"phases": phases, "probe_every": 2, "log_every": 2, "cache_dir": "cache"}
        self.config.write_text(json.dumps({**RECIPE, **own, "output_dir": "out"}))

    def warm(self) -> None:
        """Import what a training needs; one in this process would keep its forks from training."""
        for name in ("__main__", "network", "saving", "evaluation"):
            importlib.import_module(f"opencompass_llada.finetune.{name}")

    def _main(self) -> int:
        from opencompass_llada.finetune.__main__ import main as train

        return train([str(self.config)])

    def snapshot(self, place: Path) -> dict[str, bytes]:
        """Return what was trained, the log without times, and the names of what is left over."""
        out = place / "out"
        kept = {
            str(path.relative_to(out)): path.read_bytes()
            for path in [*sorted(out.glob("final/*")), *out.glob("checkpoints.json")]
            if path.name != "training.json"  # times
        }
        log = out / "logs/metrics.jsonl"
        rows = map(json.loads, log.read_text().splitlines() if log.is_file() else ())
        kept["metrics"] = json.dumps(
            [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
        ).encode()
        return kept | find_left_overs(place)


def find_left_overs(place: Path) -> dict[str, bytes]:
    """Return the names of what a dead process left, as entries of a snapshot."""
    pattern = r"\.part$|\.bak$|\.old$|^tmp_|_params\.py$|^\.lock$|^\.\w.*-\d+-[0-9a-f]{32}$"
    found = [path for path in sorted(place.rglob("*")) if re.search(pattern, path.name)]
    return {f"left over: {path.relative_to(place)}": b"" for path in found}


def try_kills(bench: Bench, right: dict[str, bytes], seconds: float, num: int, seed: int) -> Any:
    """Kill at random moments; a chain of one to three kills, then a run to its end."""
    draw = random.Random(seed)
    faults, done, late = [], 0, 0
    while done < num:
        place, kills = bench.place(), 0
        for _ in range(draw.randint(1, 3)):
            if done + kills >= num:
                break
            status, _ = bench.run(place, seconds=draw.uniform(0, seconds))
            kills += status == -signal.SIGKILL
            late += status != -signal.SIGKILL
        status, _ = bench.run(place)
        if status != 0 or bench.snapshot(place) != right:
            faults.append(describe_fault(bench, place, status, right))
        done += kills
        shutil.rmtree(place)
    return {"kills": done, "ended_before_the_kill": late, "not_healed": faults}


def describe_fault(bench: Bench, place: Path, status: int, right: dict[str, bytes]) -> str:
    """Say what of a run is not as it should be."""
    found = bench.snapshot(place)
    names = sorted(key for key in {*found, *right} if found.get(key) != right.get(key))
    log = (place / "run.log").read_text(errors="replace").strip().splitlines()
    return f"exit status {status}; differing: {names[:4]}; {log[-1][:300] if log else ''}"


def try_writes(bench: Bench, right: dict[str, bytes]) -> Any:
    """Kill inside every kind of write, and fill the disk there."""
    place = bench.place()
    _, seen = bench.run(place, Writes(place))
    shutil.rmtree(place)
    places: dict[str, int] = {}
    for number, name in enumerate(seen):
        places.setdefault(name, number)
    result: dict[str, Any] = {"places": sorted(places), "kill": {}, "full_disk": {}}
    for kind, action in (("kill", "kill"), ("full_disk", "full")):
        tried, faults, unreached = 0, [], []
        for name, number in places.items():
            if action == "full" and not name.startswith("write"):
                continue
            place = bench.place()
            first, _ = bench.run(place, Writes(place, at=number, action=action))
            if first == 0:  # OpenCompass passes over the error, and nothing is lost by it
                unreached.append(name)
            status, _ = bench.run(place)
            tried += 1
            if status != 0 or bench.snapshot(place) != right:
                faults.append(f"{name}: {describe_fault(bench, place, status, right)}")
            shutil.rmtree(place)
            print(f"{kind} {tried} of {len(places)}, {len(faults)} faults", file=sys.stderr)
        result[kind] = {"tried": tried, "ended_with_status_0": unreached, "not_healed": faults}
    return result


def try_damage(bench: Bench, finished: Path, right: dict[str, bytes], num: int, seed: int) -> Any:
    """Damage a finished run: what does a report show, and does ``-r`` mend it?"""
    from damages import damage_run, judge, read_numbers

    run = finished / NAME
    numbers = read_numbers(run)
    verdicts: Counter[str] = Counter()
    wrong, faults, mended = [], [], 0
    cases = list(damage_run(run))
    resumed = set(random.Random(seed).sample(range(len(cases)), min(num, len(cases))))
    for place_in_list, (name, damage) in enumerate(cases):
        place = bench.place()
        shutil.copytree(finished, place, dirs_exist_ok=True)
        damage(place / NAME)
        try:
            verdict, cells = judge(place / NAME, numbers)
        except Exception as error:
            verdict, cells = "traceback", [(type(error).__name__, str(error))]
        verdicts[verdict] += 1
        if verdict in ("wrong", "traceback"):
            wrong.append(f"{name}: {verdict} {cells[:2]}")
        if place_in_list in resumed:
            status, _ = bench.run(place)
            mended += 1
            if status != 0 or bench.snapshot(place) != right:
                faults.append(f"{name}: {describe_fault(bench, place, status, right)}")
        shutil.rmtree(place)
    unfinished = list(damage_unfinished(bench, right))
    return {
        "report": {"cases": len(cases), "verdicts": dict(verdicts), "wrong": wrong},
        "resumed": {"cases": mended, "not_healed": faults},
        "unfinished_answers": {
            "cases": len(unfinished),
            "not_healed": [fault for fault in unfinished if fault],
        },
    }


def damage_unfinished(bench: Bench, right: dict[str, bytes]) -> Iterator[str]:
    """Kill a run between two answers, damage what it has, and resume; yield what is wrong."""
    from damages import CHANGES

    begun = bench.place()
    _, seen = bench.run(begun, Writes(begun))
    shutil.rmtree(begun)
    (begun / NAME).mkdir(parents=True)
    lines = [number for number, name in enumerate(seen) if re.match("write .*/tmp_", name)]
    bench.run(begun, Writes(begun, at=lines[2], action="kill"))
    (path,) = begun.rglob("tmp_*.jsonl")
    for name, change in CHANGES.items():
        place = bench.place()
        shutil.copytree(begun, place, dirs_exist_ok=True)
        copy = place / path.relative_to(begun)
        copy.write_bytes(change(copy.read_bytes(), random.Random(name)))
        status, _ = bench.run(place)
        healed = status == 0 and bench.snapshot(place) == right
        yield "" if healed else f"{name}: {describe_fault(bench, place, status, right)}"
        shutil.rmtree(place)


def run_tables() -> Any:
    """Run the tests that hold tables of bad inputs, and return what pytest counted."""
    found = {}
    for path in sorted({path for pattern in TABLES for path in TESTS.glob(pattern)}):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = done.stdout.strip().splitlines()
        found[path.name] = {"status": done.returncode, "said": lines[-1] if lines else ""}
    return found


def count_faults(record: Any) -> int:
    """Count what is listed as not healed or wrong anywhere in the record, and failed tables."""
    if isinstance(record, dict):
        own = sum(len(record.get(key) or ()) for key in ("not_healed", "wrong"))
        return own + bool(record.get("status")) + sum(map(count_faults, record.values()))
    return 0


def read_parts(path: Path) -> dict[str, Any]:
    """Return the parts of an earlier record, each with the facts of its own run."""
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    return {part: earlier[part] for part in PARTS if part in earlier}


def main() -> int:
    """Try, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--resumed", type=int, default=60, help="damaged runs that are resumed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks/records/survival.json")
    given = parser.parse_args()
    parts = given.parts.split(",")
    sys.path.insert(0, str(ROOT))
    import torch

    importlib.import_module("opencompass.cli.main")  # once, before the forks

    torch.set_num_threads(1)
    record = {**describe_run(), **read_parts(given.record)}

    def keep(part: str, found: dict[str, Any]) -> None:
        record[part] = {**describe_run(), **found}
        write_record(given.record, record)

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        benches = ((1, ("kills", "writes")), (0, ("training",)), (2, ("damage",)))
        for num_models, own in benches:
            if not {*own} & {*parts}:
                continue
            (root / own[0]).mkdir()
            bench = (Bench if num_models else TrainingBench)(root / own[0], num_models)
            bench.warm()
            finished = bench.place()
            begun = time.monotonic()
            status, _ = bench.run(finished)
            seconds = time.monotonic() - begun
            right = bench.snapshot(finished)
            if status != 0 or len(right) < 4 or any(name.startswith("left") for name in right):
                print((finished / "run.log").read_text(errors="replace")[-3000:], sorted(right))
                return 1
            whole = {"uninterrupted": {"seconds": round(seconds, 1), "files": sorted(right)}}
            if "kills" in parts and num_models == 1:
                keep("kills", whole | try_kills(bench, right, seconds, given.kills, given.seed))
            if "writes" in parts and num_models == 1:
                keep("writes", whole | try_writes(bench, right))
            if num_models == 0:
                kills = try_kills(bench, right, seconds, given.kills, given.seed)
                keep("training", whole | kills | {"writes": try_writes(bench, right)})
            if num_models == 2:
                damage = try_damage(bench, finished, right, given.resumed, given.seed)
                keep("damage", whole | damage)
    if "tables" in parts:
        keep("tables", run_tables())
    print(json.dumps({part: record[part] for part in parts if part in record}, indent=1))
    faults = count_faults({part: record[part] for part in parts})
    print(f"{faults} faults" if faults else "nothing was lost and no number is wrong")
    return int(faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
