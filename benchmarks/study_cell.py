"""One cell of the study of post-training: its recipe, its training and its measurement.

Which cells there are and where their figures go is `finetune_study`'s business.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from context_perplexity import HELD_OUT_SEED, measure_contexts, read_text
from needle_grid import load_engine
from recording import describe_device
from study_axes import TRAINED
from study_prompts import Prompt, PromptPlan, PromptSet, read_set

from opencompass_llada.benchmarks.ruler.prompts import TASKS
from opencompass_llada.benchmarks.ruler.scoring import MATCHES
from opencompass_llada.engines import MaskedDiffusionEngine, SamplerSettings
from opencompass_llada.finetune.recipe import Recipe, TextSource
from opencompass_llada.finetune.recipe_file import parse_recipe
from opencompass_llada.finetune.trainer import Trainer
from opencompass_llada.prompting.encode import PromptEncoder

TOKENS_A_STEP = 131072
#: As tiny-llada's figures are made: blocks of 16, four tokens a step.
BLOCK, TOKENS_A_PASS = 16, 4
HELD_OUT = TextSource(generated_seed=HELD_OUT_SEED, num_documents=60)
TARGETS = 64


def target_length(cell: dict[str, Any]) -> int:
    """Return the length that a cell is trained to, in tokens."""
    return TRAINED * int(cell["factor"])


def prompt_plans(cell: dict[str, Any], given: argparse.Namespace) -> list[PromptPlan]:
    """Return the prompts that a cell is measured with."""
    target = target_length(cell)
    # RULER's long answers cost most of the time at 16,384 tokens: its ends alone.
    lengths = [("ruler", length, given.ruler_samples) for length in (TRAINED, target)]
    lengths += [("needle", length, given.samples) for length in (TRAINED, target // 2, target)]
    lengths.append(("needle", 2 * target, given.far_samples or given.samples))
    return [
        PromptPlan(kind=kind, length=length, samples=samples, checkpoint=given.init_from)
        for kind, length, samples in lengths
        if samples
    ]


def perplexity_lengths(cell: dict[str, Any]) -> list[int]:
    """Return the context lengths that a cell's perplexity is measured at."""
    target = target_length(cell)
    return sorted({TRAINED, target // 4, target, 2 * target})


def make_recipe(cell: dict[str, Any], folder: Path, given: argparse.Namespace) -> Recipe:
    """Return the recipe of a cell."""
    length = target_length(cell)
    scaling = {"type": cell["scaling"]}
    if cell["scaling"] != "none":
        scaling["target_length"] = length
    rows = max(1, TOKENS_A_STEP // length) if not given.tiny else 1
    steps = 1 if given.tiny else max(1, cell["planned_tokens"] // (rows * length))
    text: list[dict[str, Any]] = [
        {"generated_seed": 1, "num_documents": 20 if given.tiny else 3000}
    ]
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


class Answerer:
    """A checkpoint that answers prompts in batches."""

    def __init__(
        self, folder: str, batch_tokens: int, scaling: dict[str, Any] | None = None
    ) -> None:
        """Load it.

        Args:
            folder: The checkpoint.
            batch_tokens: Most tokens of a batch, prompts and answers; one prompt always fits.
            scaling: RoPE scaling on top of the checkpoint's own.
        """
        self.engine, tokenizer = load_engine(folder, BLOCK, TOKENS_A_PASS, scaling)
        if not isinstance(self.engine, MaskedDiffusionEngine):
            raise ValueError(
                f"{folder} is no masked diffusion model, whose sampler the study measures with; "
                "give a checkpoint of LLaDA's format."
            )
        self.encoder = PromptEncoder(tokenizer, self.engine.special_tokens.mask_token_id)
        self.batch_tokens = batch_tokens
        self._engines: dict[int, MaskedDiffusionEngine] = {}

    def engine_for(self, new_tokens: int) -> MaskedDiffusionEngine:
        """Return the engine for one length of answers: the steps go with it."""
        if new_tokens not in self._engines:
            steps = -(-new_tokens // BLOCK) * BLOCK // TOKENS_A_PASS
            settings = SamplerSettings({"block_length": BLOCK, "num_steps": steps})
            self._engines[new_tokens] = MaskedDiffusionEngine(
                self.engine.model, settings, self.engine.special_tokens
            )
        return self._engines[new_tokens]

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return the text generated after each prompt, in order."""
        answers = [""] * len(prompts)
        for places in token_batches(prompts, self.batch_tokens):
            new_tokens = prompts[places[0]].new_tokens
            ids = [prompts[place].token_ids.tolist() for place in places]
            made = self.engine_for(new_tokens).generate(ids, max_new_tokens=new_tokens)
            for place, generation in zip(places, made, strict=True):
                answers[place] = self.encoder.decode(generation.token_ids)
        return answers


def token_batches(prompts: Sequence[Prompt], most: int) -> list[list[int]]:
    """Return places of prompts that go together: one answer length, rows x longest <= most."""
    sizes = [(p.new_tokens, len(p.token_ids) + p.new_tokens) for p in prompts]
    batches: list[list[int]] = []
    for place in sorted(range(len(prompts)), key=lambda place: sizes[place]):
        last = batches[-1] if batches else None
        # Sorted by length: the newest is the longest.
        alike = last is not None and sizes[last[0]][0] == sizes[place][0]
        if last is not None and alike and (len(last) + 1) * sizes[place][1] <= most:
            last.append(place)
        else:
            batches.append([place])
    return batches


def score_set(model: Answerer, made: PromptSet, kind: str) -> dict[str, float | None]:
    """Return percent by depth or task; None for a task that does not fit the length."""
    scores: dict[str, list[float]] = defaultdict(list)
    for prompt, answer in zip(made.prompts, model.answer(made.prompts), strict=True):
        if kind == "needle":
            found = float(prompt.answers[0] in answer)
        else:
            found = MATCHES[TASKS[prompt.group].match](answer, prompt.answers)
        scores[prompt.group].append(found)
    figures: dict[str, float | None] = {
        group: 100 * sum(found) / len(found) for group, found in scores.items()
    }
    return figures | dict.fromkeys(made.unfit)


def run_cell(cell: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one cell.

    Args:
        cell: What to train.
        given: The study's arguments.

    Returns:
        The cell with its figures; ``seconds`` says where the time went.
    """
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
