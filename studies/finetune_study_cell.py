"""Trains and measures one cell of the study of post-training."""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from answering import Answerer, score_set
from context_perplexity import HELD_OUT_SEED, measure_contexts, read_text
from finetune_study_report import TRAINED, target
from prompt_sets import PromptPlan, read_set
from recording import describe_device

from opencompass_llada.finetune.recipe import Recipe, TextSource
from opencompass_llada.finetune.recipe_file import parse_recipe
from opencompass_llada.finetune.trainer import Trainer

TOKENS_A_STEP = 131072
HELD_OUT = TextSource(generated_seed=HELD_OUT_SEED, num_documents=60)
TARGETS = 64


def prompt_plans(cell: dict[str, Any], given: argparse.Namespace) -> list[PromptPlan]:
    """Return the prompts that a cell is measured with."""
    end = target(cell)
    # RULER's long answers cost most of the time at 16,384 tokens: its ends alone.
    lengths = [("ruler", length, given.ruler_samples) for length in (TRAINED, end)]
    lengths += [("needle", length, given.samples) for length in (TRAINED, end // 2, end)]
    lengths.append(("needle", 2 * end, given.far_samples or given.samples))
    return [
        PromptPlan(kind=kind, length=length, samples=samples, checkpoint=given.init_from)
        for kind, length, samples in lengths
        if samples
    ]


def perplexity_lengths(cell: dict[str, Any]) -> list[int]:
    """Return the context lengths that a cell's perplexity is measured at."""
    length = target(cell)
    return sorted({TRAINED, length // 4, length, 2 * length})


def make_recipe(cell: dict[str, Any], folder: Path, given: argparse.Namespace) -> Recipe:
    """Return the recipe of a cell."""
    length = target(cell)
    scaling = {"type": cell["scaling"]}
    if cell["scaling"] != "none":
        scaling["target_length"] = length
    rows = max(1, TOKENS_A_STEP // length) if not given.tiny else 1
    steps = 1 if given.tiny else max(1, cell["planned_tokens"] // (rows * length))
    text = [{"generated_seed": 1, "num_documents": 20 if given.tiny else 3000}]
    if given.text:
        text.append({"paths": given.text, "text_field": given.text_field})
    return parse_recipe(
        {
            "output_dir": str(folder),
            "init_from": given.init_from,
            "rope_scaling": scaling,
            "strategy": cell["strategy"],
            "lora": {"rank": 16, "alpha": 32} if cell["method"] == "lora" else None,
            "text": text,
            "cache_dir": str(given.prompts / "tokens"),
            "phases": [{"sequence_length": length, "num_steps": steps, "rows_per_step": rows}],
            "retrieval_share": given.retrieval_share,
            "continuation_share": given.continuation_share,
            "learning_rate": cell["learning_rate"],
            "warmup_steps": min(100, steps // 10),
            "num_workers": 0 if given.tiny else given.num_workers,
            "compile": not given.tiny,
            "probe_every": 10**6,
            "keep_last": 1,
            "seed": cell["seed"],
            # Everything is measured afterwards, once, outside the time of training.
            "evaluation": {"retrieval_rows": 0},
        }
    )


def run_cell(cell: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Return a cell with its figures; ``seconds`` says where the time went."""
    folder = Path(tempfile.mkdtemp(prefix="finetune-study-"))
    clock = [("", time.perf_counter())]
    try:
        trainer = Trainer(make_recipe(cell, folder / "run", given))
        clock.append(("start", time.perf_counter()))
        final = trainer.train()
        clock.append(("train", time.perf_counter()))
        row = cell | {"steps": trainer.step, "tokens": trainer.tokens_seen}
        row["loss"] = trainer.history[-1]["loss"]
        tokens, cache = trainer.tokens, given.prompts / "tokens"
        del trainer
        free_memory()
        model = Answerer(str(final), given.batch_tokens)
        row |= {"needle": {}, "ruler": {}}
        for plan in prompt_plans(cell, given):
            made = read_set(plan.path(given.prompts))
            row[plan.kind][str(plan.length)] = score_set(model, made, plan.kind)
            clock.append((plan.kind, time.perf_counter()))
        row["perplexity"] = measure_contexts(
            model.engine,
            read_text(tokens, HELD_OUT, cache).tokens,
            perplexity_lengths(cell),
            targets=TARGETS,
            texts=2 if given.tiny else 32,
            draws=4 if given.tiny else given.draws,
            batch_tokens=given.batch_tokens,
        )
        clock.append(("perplexity", time.perf_counter()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds: dict[str, float] = defaultdict(float)
    for (_, before), (name, after) in zip(clock, clock[1:], strict=False):
        seconds[name] += after - before
    row |= {"minutes": seconds["train"] / 60, "processes": given.processes}
    return row | {"seconds": dict(seconds), "device": describe_device()}


def free_memory() -> None:
    """Give the card's memory back to processes beside this one, and forget what was compiled.

    A process compiles the same function once a cell, and torch stops compiling it after eight.
    """
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
