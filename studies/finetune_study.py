"""The study of post-training at tiny scale: scaling x strategy x full or adapters x length.

    python studies/finetune_study.py --scalings none ntk diffusion_ntk
        --strategies adaptive eod direct --factors 4 16 32 --methods full lora --seeds 0 1 2
        --prompts prompts --only-prompts
    (the same without --only-prompts) --part 0/4 --record study_0.json    # ... to 3/4, at once
    python studies/finetune_study.py --merge study_*.json --record study.json

Each cell post-trains tiny-llada (512 tokens) to 512 x factor tokens on the same number of tokens
and measures: needle in the embedded haystack by depth at 512, half the target, the target and twice
that, RULER's tasks at 512 and the target, perplexity of the same target tokens by context length
(512 is the short-context loss), and minutes. Cells that the record holds are not run again, failed
ones are. ``finetune_study_report.py`` makes tables of the record; ``--tiny`` proves this on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from answering import Answerer, score_set  # noqa: E402
from context_perplexity import HELD_OUT_SEED, measure_contexts, read_text  # noqa: E402
from finetune_study_report import GRID, SCALINGS, TRAINED, VARIANT, target  # noqa: E402
from prompt_sets import PromptPlan, prepare_sets, read_set  # noqa: E402
from recording import (  # noqa: E402
    FACTS,
    describe_device,
    describe_run,
    exit_on_error,
    read_rows,
    write_record,
)

from opencompass_llada.finetune.packing import STRATEGIES  # noqa: E402
from opencompass_llada.finetune.recipe import Recipe, TextSource  # noqa: E402
from opencompass_llada.finetune.recipe_file import parse_recipe  # noqa: E402
from opencompass_llada.finetune.tokenizing import tokenize_source  # noqa: E402
from opencompass_llada.finetune.tokens import make_tokenizer  # noqa: E402
from opencompass_llada.finetune.trainer import Trainer  # noqa: E402

TOKENS_A_STEP = 131072
HELD_OUT = TextSource(generated_seed=HELD_OUT_SEED, num_documents=60)
TARGETS = 64
Cell = dict[str, Any]  # what tells a cell of the grid from the others, and its figures once it ran
#: Arguments that decide what a figure means; one record holds one value of each.
SETTINGS = (
    *("init_from", "retrieval_share", "continuation_share", "text", "text_field"),
    *("samples", "far_samples", "ruler_samples", "draws", "tiny"),
)


def list_cells(given: argparse.Namespace) -> list[Cell]:
    """Return the grid in the order of running: whole seeds first, the longest rows first."""
    factors = sorted(given.factors, reverse=True)
    grid = itertools.product(given.seeds, factors, given.methods, given.strategies, given.scalings)
    rates = {"full": given.learning_rate, "lora": given.lora_learning_rate}
    return [
        dict(zip(GRID, (scaling, strategy, method, factor, seed), strict=True))
        | {"planned_tokens": given.tokens, "learning_rate": rates[method]}
        for seed, factor, method, strategy, scaling in grid
    ]


def identity(row: Cell) -> tuple[Any, ...]:
    """Return what tells a cell from the others."""
    return tuple(row[name] for name in (*GRID, *VARIANT))


def read_record(path: Path, settings: dict[str, Any], part: str | None) -> list[Cell]:
    """Return a record's rows; none where there is no record."""
    if not path.is_file():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["settings"] != settings:
        raise ValueError(
            f"{path} was made with {record['settings']}, and this call has {settings}; name "
            "another --record, or give the same settings."
        )
    if record["part"] != part:
        raise ValueError(
            f"{path} belongs to part {record['part']}, and this call is part {part}; each process "
            "needs a --record of its own."
        )
    return list(record["rows"])


def merge_records(paths: Sequence[Path]) -> dict[str, Any]:
    """Join the records of several parts; a finished cell goes before a failed one."""
    for path in paths:
        read_rows(path)  # says what is wrong with a file
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rows: dict[tuple[Any, ...], Cell] = {}
    for path, record in zip(paths, records, strict=True):
        if record["settings"] != records[0]["settings"]:
            raise ValueError(
                f"{path} was made with {record['settings']}, and {paths[0]} with "
                f"{records[0]['settings']}; records of different settings make no one record."
            )
        for row in record["rows"]:
            known = rows.setdefault(identity(row), row)
            if "error" in known:
                rows[identity(row)] = row
            elif "error" not in row and row != known:
                differing = [name for name in row if row[name] != known.get(name)]
                raise ValueError(
                    f"{path} holds other figures of {identity(row)} than a record before it "
                    f"({', '.join(differing)}): the cell was run twice. Leave one record out."
                )
    runs: list[dict[str, Any]] = []
    for record in records:
        made = record.get("runs") or [{name: record[name] for name in FACTS if name in record}]
        runs += [run for run in made if run not in runs]
    ordered = [rows[key] for key in sorted(rows, key=str)]
    return {"runs": runs, "settings": records[0]["settings"], "part": None, "rows": ordered}


def prompt_plans(cell: Cell, given: argparse.Namespace) -> list[PromptPlan]:
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


