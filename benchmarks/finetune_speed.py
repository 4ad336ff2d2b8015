"""Speed and memory of training steps against the plan: tokens a second, MFU, peak memory.

    python benchmarks/finetune_speed.py --cases lora_32k lora_64k adaptive_64k direct_64k
    torchrun --nproc_per_node 2 benchmarks/finetune_speed.py --cases full_bf16_32k full_bf16_64k

LLaDA-8B's shape with random weights, random tokens, the real step: network, loss, backward,
clipping, AdamW. Each case states its plan, then takes warm-up and timed steps; one that runs out
of memory is recorded as such. ``adaptive_64k`` and ``direct_64k`` are rows of four 16K documents
under the two strategies. ``lora_32k_float8`` and its kin have the frozen weights in float8;
``kept`` and ``mlp_kept`` compute less again in the backward pass, by `keep_projections` and
`keep_mlp` (the last needs 141 GB). MFU counts attention's operations, by document. ``--tiny`` runs
everything on a CPU in seconds to prove the script.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from recording import describe_run, write_record  # noqa: E402

from opencompass_llada.finetune.network import place_network  # noqa: E402
from opencompass_llada.finetune.optimizer import build_optimizer  # noqa: E402
from opencompass_llada.finetune.parallel import (  # noqa: E402
    read_ranks,
    start_processes,
)
from opencompass_llada.finetune.recipe import Recipe  # noqa: E402
from opencompass_llada.finetune.recipe_file import parse_override, parse_recipe  # noqa: E402
from opencompass_llada.finetune.resources import (  # noqa: E402
    NetworkShape,
    peak_flops,
    plan_memory,
    step_flops,
)
from opencompass_llada.networks import LLaDAConfig, LLaDAForMaskedDiffusion  # noqa: E402
from opencompass_llada.processes import stop_processes  # noqa: E402

K = 1024
LORA = {"lora": {"rank": 64}, "keep_attention": True}
FLOAT8 = {"lora": {"rank": 64, "frozen_precision": "float8"}, "keep_attention": True}
KEPT = {"keep_projections": True, "mlp_tile": None}
BFLOAT16 = {"parameter_dtype": "bfloat16", "moments": "8bit"}
#: Case -> (row length, document length, changes of the recipe). Ranks share each row.
CASES: dict[str, tuple[int, int | None, dict[str, Any]]] = {
    "lora_32k": (32 * K, None, {**LORA, "mlp_tile": None}),
    "lora_32k_kept": (32 * K, None, {**LORA, **KEPT}),
    "lora_32k_float8": (32 * K, None, {**FLOAT8, "mlp_tile": None}),
    "lora_32k_float8_kept": (32 * K, None, {**FLOAT8, **KEPT}),
    "lora_32k_float8_mlp_kept": (32 * K, None, {**FLOAT8, **KEPT, "keep_mlp": 32}),
    "lora_64k": (64 * K, None, LORA),
    "lora_128k_offloaded": (
        128 * K,
        None,
        {**LORA, "keep_attention": False, "offload_checkpoints": True},
    ),
    "adaptive_64k": (64 * K, 16 * K, {**LORA, "strategy": "adaptive"}),
    "direct_64k": (64 * K, 16 * K, {**LORA, "strategy": "direct"}),
    "adaptive_64k_short": (64 * K, 2 * K, {**LORA, "strategy": "adaptive"}),
    "full_fp32_8k": (8 * K, None, {"keep_attention": True}),
    "full_fp32_16k": (16 * K, None, {}),
    "full_bf16_32k": (32 * K, None, {**BFLOAT16, "keep_attention": True, "mlp_tile": None}),
    "full_bf16_64k": (64 * K, None, {**BFLOAT16, "keep_attention": True}),
    "full_bf16_128k": (128 * K, None, BFLOAT16),
}
LLADA_8B = {"d_model": 4096, "n_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288}
TINY = {"d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 48}


def make_recipe(
    case: str, *, tiny: bool, compiled: bool, overrides: Sequence[str] = ()
) -> tuple[Recipe, int]:
    """Return a case's recipe, with some keys changed, and the length of its documents."""
    length, document, changes = CASES[case]
    divisor = 256 if tiny else 1
    length = length // divisor
    if tiny and "keep_mlp" in changes:
        changes = {**changes, "keep_mlp": TINY["n_layers"]}
    recipe = parse_recipe(
        {
            "output_dir": "unused",
            "init_from": "unused",  # never read: the weights are random
            "text": [{"generated_seed": 1, "num_documents": 1}],  # never read
            "phases": [{"sequence_length": length, "num_steps": 1, "rows_per_step": 1}],
            "strategy": "adaptive",
            "sequence_parallel": int(os.environ.get("WORLD_SIZE", "1")),
            "activation_checkpointing": True,
            "mlp_tile": 8192 // divisor,
            "loss_chunk": 4096 // divisor,
            "compile": compiled,
            **changes,
            **dict(parse_override(override) for override in overrides),
        }
    )
    return recipe, length if document is None else document // divisor


