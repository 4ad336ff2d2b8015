"""Memory and time of an optimiser step: float32, plain bfloat16, and bfloat16 in two halves.

    python benchmarks/optimizer_step.py --record benchmarks/records/optimizer_step_h200.json
    python benchmarks/optimizer_step.py --tiny        # a CPU, seconds: proves the script

Random weights and gradients of the shapes of LLaDA-8B's tensors, the rows of one process of
``--processes`` (FSDP2 shares them evenly); no network, no communication. Memory is what weights,
gradients and moments take, and the peak in a step above that; ratios are to float32. A kind that
runs out of memory is recorded as such.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recording import describe_run, write_record

from opencompass_llada.finetune.adamw import Moments, SplitAdamW
from opencompass_llada.networks import LLaDAConfig, LLaDAForMaskedDiffusion

LLADA_8B = {"d_model": 4096, "n_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288}
TINY = {"d_model": 64, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 96}
Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
RATE, BETAS = 2e-5, (0.9, 0.95)


def plain(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return torch's fused AdamW."""
    return torch.optim.AdamW(groups, lr=RATE, betas=BETAS, fused=True)


def split(moments: Moments, *, compiled: bool) -> Make:
    """Return what makes this package's."""
    return lambda groups: SplitAdamW(
        groups, lr=RATE, betas=BETAS, moments=moments, seed=0, compiled=compiled
    )


#: Kind -> dtype of weights and gradients, what makes the optimiser. float32 is first.
KINDS: dict[str, tuple[torch.dtype, Make]] = {
    "float32, fused": (torch.float32, plain),
    "bfloat16 weights and moments, fused": (torch.bfloat16, plain),
    **{
        f"bfloat16, moments {moments}, {'compiled' if compiled else 'not compiled'}": (
            torch.bfloat16,
            split(moments, compiled=compiled),  # type: ignore[arg-type]
        )
        for compiled in (True, False)
        for moments in ("float32", "bfloat16", "8bit")
    },
}


def shapes_of(*, tiny: bool, processes: int) -> list[torch.Size]:
    """Return the shapes of one process's parts of all weights."""
    special = dict.fromkeys(("mask_token_id", "eos_token_id", "pad_token_id"), 1)
    sizes = {**(TINY if tiny else LLADA_8B), "vocab_size": 300 if tiny else 126464}
    with torch.device("meta"):
        model = LLaDAForMaskedDiffusion(LLaDAConfig(**sizes, max_sequence_length=256, **special))
    return [
        torch.Size((-(-parameter.shape[0] // processes), *parameter.shape[1:]))
        for parameter in model.parameters()
    ]


def measure(
    kind: str, shapes: list[torch.Size], device: torch.device, steps: int
) -> dict[str, Any]:
    """Take steps with one kind; the first ones, which compile and fill, are not timed."""
    dtype, make = KINDS[kind]
    on_cuda = device.type == "cuda"
    torch._dynamo.reset()  # the kinds share one function, of which so many variants are kept
    gc.collect()
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"kind": kind, "parameters": sum(shape.numel() for shape in shapes)}
    try:
        weights = []
        for shape in shapes:
            weight = torch.nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
            torch.nn.init.normal_(weight, std=0.02)
            weight.grad = torch.randn(shape, dtype=dtype, device=device).mul_(1e-3)
            weights.append(weight)
        groups = [
            {"params": [w for w in weights if (w.dim() > 1) == matrix], "weight_decay": decay}
            for matrix, decay in ((True, 0.1), (False, 0.0))
        ]
        optimizer = make(groups)
        start = time.perf_counter()
        for _ in range(2):
            optimizer.step()
        if on_cuda:
            torch.cuda.synchronize()
        row["seconds_of_first_two_steps"] = time.perf_counter() - start
        tensors = [each for weight in weights for each in optimizer.state[weight].values()]
        tensors = [each for each in tensors if torch.is_tensor(each) and each.dim()]
        held = sum(each.nbytes for each in (*weights, *weights, *tensors))
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            optimizer.step()
            if on_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    except torch.OutOfMemoryError as error:
        return row | {"problem": str(error).partition("\n")[0]}
    peak = torch.cuda.max_memory_allocated() if on_cuda else None
    return row | {
        "seconds_a_step": min(seconds),
        "held_gb": held / 1e9,
        "held_bytes_a_weight": held / row["parameters"],
        "peak_above_held_gb": None if peak is None else (peak - held) / 1e9,
    }


def main() -> None:
    """Measure each kind and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2, help="whose one part is measured")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tiny", action="store_true", help="a tiny network's shapes")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes = shapes_of(tiny=options.tiny, processes=options.processes)
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        row = measure(kind, shapes, device, options.steps)
        first = rows[0] if rows else row
        rows.append(row)
        if "problem" in row or "problem" in first:
            print(f"{kind:<45} {row.get('problem', row)}", flush=True)
            continue
        row["time_ratio"] = row["seconds_a_step"] / first["seconds_a_step"]
        row["memory_ratio"] = row["held_gb"] / first["held_gb"]
        peak = row["peak_above_held_gb"]
        print(
            f"{kind:<45} {row['held_bytes_a_weight']:.2f} bytes a weight ({row['held_gb']:.2f} GB, "
            f"{row['memory_ratio']:.2f} of the first), in a step "
            f"{'-' if peak is None else f'{peak:.2f}'} GB more, "
            f"{1e3 * row['seconds_a_step']:.1f} ms ({row['time_ratio']:.2f} of the first)",
            flush=True,
        )
    if options.record is not None:
        write_record(
            options.record, describe_run() | {"processes": options.processes, "rows": rows}
        )


if __name__ == "__main__":
    main()
