"""Needle in a haystack with many samples a cell, on a GPU machine without OpenCompass.

Same prompts, sampler and keyword rule as configs/eval_llada_niah.py; only the host differs. In two
steps, because prompts need OpenCompass's data set classes and the GPU machine may not have them::

    python benchmarks/niah_core.py prompts --data asset:needlebench --file synthetic_en.jsonl \
        --lengths 256 512 1024 2048 --samples 100 --generation-length 16 prompts.json
    python benchmarks/niah_core.py answers --steps 4 --scaling none ntk:2048 -- prompts.json out

Prints a table and writes a record with the accuracy of every cell. Scores nothing but keyword hits.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import defaultdict
from pathlib import Path

CHECKPOINT = "asset:tiny-llada"
DEPTHS = range(0, 101, 10)


def write_prompts(options: argparse.Namespace) -> None:
    """Write the prompts and keywords of a grid."""
    from opencompass_llada.datasets.needlebench import HaystackStore, NeedleCell, make_samples

    store = HaystackStore(max_entries=4)
    samples = []
    for length in options.lengths:
        for depth in DEPTHS:
            cell = NeedleCell(
                path=options.data,
                length=length,
                depth=depth,
                tokenizer=CHECKPOINT,
                file_list=[options.file],
                num_repeats_per_file=options.samples,
                length_buffer="fit",
                guide=False,
                language="English",
                generation_reserve=options.generation_length,
            )
            for sample in make_samples(cell, store):
                samples.append(
                    {"length": length, "depth": depth}
                    | {name: sample[name] for name in ("prompt", "keyword")}
                )
    grid = {
        "data": options.file,
        "generation_length": options.generation_length,
        "samples": samples,
    }
    options.output.write_text(json.dumps(grid), encoding="utf-8")


def parse_scaling(text: str) -> dict:
    """Read ``none`` or ``METHOD:TARGET_LENGTH``."""
    method, _, target = text.partition(":")
    return {"type": method} | ({"target_length": int(target)} if target else {})


def write_answers(options: argparse.Namespace) -> None:
    """Answer every prompt under every scaling; print a table and write the record."""
    import torch
    from transformers import AutoTokenizer

    from opencompass_llada.assets import resolve_asset
    from opencompass_llada.engines import MaskedDiffusionEngine, SamplerSettings
    from opencompass_llada.modeling import load_llada
    from opencompass_llada.rope_scaling import parse_rope_scaling
    from opencompass_llada.sampling import SpecialTokens

    grid = json.loads(options.prompts.read_text(encoding="utf-8"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = resolve_asset(CHECKPOINT)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    length = grid["generation_length"]
    record = {
        "command": " ".join(["python", "benchmarks/niah_core.py", *sys.argv[1:]]),
        "checkpoint": CHECKPOINT,
        "data": grid["data"],
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "dtype": "float32",
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "sampler": {"generation_length": length, "block_length": length, "steps": options.steps},
        "cells": [],
    }
    settings = SamplerSettings({"block_length": length, "num_steps": options.steps})
    for text in options.scaling:
        scaling = parse_rope_scaling(parse_scaling(text))
        model = load_llada(folder, rope_scaling=scaling, dtype=torch.float32, device=device)
        special = SpecialTokens(
            mask_token_id=model.config.mask_token_id,
            eos_token_id=model.config.eos_token_id,
            eot_token_id=None,
        )
        engine = MaskedDiffusionEngine(model, settings, special)
        cells = answer_cells(engine, tokenizer, grid, options.batch_size)
        record["cells"] += [{"scaling": text, **cell} for cell in cells]
        print_table(text, cells)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def answer_cells(engine, tokenizer, grid: dict, batch_size: int) -> list[dict]:
    """Return length, depth, samples and hits of each cell."""
    by_cell = defaultdict(list)
    for sample in grid["samples"]:
        by_cell[sample["length"], sample["depth"]].append(sample)
    cells = []
    for (length, depth), samples in by_cell.items():
        hits = 0
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            prompts = tokenizer([sample["prompt"] for sample in batch]).input_ids
            answers = engine.generate(prompts, max_new_tokens=grid["generation_length"])
            hits += sum(
                sample["keyword"] in tokenizer.decode(answer.token_ids, skip_special_tokens=True)
                for sample, answer in zip(batch, answers, strict=True)
            )
        cells.append({"length": length, "depth": depth, "samples": len(samples), "hits": hits})
    return cells


def print_table(title: str, cells: list[dict]) -> None:
    """Print accuracy in percent, a line a length."""
    print(f"{title}: accuracy by depth 0, 10, ... 100 %")
    for length in dict.fromkeys(cell["length"] for cell in cells):
        row = [cell for cell in cells if cell["length"] == length]
        shares = [100 * cell["hits"] / cell["samples"] for cell in row]
        mean = sum(shares) / len(shares)
        print(f"{length:6d} {' '.join(f'{share:4.0f}' for share in shares)}   mean {mean:5.1f}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    prompts = commands.add_parser("prompts", help="write prompts (needs OpenCompass)")
    prompts.add_argument("--data", required=True, help="folder, or asset:needlebench")
    prompts.add_argument("--file", required=True, help="haystack file")
    prompts.add_argument("--lengths", type=int, nargs="+", required=True)
    prompts.add_argument("--samples", type=int, default=100)
    prompts.add_argument("--generation-length", type=int, default=16)
    prompts.add_argument("output", type=Path)
    prompts.set_defaults(run=write_prompts)
    answers = commands.add_parser("answers", help="answer them (needs no OpenCompass)")
    answers.add_argument("prompts", type=Path)
    answers.add_argument("--steps", type=int, required=True)
    answers.add_argument("--scaling", nargs="+", default=["none"])
    answers.add_argument("--batch-size", type=int, default=50)
    answers.add_argument("output", type=Path)
    answers.set_defaults(run=write_answers)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