def perplexity_lengths(cell: Cell) -> list[int]:
    """Return the context lengths that a cell's perplexity is measured at."""
    length = target(cell)
    return sorted({TRAINED, length // 4, length, 2 * length})


def make_recipe(cell: Cell, folder: Path, given: argparse.Namespace) -> Recipe:
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
            "min_mask_ratio": 0.1,
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


def run_cell(cell: Cell, given: argparse.Namespace) -> Cell:
    """Return a cell with its figures; ``seconds`` says where the time went."""
    clock = [("", time.perf_counter())]
    with tempfile.TemporaryDirectory(
        prefix="finetune-study-", ignore_cleanup_errors=True
    ) as folder:
        trainer = Trainer(make_recipe(cell, Path(folder, "run"), given))
        clock.append(("start", time.perf_counter()))
        final = trainer.train()
        clock.append(("train", time.perf_counter()))
        row = cell | {"steps": trainer.step, "tokens": trainer.tokens_seen}
        row["loss"] = trainer.history[-1]["loss"]
        tokens, cache = trainer.tokens, given.prompts / "tokens"
        del trainer
        free_memory()
        model = Answerer.load(str(final), given.batch_tokens)
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
    seconds: dict[str, float] = defaultdict(float)
    for (_, before), (name, after) in itertools.pairwise(clock):
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


def prepare(cells: Sequence[Cell], given: argparse.Namespace) -> None:
    """Make the prompts and the tokens of all text that the folder lacks."""
    plans = dict.fromkeys(plan for cell in cells for plan in prompt_plans(cell, given))
    prepare_sets(list(plans), given.prompts, given.workers)
    recipe = make_recipe(cells[0], given.prompts, given)
    tokens = make_tokenizer(recipe)
    for source in (*recipe.text, HELD_OUT):
        tokenize_source(source, tokens, given.prompts / "tokens")


def run_cells(cells: Sequence[Cell], given: argparse.Namespace) -> None:
    """Run the cells that the record lacks, and write it after each."""
    settings = {name: getattr(given, name) for name in SETTINGS}
    rows = read_record(given.record, settings, given.part)
    start, longest = time.perf_counter(), 0.0
    for cell in cells:
        if any(identity(row) == identity(cell) and "error" not in row for row in rows):
            continue
        begun = time.perf_counter()
        if given.seconds is not None and begun - start + longest > given.seconds:
            print(f"no cell more in {given.seconds} s; the same command goes on", flush=True)
            return
        rows = [row for row in rows if identity(row) != identity(cell)]
        try:
            rows.append(run_cell(cell, given))
        except Exception as error:  # the cells after it are worth their time
            traceback.print_exc()
            rows.append(cell | {"error": f"{type(error).__name__}: {error}"[:2000]})
        free_memory()
        longest = max(longest, time.perf_counter() - begun)
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "ruler"}), flush=True)
        facts = describe_run()
        write_record(given.record, facts | {"settings": settings, "part": given.part, "rows": rows})


def read_part(text: str) -> str:
    """Check ``K/N``."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} must be K/N with K from 0 to N - 1: 0/4")
    return text


def read_factor(text: str) -> int:
    """Check a factor."""
    if not text.isdigit() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 2")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--scalings", nargs="+", default=["diffusion_ntk"], choices=SCALINGS)
    add("--strategies", nargs="+", default=["eod"], choices=list(STRATEGIES))
    add("--methods", nargs="+", default=["full"], choices=["full", "lora"])
    add("--factors", nargs="+", type=read_factor, default=[4])
    add("--seeds", nargs="+", type=int, default=[0])
    add("--init-from", default="asset:tiny-llada")
    add("--tokens", type=int, default=60_000_000, help="trained on, each cell")
    add("--learning-rate", type=float, default=1e-3)
    add("--lora-learning-rate", type=float, default=3e-3)
    add("--retrieval-share", type=float, default=0.5)
    add("--continuation-share", type=float, default=0.25)
    add("--text", nargs="*", default=[], help="globs of more training text")
    add("--text-field", default="text")
    add("--samples", type=int, default=40, help="needle samples a depth")
    add("--far-samples", type=int, help="of them at twice the target")
    add("--ruler-samples", type=int, default=25, help="samples a task; 0 for none")
    add("--draws", type=int, default=8, help="masks drawn at each text's target")
    add("--prompts", type=Path, default=Path("outputs/study_prompts"), help="folder kept")
    add("--only-prompts", action="store_true", help="fill the folder and end")
    add("--workers", type=int, default=os.cpu_count(), help="that make prompts")
    add("--num-workers", type=int, default=14, help="that make training rows")
    batch = 262144 if torch.cuda.is_available() else 16384
    add("--batch-tokens", type=int, default=batch, help="answered at once")
    add("--part", type=read_part, metavar="K/N", help="every Nth cell, from the Kth")
    add("--processes", type=int, default=1, help="that share the card: for GPU time")
    add("--seconds", type=float, help="begin no cell that would end after them")
    add("--merge", nargs="+", type=Path, metavar="RECORD", help="join and end")
    add("--record", type=Path, default=Path("finetune_study.json"))
    add("--tiny", action="store_true", help="one step and sample of all: minutes a cell on a CPU")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Make the prompts, run cells or merge records."""
    given = make_parser().parse_args(arguments)
    if given.tiny:
        given.samples = given.far_samples = given.ruler_samples = 1
    if given.merge:
        merged = merge_records(given.merge)
        write_record(given.record, merged)
        print(f"wrote {given.record}: {len(merged['rows'])} cells")
        return
    cells = list_cells(given)
    prepare(cells, given)
    if given.only_prompts:
        return
    part, _, parts = (given.part or "0/1").partition("/")
    run_cells(cells[int(part) :: int(parts)], given)


if __name__ == "__main__":
    exit_on_error(main)