def make_batch(recipe: Recipe, document: int, step: int, device: torch.device) -> dict[str, Any]:
    """Return one row of random tokens, half of them masked on average."""
    length = recipe.trained_length
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 200, (1, length), generator=generator)
    ratio = 0.3 + 0.4 * (step % 2)
    targets = torch.rand(1, length, generator=generator) < ratio
    whole = recipe.strategy == "direct" or document == length
    return {
        "input_ids": ids.to(device),
        "targets": targets.to(device),
        "scale": (targets / (ratio * length)).to(device),
        "positions": None,
        "spans": None if whole else (document,) * (length // document),
    }


def random_weights(
    model: torch.nn.Module, device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield random weights by name, made on the device."""
    for name, parameter in model.named_parameters():
        if ".lora_" not in name and not name.endswith(".scales"):  # float8 brings its own
            value = torch.empty(parameter.shape, device=device)
            published = name.replace(".base_layer.", ".")
            yield published, value.fill_(1.0) if value.dim() == 1 else value.normal_(std=0.02)


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one case.

    Returns:
        What was planned and measured, or why it did not run.
    """
    recipe, document = make_recipe(
        case, tiny=arguments.tiny, compiled=arguments.compile, overrides=arguments.set
    )
    ranks = read_ranks(recipe)
    group = start_processes(ranks)
    device, on_cuda = ranks.device, ranks.device.type == "cuda"
    config = LLaDAConfig(
        **(TINY if arguments.tiny else LLADA_8B),
        vocab_size=300 if arguments.tiny else 126464,
        max_sequence_length=recipe.trained_length,
        mask_token_id=250,
        eos_token_id=251,
        pad_token_id=251,
    )
    with torch.device("meta"):
        model = LLaDAForMaskedDiffusion(config)
    shape = NetworkShape(model.config.shape, recipe.lora.rank if recipe.lora else 0)
    plan = plan_memory(recipe, shape, ranks.world_size, on_cuda=on_cuda)
    row: dict[str, Any] = {"case": case, "length": recipe.trained_length, "document": document}
    row |= {"processes": ranks.world_size, "planned_gb": plan.total / 1e9}
    row["plan"] = plan.describe()
    if on_cuda:
        torch._dynamo.reset()  # compiled code of the case before holds its network
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    problem = None
    try:
        network = place_network(model, recipe, ranks, random_weights(model, device), group)
        optimizer = build_optimizer(network, recipe)
        seconds, flops = [], 0.0
        for step in range(arguments.warmup + arguments.steps):
            batch = make_batch(recipe, document, step, device)
            start = time.perf_counter()
            loss = network(batch)
            (loss * ranks.world_size).backward()
            torch.nn.utils.clip_grad_norm_(
                [p for p in network.parameters() if p.grad is not None], 1.0
            )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            value = loss.item()  # waits for the device
            assert math.isfinite(value), value
            if step >= arguments.warmup:
                seconds.append(time.perf_counter() - start)
                flops += step_flops(
                    shape,
                    batch["spans"] or (recipe.trained_length,),
                    int(batch["targets"].sum()),
                )
    except torch.OutOfMemoryError as error:
        problem = str(error).partition("\n")[0]
    if ranks.any(problem is not None):
        return row | {"problem": problem or "another rank ran out of memory"}
    peak = peak_flops(torch.cuda.get_device_name()) if on_cuda else None
    memory = torch.cuda.max_memory_allocated() / 1e9 if on_cuda else None
    reserved = torch.cuda.max_memory_reserved() / 1e9 if on_cuda else None
    total = sum(seconds)
    return row | {
        "seconds_a_step": total / len(seconds),
        "tokens_per_second": recipe.trained_length * len(seconds) / total,
        "mfu": None if peak is None else flops / ranks.world_size / total / peak,
        "peak_allocated_gb": memory,
        "peak_reserved_gb": reserved,
        "recipe": dataclasses.asdict(recipe),
    }


def show(row: dict[str, Any]) -> str:
    """Return a line of the table."""
    if "problem" in row:
        return f"{row['case']:<20} planned {row['planned_gb']:6.1f} GB   {row['problem'][:80]}"
    mfu, memory = row["mfu"], row["peak_reserved_gb"]
    return (
        f"{row['case']:<20} planned {row['planned_gb']:6.1f} GB, "
        f"reserved {'-' if memory is None else f'{memory:.1f}'} GB, "
        f"{row['seconds_a_step']:8.3f} s a step, {row['tokens_per_second']:9.0f} tokens/s, "
        f"MFU {'-' if mfu is None else f'{100 * mfu:.1f} %'}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure the cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["lora_32k", "lora_64k"])
    parser.add_argument("--steps", type=int, default=3, help="timed steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--set", nargs="*", default=[], help="recipe keys, key=value")
    parser.add_argument("--tiny", action="store_true", help="tiny network, short rows")
    parser.add_argument("--record", type=Path, default=Path("finetune_speed.json"))
    options = parser.parse_args(arguments)
    rows = []
    for case in options.cases:
        row = measure(case, options)
        rows.append(row)
        if os.environ.get("RANK", "0") == "0":
            print(show(row), flush=True)
            record = describe_run() | {"rows": rows}
            write_record(options.record, record)
    stop_processes()


if __name__ == "__main__":
    main()
