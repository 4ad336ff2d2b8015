"""One run on one GPU and on two of the same host, end to end through OpenCompass.

    python benchmarks/two_gpus.py                # two GPUs of 40 GB, 17 GB of disk, 12 minutes
    python benchmarks/two_gpus.py --gpus 1       # one of the two runs alone, into the same record
    python benchmarks/two_gpus.py --tiny         # the same path at toy size, on a CPU's workers

A checkpoint of LLaDA-8B's shape with random weights is written in the published format, and
``python run.py configs/eval_llada_niah.py`` answers needles of 4,096 tokens with it as a user's run
does: exact, 32 tokens in 32 steps, imports, loading, scoring and report included. The answers mean
nothing, and both runs must give the same. The record has the wall time of each, the seconds of
their models, which tell whether one disturbed the other, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from local_run_time import run_once
from model_shapes import shape_fields, write_checkpoint
from recording import ROOT, describe_run, exit_on_error, write_record

from opencompass_llada.assets import resolve_asset
from opencompass_llada.devices import choose_device
from opencompass_llada.runs.recorded_files import read_answers as read_predictions
from opencompass_llada.runs.recorded_files import split_shard_name

VARIABLES = {
    "LLADA_SCALING": "none",
    "LLADA_LENGTHS": "4096",
    "LLADA_DEPTHS": "0,25,50,75,100",
    "LLADA_GENERATION_LENGTH": "32",
    "LLADA_STEPS": "32",
    "LLADA_DTYPE": "bfloat16",
}
TINY = {"LLADA_LENGTHS": "256", "LLADA_STEPS": "2"}


def make_checkpoint(folder: Path, *, tiny: bool) -> None:
    """Write weights, config and a tokenizer whose ids the vocabulary holds; keep what is there."""
    if (folder / "model.safetensors.index.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Path(resolve_asset("asset:tiny-llada"))
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, folder)
    # As large a vocabulary at toy size, too: most answers are none of the tokenizer's ids.
    size = {name: shape_fields("LLaDA-8B", tiny=False)[name]
            for name in ("vocab_size", "embedding_size", "mask_token_id", "eos_token_id",
                         "pad_token_id")}  # fmt: skip
    write_checkpoint(folder, shape_fields("LLaDA-8B", tiny=tiny) | size, choose_device(None))


def read_answers(folder: Path) -> dict[str, Any]:
    """Return the predictions of the one run in a folder by data set, in the samples' order."""
    (run,) = folder.iterdir()
    found: dict[str, list[Any]] = {}
    files = [(split_shard_name(file.stem), file) for file in run.glob("predictions/*/*.json")]
    for (name, _), file in sorted(files, key=lambda pair: (pair[0][0], pair[0][1] or (0,))):
        samples, fault = read_predictions(file)
        if fault:
            raise ValueError(f"{file}: {fault}")
        found.setdefault(name, []).extend(sample["prediction"] for sample in samples.values())
    if not found:
        raise ValueError(f"{run} has no predictions")
    return found


def main() -> None:
    """Run, compare and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    parser.add_argument("--tiny", action="store_true", help="a toy, on a CPU's workers")
    parser.add_argument("--repeats", type=int, default=20, help="samples a depth")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "two_gpus")
    parser.add_argument(
        "--record", type=Path, default=ROOT / "benchmarks/records/two_gpus_h200.json"
    )
    given = parser.parse_args()
    start = time.perf_counter()
    make_checkpoint(given.folder / "checkpoint", tiny=given.tiny)
    made = time.perf_counter() - start
    record: dict[str, Any] = {}
    if given.gpus != [1, 2] and given.record.exists():
        record = json.loads(given.record.read_text(encoding="utf-8"))
    chosen = VARIABLES | (TINY if given.tiny else {})
    record |= {**describe_run(), "cores": os.cpu_count(), "variables": chosen}
    record.setdefault("checkpoint_seconds", round(made, 1))
    for gpus in given.gpus:
        variables = {
            **chosen,
            "LLADA_MODELS": str(given.folder / "checkpoint"),
            "LLADA_REPEATS": str(given.repeats),
            "LLADA_WORKERS": str(gpus),
            "CUDA_VISIBLE_DEVICES": "" if given.tiny else ",".join(map(str, range(gpus))),
        }
        out = given.folder / f"gpus_{gpus}"
        shutil.rmtree(out, ignore_errors=True)
        record[f"gpus {gpus}"] = run_once(ROOT, variables, out)
        write_record(given.record, record)
        print(f"{gpus}: {json.dumps(record[f'gpus {gpus}'])}", flush=True)
    runs = [given.folder / f"gpus_{gpus}" for gpus in (1, 2)]
    if all(run.exists() for run in runs) and "gpus 1" in record and "gpus 2" in record:
        one, two = map(read_answers, runs)
        pairs = [pair for cell in one for pair in zip(one[cell], two[cell], strict=True)]
        record["answers"] = len(pairs)
        record["equal"] = sum(first == second for first, second in pairs)
        record["times_as_fast"] = (
            record["gpus 1"]["wall_seconds"] / record["gpus 2"]["wall_seconds"]
        )
        write_record(given.record, record)
        print(f"{record['times_as_fast']:.3f} times as fast; "
              f"{record['equal']} of {len(pairs)} answers equal", flush=True)  # fmt: skip


if __name__ == "__main__":
    exit_on_error(main)
