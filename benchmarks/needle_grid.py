"""Needle in a haystack of one checkpoint by length and depth, on a machine without OpenCompass.

    python benchmarks/needle_grid.py asset:tiny-llada-long --record grid.json
    python benchmarks/needle_grid.py FOLDER --data needlebench     # real text: COMPASS_DATA_CACHE

The same prompts, sampler and keyword rule as `configs/eval_llada_niah.py` with published draws;
prompts are made in several processes, since fitting 16,384 tokens takes longer than answering on a
GPU. Writes one
record: for each length and depth, the hits among the samples.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from recording import ROOT, describe_run, exit_on_error, write_record

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.needle.samples import HaystackStore, NeedleCell, make_samples
from opencompass_llada.devices import choose_device, choose_dtype
from opencompass_llada.engines import Engine, LoadRequest, SamplerSettings
from opencompass_llada.families import find_family
from opencompass_llada.inference import PassOptions
from opencompass_llada.networks import read_model_config
from opencompass_llada.prompting.encode import load_tokenizer
from opencompass_llada.rope.methods import parse_rope_scaling

DEPTHS = tuple(range(0, 101, 10))
#: Haystack file and folder, tokens generated and denoising steps, as the docs' figures are made.
DATA = {
    "embedded": ("asset:needlebench", "synthetic_en.jsonl", 16, 4),
    "needlebench": ("data/needlebench", "en_un_asr.jsonl", 32, 16),
}


def make_cell(task: tuple[str, str, int, int, int]) -> list[dict[str, str]]:
    """Make the samples of one length and depth; runs in a process of its own."""
    data, tokenizer, length, depth, num_samples = task
    path, file, generation, _ = DATA[data]
    cell = NeedleCell(
        path=path,
        tokenizer=tokenizer,
        file_list=[file],
        num_repeats_per_file=num_samples,
        length=length,
        length_buffer="fit",
        generation_reserve=generation,
        depth=depth,
        guide=False,
        language="English",
    )
    return list(make_samples(cell, STORE))


STORE = HaystackStore()  # one a process: tokenized documents are shared by its cells


def add_scaling_option(parser: argparse.ArgumentParser) -> None:
    """Let a script load its checkpoint with a scaling; `read_scaling` reads it."""
    parser.add_argument(
        "--scaling",
        nargs=2,
        metavar=("METHOD", "TARGET"),
        help="a RoPE scaling on top of what the checkpoint holds, and its length in tokens",
    )


def read_scaling(given: argparse.Namespace) -> dict[str, Any] | None:
    """Return the options of `rope_scaling` that a script was given, or None.

    Raises:
        ValueError: If the method is unknown or the target no number of tokens.
    """
    if given.scaling is None:
        return None
    method, target = given.scaling
    if not target.isdecimal():
        raise ValueError(
            f"--scaling {method} {target}: the second is a number of tokens, as in "
            "--scaling diffusion_ntk 20480."
        )
    scaling = {"type": method, "target_length": int(target)}
    parse_rope_scaling(scaling)  # an unknown method is an error before prompts are made
    return scaling


def load_engine(
    path: str,
    block_length: int,
    num_steps: int,
    scaling: dict[str, Any] | None,
    passes: PassOptions | None = None,
) -> tuple[Engine, Any]:
    """Load a checkpoint as the wrapper does.

    Args:
        path: Folder or asset.
        block_length: Tokens of a block, of a masked diffusion model.
        num_steps: Denoising steps of one generation, of a masked diffusion model.
        scaling: RoPE scaling, or None.
        passes: What passes give up of the exact arithmetic; nothing by default.

    Returns:
        The engine and the tokenizer.
    """
    folder, device = resolve_path(path), choose_device(None)
    config, tokenizer = read_model_config(folder), load_tokenizer(folder, {})
    family = find_family(config, path, None)
    diffusion = family.generates_by == "masked_diffusion"
    sampler = {"block_length": block_length, "num_steps": num_steps} if diffusion else None
    request = LoadRequest(
        path=folder,
        config=config,
        tokenizer=tokenizer,
        rope_scaling=parse_rope_scaling(scaling),
        settings=SamplerSettings(sampler, family.defaults()),
        dtype=choose_dtype(None, device),
        device=device,
        attention_backend="auto",
        passes=passes or PassOptions(),
    )
    family.check(request)
    engine = family.load(request)
    engine.finish_loading()
    return engine, tokenizer


def count_hits(engine: Engine, tokenizer: Any, samples: list[dict[str, str]], data: str) -> int:
    """Return how many answers hold their keyword; all samples are one batch."""
    prompts = [tokenizer(sample["prompt"])["input_ids"] for sample in samples]
    generations = engine.generate(prompts, max_new_tokens=DATA[data][2])
    answers = [
        tokenizer.decode(generation.token_ids, skip_special_tokens=True)
        for generation in generations
    ]
    return sum(s["keyword"] in answer for s, answer in zip(samples, answers, strict=True))


def main() -> None:
    """Run the grid and write the record."""
    parser = argparse.ArgumentParser(description="Needle grid of one checkpoint.")
    parser.add_argument("checkpoint", help="a folder or asset:NAME")
    parser.add_argument("--data", default="embedded", choices=list(DATA))
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384]
    )
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--steps", type=int, help="denoising steps; else as the docs' figures")
    add_scaling_option(parser)
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--record", type=Path, default=ROOT / "needle_grid.json")
    given = parser.parse_args()
    scaling = read_scaling(given)
    grid = [(length, depth) for length in given.lengths for depth in given.depths]
    tasks = [(given.data, given.checkpoint, *cell, given.samples) for cell in grid]
    *_, new_tokens, usual = DATA[given.data]
    steps = usual if given.steps is None else given.steps
    engine, tokenizer = load_engine(given.checkpoint, new_tokens, steps, scaling)
    hits: dict[str, dict[str, int]] = {str(length): {} for length in given.lengths}
    start = time.perf_counter()
    with ProcessPoolExecutor(given.workers) as pool:
        for (length, depth), samples in zip(grid, pool.map(make_cell, tasks), strict=True):
            hits[str(length)][str(depth)] = count_hits(engine, tokenizer, samples, given.data)
            if depth == given.depths[-1]:
                row = hits[str(length)]
                mean = 100 * sum(row.values()) / (given.samples * len(row))
                lowest = 100 * min(row.values()) / given.samples
                print(
                    f"{length:>7} tokens: mean {mean:5.1f} %, lowest depth {lowest:5.1f} %",
                    flush=True,
                )
                record = {
                    **describe_run(),
                    **{"checkpoint": given.checkpoint, "data": given.data, "scaling": scaling},
                    **{"steps": steps, "samples_a_cell": given.samples, "hits": hits},
                    "seconds": round(time.perf_counter() - start, 1),
                }
                write_record(given.record, record)
    print(f"wrote {given.record}")


if __name__ == "__main__":
    exit_on_error(main)
