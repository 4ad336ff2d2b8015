"""Answers to prompts of half a million tokens and more, on one GPU or split over several.

    python benchmarks/long_prompts.py --length 524288 --precision float8
    torchrun --nproc_per_node 2 benchmarks/long_prompts.py --length 1048576 --precision float8
    python benchmarks/long_prompts.py --quick             # tiny shapes on any machine

iLLaDA-8B's shape (grouped heads, tied embeddings) with random weights, batch 1, 32 tokens in 32
steps with the prompt's keys and values cached in float8: one full pass, and small ones. Random
weights prove time and memory, not fidelity. Under torchrun the processes split every pass and the
cache, and their answers must be the same. ``--memory-limit 85.5`` lets a larger card give no more
than an H100 80GB has. Every length is written to the record as it ends; times and memory are those
of the slowest and the fullest process. Operations count all keys, also those that are left out.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from block_causal_passes import StepClock
from block_causal_shapes import SHAPES, TINY, illada
from inference_shapes import make_random
from recorded_parts import RecordedParts
from recording import ROOT

from opencompass_llada.inference import (
    FastNetwork,
    MemoryPlanError,
    PassServer,
    PrefillOptions,
    card_budget,
    quantise_network,
)
from opencompass_llada.inference.attention_rule import attention_operations
from opencompass_llada.inference.memory import USABLE
from opencompass_llada.processes import connect, own_device, read_variable, stop_processes
from opencompass_llada.sampling import CacheOptions, SamplerConfig, SpecialTokens, sample

NEW_TOKENS = 32
#: Tokens of the row that compiles the kernels before the first one that is timed.
WARM_UP = 8192


class LongPrompts(RecordedParts):
    """One network, and prompts of several lengths."""

    def __init__(
        self, given: argparse.Namespace, device: torch.device, group: dist.ProcessGroup | None
    ) -> None:
        """Make the network on every process; the first one writes the record."""
        is_main = group is None or dist.get_rank(group) == 0
        super().__init__(device, given.limit, given.record if is_main else None)
        self.group, self.quick = group, given.quick
        self.ranks = 1 if group is None else dist.get_world_size(group)
        budget = card_budget(device)
        if given.memory_limit is not None and budget is not None:
            total = torch.cuda.get_device_properties(device).total_memory
            most = min(given.memory_limit * 1e9, total)
            torch.cuda.set_per_process_memory_fraction(most / total, device)
            budget = min(budget, int(USABLE * most))
        network, config = illada(TINY if given.quick else SHAPES)
        self.model = make_random(network, config, device)
        blocks = [p for block in self.model.blocks for p in block.parameters() if p.ndim == 2]
        self.block_weights = sum(p.numel() for p in blocks)
        if given.precision == "float8":
            quantise_network(self.model)
        self.tokens = SpecialTokens(
            mask_token_id=config.mask_token_id, eos_token_id=config.eos_token_id
        )
        self.server = PassServer(
            FastNetwork(self.model),
            graphs=True if given.graphs else None,
            memory_budget=budget,
            prefill=make_prefill(given),
            group=group,
        )
        self.record |= {"ranks": self.ranks, "memory_limit_gb": given.memory_limit}
        self.record |= {"precision": given.precision or "16 bit", "prefill": given.prefill}
        self.record["keep"] = self.server.prefill.keep

    def run(self, lengths: list[int]) -> None:
        """Answer a prompt of each length; where processes split it, a failure ends all of them."""
        for length in lengths:
            elapsed = self._most([time.perf_counter() - self.started])
            self.started = time.perf_counter() - elapsed[0]  # the limit stops all or none
            name = f"{length} tokens"
            self.part(name, partial(self.answer, length))
            found = self.record.get(name, self.record["failed"].get(name))
            if self.record_path is not None:
                print(f"{name}: {found}", flush=True)
            if name in self.record["failed"] and self.group is not None:
                sys.exit(1)  # the others wait for this one

    def answer(self, length: int) -> dict[str, Any]:
        """Time an answer to a prompt of random tokens, and measure its memory."""
        prompt, cache = self._prompt(length), CacheOptions(type="prompt", dtype="float8")
        config = SamplerConfig(
            generation_length=NEW_TOKENS, block_length=NEW_TOKENS, num_steps=NEW_TOKENS, cache=cache
        )
        try:  # the cache's memory, which the short row then uses, too
            self.server.open(
                [length + NEW_TOKENS], block_length=NEW_TOKENS, cache_dtype="float8", passes=1
            )
        except MemoryPlanError as error:
            return {"planned": str(error)}  # alike on all processes
        assert self.server.plan is not None
        planned = self.server.plan
        warm_up = min(WARM_UP, length)
        sample(self.server, [prompt[:warm_up]], config, self.tokens, device=self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        clock = StepClock(self.device)
        output = sample(
            self.server, [prompt], config, self.tokens, device=self.device, progress=clock
        )
        full, *small = self._most(clock.seconds)
        found = {
            "seconds": full + sum(small),
            "seconds_full_pass": full,
            "seconds_small_step": statistics.median(small),
            "operations_a_second_and_card": self._operations(length) / full / self.ranks,
            "passes": output.num_forward_passes,
            "full_passes": output.num_full_passes,
            "planned_gb": planned.peak_bytes / 1e9,
            "plan": planned.describe(),
            "answers_agree": self._agree(output.token_ids[0]),
        }
        if self.device.type == "cuda":
            own = [torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()]
            allocated, reserved = self._most([float(n) for n in own])
            found |= {"peak_gb": allocated / 1e9, "peak_reserved_gb": reserved / 1e9}
            found["of_plan"] = allocated / planned.peak_bytes
        return found

    def _prompt(self, length: int) -> list[int]:
        generator = torch.Generator().manual_seed(length)
        top = min(self.model.config.shape.vocabulary, self.tokens.eos_token_id)
        return torch.randint(6, top, (length,), generator=generator).tolist()

    def _operations(self, length: int) -> float:
        """Return the operations of a full pass that sees all keys, all processes together."""
        shape = self.model.config.shape
        attention = attention_operations(length, length, shape.num_heads, shape.head_dim)
        return 2.0 * self.block_weights * length + shape.num_layers * attention

    def _most(self, values: list[float]) -> list[float]:
        """Return each value of the process that has the most."""
        if self.group is None:
            return values
        most = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.group)
        return most.tolist()

    def _agree(self, answer: list[int]) -> bool:
        """Tell whether the processes gave the same tokens."""
        ids = [float(token) for token in answer]
        least = self._most([-token for token in ids])
        return self._most(ids) == [-token for token in least]


def make_prefill(given: argparse.Namespace) -> PrefillOptions:
    """Return how full passes attend; tiny rows as long ones do."""
    options: dict[str, Any] = {"type": given.prefill}
    if given.prefill != "exact" and given.quick:
        options["shortest"] = 1
    if given.prefill == "sparse":
        options["keep"] = given.keep
        if given.quick:
            options |= {"dense_tail": 2 * NEW_TOKENS, "near": 0}
    return PrefillOptions(**options)


def main() -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description="Answers to very long prompts.")
    parser.add_argument("--length", type=int, nargs="+", help="tokens of the prompts")
    parser.add_argument("--prefill", choices=("exact", "float8", "sparse"), default="exact")
    parser.add_argument("--keep", type=float, default=0.3, help="share of the keys, if sparse")
    parser.add_argument("--precision", choices=("float8",), help="of the products; 16 bit without")
    parser.add_argument(
        "--memory-limit",
        type=float,
        metavar="GB",
        help="of 1e9 bytes, a card; an H100 80GB has 85.5",
    )
    parser.add_argument(
        "--graphs", action="store_true", help="replay small steps of several GPUs, too"
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("--limit", type=float, default=540.0, help="seconds until the last begins")
    parser.add_argument("--verbose", action="store_true", help="show the package's log")
    parser.add_argument("--record", type=Path, help="default in $OUT or the records")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING)
    ranks = read_variable("WORLD_SIZE", lowest=1)
    device = own_device(torch.device("cpu" if given.quick else "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; use --quick, or run on GPUs of 80 GB")
    folder = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "records")
    name = f"long_prompts_{given.prefill}_on_{ranks}{'_quick' if given.quick else ''}.json"
    given.record = given.record or folder / name
    bench = LongPrompts(given, device, connect(device) if ranks > 1 else None)
    bench.run(given.length or ([512, 1001] if given.quick else [524288]))
    stop_processes()
    return int(bool(bench.record["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
