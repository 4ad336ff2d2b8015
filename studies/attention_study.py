"""One question, three attentions: causal, block-causal and bidirectional networks trained alike.

    python studies/attention_study.py outputs/attention_study --record attention_study.json
    python studies/attention_study.py outputs/tiny --tiny        # proves it on a CPU

Every cell (an attention and a seed) trains tiny-llada's network on the rows of
`tiny_models/tiny_pretrain.yaml` in the same order, as many steps; who sees whom and the objective
that goes with it are what differs. All but the causal network of a seed start from the same
weights, that one from others of the same distribution. Measured are needles by depth and length,
RULER, perplexity, each with and without ``ntk``, and how many forward passes a token takes. Cells
are processes, several at a time and spread over the GPUs; one that the folder holds is not run
again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from answering import Answerer, score_answers, score_set  # noqa: E402
from context_perplexity import HELD_OUT_SEED, measure_contexts, read_text  # noqa: E402
from needle_grid import load_engine  # noqa: E402
from prompt_sets import PromptPlan, prepare_sets, read_set  # noqa: E402
from recording import describe_run, exit_on_error, write_record  # noqa: E402

from opencompass_llada.assets import resolve_path  # noqa: E402
from opencompass_llada.devices import choose_device, choose_dtype  # noqa: E402
from opencompass_llada.engines import (  # noqa: E402
    Engine,
    MaskedDiffusionEngine,
    SamplerSettings,
)
from opencompass_llada.families import find_family  # noqa: E402
from opencompass_llada.finetune.network import TRAINED  # noqa: E402
from opencompass_llada.finetune.recipe import Recipe, TextSource  # noqa: E402
from opencompass_llada.finetune.recipe_file import load_recipe  # noqa: E402
from opencompass_llada.finetune.tokenizing import tokenize_source  # noqa: E402
from opencompass_llada.finetune.tokens import make_tokenizer  # noqa: E402
from opencompass_llada.finetune.trainer import Trainer  # noqa: E402
from opencompass_llada.networks import (  # noqa: E402
    LLaDAConfig,
    LLaDAForMaskedDiffusion,
    load_checkpoint,
    read_model_config,
)
from opencompass_llada.networks.attention_pattern import FULL, Blocks  # noqa: E402
from opencompass_llada.prompting.encode import load_tokenizer  # noqa: E402
from opencompass_llada.rope.methods import parse_rope_scaling  # noqa: E402
from opencompass_llada.runs.hashes import hash_file  # noqa: E402

#: Each attention's objective, and the tokens of a block where it has blocks.
ATTENTIONS: dict[str, tuple[str, int | None]] = {
    "causal": ("autoregressive", None),
    "block 4": ("block_diffusion", 4),
    "block 16": ("block_diffusion", 16),
    "block 64": ("block_diffusion", 64),
    "bidirectional": ("masked_diffusion", None),
}
TRAINED_LENGTH = 512
SHORT_LENGTH = 128  # of the rows of the first half of the steps
SCALED_TO = 2048
SHAPE = "asset:tiny-llada"  # whose sizes and tokenizer all cells have
HELD_OUT = TextSource(generated_seed=HELD_OUT_SEED, num_documents=60)
#: Samplers whose forward passes are counted: tokens a pass, and the threshold of acceptance.
SAMPLERS: dict[str, tuple[int, float | None]] = {
    "1 token a pass": (1, None),
    "4 tokens a pass": (4, None),
    "threshold 0.9": (1, 0.9),
}
#: Arguments that decide what a cell's figures mean; a folder holds cells of one value of each.
SETTINGS = ("steps", "step_tokens", "lengths", "ruler_lengths", "samples", "ruler_samples", "tiny")
Cell = tuple[str, int]  # an attention and a seed


class StudyAnswerer(Answerer):
    """Answers by one of the samplers, in the network's own blocks."""

    def __init__(
        self, engine: Engine, tokenizer: Any, batch_tokens: int, sampler: str = "1 token a pass"
    ) -> None:
        """Answer with an engine."""
        super().__init__(engine, tokenizer, batch_tokens)
        self._tokens_a_pass, self._threshold = SAMPLERS[sampler]

    def options_for(self, new_tokens: int) -> dict[str, Any]:
        """Return the sampler's options: as many steps as tokens, or a part of them."""
        assert isinstance(self.engine, MaskedDiffusionEngine)
        pattern = self.engine.model.attention_pattern
        causal = isinstance(pattern, Blocks)
        block = pattern.block_length if isinstance(pattern, Blocks) else 16
        steps = -(-new_tokens // block) * block // self._tokens_a_pass
        options: dict[str, Any] = {"block_length": None if causal else block, "num_steps": steps}
        if self._threshold is not None:
            options["acceptance"] = {"type": "threshold", "value": self._threshold}
        return options


def folder_of(cell: Cell, folder: Path) -> Path:
    """Return the folder of a cell's training."""
    attention, seed = cell
    return folder / f"{attention.replace(' ', '-')}-{seed}"


def make_recipe(cell: Cell, given: argparse.Namespace) -> Recipe:
    """Return the recipe of a cell."""
    attention, seed = cell
    objective, block_length = ATTENTIONS[attention]
    short = given.steps // 2
    phases = [
        {"sequence_length": length, "num_steps": steps, "rows_per_step": rows}
        for length, steps in ((SHORT_LENGTH, short), (TRAINED_LENGTH, given.steps - short))
        if steps and (rows := given.step_tokens // length)
    ]
    values = {
        "output_dir": folder_of(cell, given.folder),
        "objective": objective,
        "block_length": block_length,
        "phases": phases,
        "seed": seed,
        "num_workers": 0 if given.tiny else given.workers,
        "compile": not given.tiny,
        "cache_dir": given.folder / "tokens",
        "probe_every": 1000,
        "keep_last": 1,
        "evaluation": {"retrieval_rows": 0},  # everything is measured afterwards
    }
    if given.tiny:
        values["text"] = [{"generated_seed": 1, "num_documents": 20}]
    if attention != "causal":
        values |= {"init_from": start_of(seed, given.folder), "model": {}, "vocab_size": None}
    overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]
    return load_recipe(ROOT / "tiny_models" / "tiny_pretrain.yaml", overrides)


def start_of(seed: int, folder: Path) -> Path:
    """Return the folder of the weights that the diffusion models of a seed start from."""
    return folder / f"start-{seed}"


def write_start(seed: int, folder: Path) -> None:
    """Write random weights of tiny-llada's shape.

    The causal twin, whose trainer makes its own, draws the same distribution.
    """
    shape, target = Path(resolve_path(SHAPE)), start_of(seed, folder)
    if (target / "config.json").is_file():
        return
    target.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = LLaDAForMaskedDiffusion(LLaDAConfig.from_dict(read_model_config(shape)))
    save_file(network.state_dict(), target / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(shape / name, target / name)


def prompt_plans(given: argparse.Namespace) -> list[PromptPlan]:
    """Return all prompts; every cell answers the same."""
    sets = [("needle", length, given.samples) for length in given.lengths]
    sets += [("ruler", length, given.ruler_samples) for length in given.ruler_lengths]
    return [
        PromptPlan(kind=kind, length=length, samples=samples, checkpoint=SHAPE)
        for kind, length, samples in sets
        if samples
    ]


def open_engine(cell: Cell, path: Path, scaling: dict[str, Any] | None) -> tuple[Engine, Any]:
    """Load a cell's checkpoint: config.json of LLaDA's format does not know of blocks."""
    objective, block_length = ATTENTIONS[cell[0]]
    if objective == "autoregressive":
        return load_engine(str(path), 1, 1, scaling)
    device, config = choose_device(None), read_model_config(path)
    tokenizer, family = load_tokenizer(str(path), {}), find_family(config, str(path), None)
    pattern = FULL if block_length is None else Blocks(block_length)
    model = load_checkpoint(
        path,
        rope_scaling=parse_rope_scaling(scaling),
        dtype=choose_dtype(None, device),
        device=device,
        attention_pattern=pattern,
    )
    tokens = family.special_tokens(str(path), config, tokenizer)
    settings = SamplerSettings({}).for_pattern(pattern)
    return MaskedDiffusionEngine(model, settings, tokens), tokenizer


def measure_cell(cell: Cell, path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return a checkpoint's figures by scaling, and its passes a token by sampler."""
    figures: dict[str, Any] = {}
    text = make_held_out(given)
    for name, scaling in (("none", None), ("ntk", {"type": "ntk", "target_length": SCALED_TO})):
        engine, tokenizer = open_engine(cell, path, scaling)
        model = StudyAnswerer(engine, tokenizer, given.batch_tokens)
        found: dict[str, Any] = {"needle": {}, "ruler": {}}
        for plan in prompt_plans(given):
            made = read_set(plan.path(given.folder / "prompts"))
            found[plan.kind][str(plan.length)] = score_set(model, made, plan.kind)
        found["perplexity"] = measure_contexts(
            engine,
            text,
            given.lengths,
            targets=64,
            texts=2 if given.tiny else 32,
            draws=4 if given.tiny else 16,
            batch_tokens=given.batch_tokens,
        )
        figures[name] = found
        if scaling is None:
            figures["passes"] = count_passes(engine, tokenizer, given)
    return figures


def count_passes(engine: Engine, tokenizer: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Return passes a token and percent found at the trained length, by sampler.

    Needles alone (16 tokens), and RULER's tasks; a causal model's passes are one a token.
    """
    found = {}
    plans = [plan for plan in prompt_plans(given) if plan.length == TRAINED_LENGTH]
    for sampler in SAMPLERS if isinstance(engine, MaskedDiffusionEngine) else ["1 token a pass"]:
        model = StudyAnswerer(engine, tokenizer, given.batch_tokens, sampler)
        found[sampler] = {}
        for plan in plans:
            made = read_set(plan.path(given.folder / "prompts"))
            generations = model.generate(made.prompts)
            answers = [model.encoder.decode(each.token_ids) for each in generations]
            scores = score_answers(made, answers, plan.kind).values()
            # Those of the prompt are included.
            passes = sum(each.num_forward_passes for each in generations)
            found[sampler][plan.kind] = {
                "passes_a_token": passes / sum(len(each.token_ids) for each in generations),
                "score": statistics.fmean(score for score in scores if score is not None),
            }
    return found


def make_held_out(given: argparse.Namespace) -> Any:
    """Return the tokens of text that nothing is trained on, [tokens]."""
    tokens = make_tokenizer(make_recipe(("bidirectional", 0), given))
    return read_text(tokens, HELD_OUT, given.folder / "tokens").tokens


def run_cell(cell: Cell, given: argparse.Namespace) -> None:
    """Train and measure one cell, and write its file."""
    clock = [time.perf_counter()]
    with mock.patch.dict(TRAINED["block_diffusion"], llada=LLaDAConfig):  # for this study alone
        trainer = Trainer(make_recipe(cell, given))
        final = trainer.train()
    if not given.tiny and hash_file(Path(resolve_path(SHAPE), "tokenizer.json")) != hash_file(
        final / "tokenizer.json"
    ):
        raise ValueError(f"{cell} has another tokenizer than {SHAPE}, whose tokens prompts are")
    clock.append(time.perf_counter())
    attention, seed = cell
    row = {"attention": attention, "seed": seed, "settings": settings_of(given)}
    row |= {"steps": trainer.step}
    row |= {"tokens": trainer.tokens_seen, "loss": trainer.history[-1]["loss"]}
    row |= {"parameters": sum(p.numel() for p in trainer.model.parameters())}
    del trainer
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    row |= measure_cell(cell, final, given)
    clock.append(time.perf_counter())
    row["seconds"] = {"train": clock[1] - clock[0], "measure": clock[2] - clock[1]}
    write_record(cell_file(cell, given), row)


def cell_file(cell: Cell, given: argparse.Namespace) -> Path:
    """Return where a cell's figures are."""
    return given.folder / "cells" / f"{folder_of(cell, Path()).name}.json"


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that decide what figures mean."""
    return {name: getattr(given, name) for name in SETTINGS}


def read_cells(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of the cells that the folder holds.

    Raises:
        ValueError: If a cell was made with other settings.
    """
    files = [cell_file(cell, given) for cell in list_cells(given)]
    rows = []
    for file in files:
        if not file.is_file():
            continue
        rows.append(json.loads(file.read_text(encoding="utf-8")))
        made, asked = rows[-1].get("settings"), settings_of(given)
        if made != asked:
            raise ValueError(
                f"{file} was made with {made}, and this call has {asked}; name another folder, or "
                "give the same settings."
            )
    return rows


def prepare(given: argparse.Namespace) -> None:
    """Make prompts, tokens and first weights once, before cells run at once."""
    for seed in given.seeds:
        write_start(seed, given.folder)
    write_start(0, given.folder)
    prepare_sets(prompt_plans(given), given.folder / "prompts", os.cpu_count() or 1)
    recipe = make_recipe(("bidirectional", 0), given)
    tokens = make_tokenizer(recipe)
    for source in (*recipe.text, HELD_OUT):
        tokenize_source(source, tokens, given.folder / "tokens")


def run_cells(cells: Sequence[Cell], given: argparse.Namespace) -> list[Cell]:
    """Run the cells that the folder lacks, ``processes`` at a time; return those that failed."""
    waiting = [cell for cell in cells if not cell_file(cell, given).is_file()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
    running: dict[subprocess.Popen[bytes], tuple[Cell, str]] = {}
    failed, free = [], [(gpus or [""])[n % max(1, len(gpus))] for n in range(given.processes)]
    try:
        while waiting or running:
            while waiting and free:
                cell, gpu = waiting.pop(0), free.pop(0)
                running[_start(cell, gpu, given)] = (cell, gpu)
            time.sleep(1)
            for process in [process for process in running if process.poll() is not None]:
                cell, gpu = running.pop(process)
                free.append(gpu)
                print(f"{cell}: exit status {process.returncode}", flush=True)
                if process.returncode:
                    failed.append(cell)
    finally:
        for process in running:  # their trainers write a checkpoint, from which they go on
            process.terminate()
    return failed


def _start(cell: Cell, gpu: str, given: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start a cell's process on a GPU; its output goes to a file beside its folder."""
    command = [sys.executable, __file__, *sys.argv[1:], "--cell", cell[0], str(cell[1])]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "1"}
    with (given.folder / f"{folder_of(cell, Path()).name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def list_cells(given: argparse.Namespace) -> Iterator[Cell]:
    """Yield the grid, whole seeds first, the cells of most work first."""
    for seed in given.seeds:
        yield from ((attention, seed) for attention in reversed(ATTENTIONS))


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("folder", type=Path, help="kept: prompts, checkpoints and each cell's figures")
    add("--steps", type=int, default=3000, help="optimiser steps of each cell")
    add("--step-tokens", type=int, default=16384, help="trained on in each step")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add(
        "--lengths",
        type=int,
        nargs="+",
        default=[256, 512, 1024, 2048],
        help="of needles and texts",
    )
    add("--ruler-lengths", type=int, nargs="+", default=[512, 1024])
    add("--samples", type=int, default=20, help="needles a depth")
    add("--ruler-samples", type=int, default=10, help="samples a task; 0 for none")
    add("--processes", type=int, default=1, help="cells at a time")
    add("--workers", type=int, default=2, help="of each cell, that make rows")
    batch = 131072 if torch.cuda.is_available() else 16384
    add("--batch-tokens", type=int, default=batch, help="answered at once")
    add("--record", type=Path, default=Path("attention_study.json"))
    add("--tiny", action="store_true", help="a step and a sample of all")
    add("--cell", nargs=2, metavar=("ATTENTION", "SEED"), help="one cell, in this process")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the cells and join their figures."""
    given = make_parser().parse_args(arguments)
    if given.tiny:
        given.steps, given.samples, given.ruler_samples, given.step_tokens = 1, 1, 1, 1024
        given.lengths, given.ruler_lengths = [512], [512]
    if given.cell:
        run_cell((given.cell[0], int(given.cell[1])), given)
        return
    read_cells(given)  # what is wrong with the folder shows before anything is made
    prepare(given)
    failed = run_cells(list(list_cells(given)), given)
    rows = read_cells(given)
    write_record(given.record, describe_run() | {"settings": settings_of(given), "rows": rows})
    print(f"wrote {given.record}: {len(rows)} cells")
    if failed:
        raise ValueError(f"{failed} failed; their logs are in {given.folder}")


if __name__ == "__main__":
    exit_on_error(main)
