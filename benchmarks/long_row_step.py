"""Takes one case's step on a row longer than memory, and states plan, kernel, compiling and step.

    torchrun --nproc_per_node 4 benchmarks/long_row_step.py 512k_on_4 --folder long_rows

`finetune_long_rows.py` starts it. The row of the case is written after every stage, so that what
comes later loses nothing: plan, attention alone (at the ranks' own shape, checked against float32
at a few positions), warm-up, step. Warm-up is a step of the same row cut into short documents: it
compiles the same functions and takes the same memory, but little attention. MFU counts attention's
operations, and nothing that is computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from attention_probe import mark, probe_attention, seconds_between  # noqa: E402
from finetune_speed import make_batch, random_weights  # noqa: E402
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
    GB,
    NetworkShape,
    peak_flops,
    plan_host_memory,
    plan_memory,
    step_flops,
)
from opencompass_llada.networks import LLaDAConfig, LLaDAForMaskedDiffusion  # noqa: E402
from opencompass_llada.processes import stop_processes  # noqa: E402

K = 1024
OFFLOAD, KEEP = {"offload_checkpoints": True}, {"keep_attention": True}
ILLADA_8B = {
    **{"d_model": 4096, "n_heads": 32, "n_kv_heads": 8, "n_layers": 32},
    **{"mlp_hidden_size": 14336, "weight_tying": True},
}
TINY = {**ILLADA_8B, "d_model": 64, "n_heads": 8, "n_kv_heads": 4, "n_layers": 2}
TINY["mlp_hidden_size"] = 96
#: The tiny network's rows are so many times shorter.
DIVISOR = 1024
#: Documents of the warm-up, in tokens.
SHORT = 8 * K


@dataclass(frozen=True)
class Case:
    """A row on some GPUs."""

    processes: int
    length: int
    document: int
    changes: Mapping[str, Any]


#: What to measure. An H200 has 150 GB.
CASES = {
    "512k_on_4": Case(4, 512 * K, 512 * K, KEEP),
    "512k_on_4_offload": Case(4, 512 * K, 512 * K, {**KEEP, **OFFLOAD}),
    "512k_two_documents_on_4": Case(4, 512 * K, 256 * K, KEEP),
    "512k_documents_on_2": Case(2, 512 * K, 64 * K, OFFLOAD),
    "512k_on_2": Case(2, 512 * K, 512 * K, OFFLOAD),
    "256k_on_4": Case(4, 256 * K, 256 * K, KEEP),
    "256k_on_2": Case(2, 256 * K, 256 * K, {**KEEP, **OFFLOAD}),
    "256k_two_documents_on_2": Case(2, 256 * K, 128 * K, {**KEEP, **OFFLOAD}),
    "128k_on_1_lora": Case(1, 128 * K, 128 * K, {**KEEP, **OFFLOAD, "lora": {"rank": 64}}),
}


def make_recipe(
    case: Case, *, tiny: bool, compiled: bool, overrides: Sequence[str] = ()
) -> tuple[Recipe, int, int]:
    """Return a case's recipe, and the lengths of its documents and of the warm-up's."""
    divisor = DIVISOR if tiny else 1
    length = case.length // divisor
    recipe = parse_recipe(
        {
            "output_dir": "unused",
            "model": TINY if tiny else ILLADA_8B,
            "vocab_size": 300 if tiny else 155136,
            "text": [{"generated_seed": 1, "num_documents": 1}],  # never read
            "phases": [{"sequence_length": length, "num_steps": 1, "rows_per_step": 1}],
            "strategy": "adaptive",
            "sequence_parallel": case.processes,
            "parameter_dtype": "bfloat16",
            "activation_checkpointing": True,
            "mlp_tile": 32 * K // divisor,
            "loss_chunk": 4 * K // divisor,
            "learning_rate": 1e-5,
            "compile": compiled,
            **case.changes,
            **dict(parse_override(override) for override in overrides),
        }
    )
    return recipe, case.document // divisor, SHORT // divisor


def make_config(recipe: Recipe) -> LLaDAConfig:
    """Return the network's configuration."""
    return LLaDAConfig(
        **recipe.model,
        vocab_size=recipe.vocab_size,
        max_sequence_length=recipe.trained_length,
        **{"mask_token_id": 250, "eos_token_id": 251, "pad_token_id": 251},
    )


def describe_plan(
    name: str, *, tiny: bool = False, on_cuda: bool = True, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what is known of a case before it runs: rows, plan, operations of its step."""
    case = CASES[name]
    recipe, document, _ = make_recipe(case, tiny=tiny, compiled=True, overrides=overrides)
    shape = NetworkShape(make_config(recipe).shape, recipe.lora.rank if recipe.lora else 0)
    plan = plan_memory(recipe, shape, case.processes, on_cuda=on_cuda)
    host = plan_host_memory(recipe, shape, case.processes, on_cuda=on_cuda)
    spans = (document,) * (recipe.trained_length // document)
    sizes = shape.sizes
    described = {
        "case": name,
        "processes": case.processes,
        "length": recipe.trained_length,
        "document": document,
        "plan": plan.describe(),
        "planned_gb": plan.total / GB,
        "planned_host_gb": host * case.processes / GB,
        "step_flops": step_flops(shape, spans, recipe.trained_length * 7 // 10),
        "attention_flops": 12.0 * sizes.num_layers * sizes.query_width * sum(n * n for n in spans),
        "keeps_attention": recipe.keep_attention,
    }
    return described | {"expected_seconds": expected_seconds(described)}


#: Operations a second that times are expected from, of attention (forward and backward together)
#: and of matrix products on an H200; seconds until the first step; bytes pinned a second.
ATTENTION_RATE, LINEAR_RATE, SETUP, PINNING = 500e12, 450e12, 75, 3e9


def linear_seconds(plan: Mapping[str, Any]) -> float:
    """Return the seconds that a step's matrix products are expected to take."""
    again = 1.6  # with what is computed again
    operations = plan["step_flops"] - plan["attention_flops"]
    return float(again * operations / plan["processes"] / LINEAR_RATE)


def expected_seconds(plan: Mapping[str, Any]) -> float:
    """Return the seconds that a case is expected to take, from its start to its end."""
    passes = 1 if plan["keeps_attention"] else 4 / 3
    attention = passes * plan["attention_flops"] / plan["processes"] / ATTENTION_RATE
    pinning = plan["planned_host_gb"] * GB / PINNING
    layers = 32
    return float(SETUP + pinning + 2 * linear_seconds(plan) + (1 + 1 / layers) * attention)


def read_row(folder: Path, case: str) -> dict[str, Any]:
    """Return a case's row, as far as it came."""
    row: dict[str, Any] = json.loads((folder / f"{case}.json").read_text(encoding="utf-8"))
    return row


def write_row(folder: Path, row: dict[str, Any]) -> None:
    """Keep a case's row."""
    write_record(folder / f"{row['case']}.json", row)


class Measurement:
    """One case's row, which grows from stage to stage and is kept after each."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """State the plan and connect the processes."""
        case = CASES[arguments.case]
        self.tiny, self.end, self.folder = arguments.tiny, arguments.end, arguments.folder
        self.recipe, self.document, self.short = make_recipe(
            case, tiny=arguments.tiny, compiled=not arguments.tiny, overrides=arguments.set
        )
        self.ranks = read_ranks(self.recipe)
        if self.ranks.world_size != case.processes:
            raise ValueError(
                f"{arguments.case} needs {case.processes} processes, got {self.ranks.world_size}: "
                f"torchrun --nproc_per_node {case.processes}."
            )
        self.on_cuda = self.ranks.device.type == "cuda"
        self.begun = time.perf_counter()
        group = start_processes(self.ranks)
        self.row: dict[str, Any] = describe_run() | describe_plan(
            arguments.case, tiny=self.tiny, on_cuda=self.on_cuda, overrides=arguments.set
        )
        self.keep("weights", recipe=dataclasses.asdict(self.recipe))
        self.config = make_config(self.recipe)
        self.shape = NetworkShape(
            self.config.shape, self.recipe.lora.rank if self.recipe.lora else 0
        )
        with torch.device("meta"):
            model = LLaDAForMaskedDiffusion(self.config)
        weights = random_weights(model, self.ranks.device)
        self.network = place_network(model, self.recipe, self.ranks, weights, group)
        self.optimizer = build_optimizer(self.network, self.recipe)

    def keep(self, stage: str, **found: Any) -> None:
        """Add to the row what a stage found, and say what comes next."""
        since = time.perf_counter() - self.begun
        self.row |= {**found, "stage": stage, "seconds_in_all": since}
        if self.ranks.is_main:
            write_row(self.folder, self.row)
            print(f"{self.row['case']} {since:.1f} s, next: {stage}", flush=True)

    def probe(self) -> None:
        """Measure and check attention alone."""
        sizes, shared = self.config.shape, self.recipe.sequence_parallel
        found = probe_attention(
            sizes.num_heads // shared,
            sizes.num_groups // shared,
            sizes.head_dim,
            self.recipe.trained_length,
            self.document,
            self.ranks.device,
        )
        self.keep("warm-up", attention=found)
        if self.on_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def expected_step(self) -> float:
        """Return the seconds that the step should take, from attention's own speed."""
        found, layers = self.row["attention"], self.shape.sizes.num_layers
        passes = 1 if self.recipe.keep_attention else 2
        attention = layers * (passes * found["forward_seconds"] + found["backward_seconds"])
        return float(attention + linear_seconds(self.row))

    def step(self, number: int, document: int) -> dict[str, float]:
        """Take a step on a row of documents; return its parts' seconds and the loss."""
        batch = make_batch(self.recipe, document, number, self.ranks.device)
        self.ranks.wait()
        marks = [mark(self.on_cuda)]
        start = time.perf_counter()
        loss = self.network(batch)
        marks.append(mark(self.on_cuda))
        (loss * self.ranks.world_size).backward()
        marks.append(mark(self.on_cuda))
        trained = [p for p in self.network.parameters() if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        marks.append(mark(self.on_cuda))
        value = self.ranks.sum(loss.detach()).item()  # waits for the device
        seconds = time.perf_counter() - start
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.row['case']}: the loss of step {number} is {value}")
        parts = zip(("forward", "backward", "optimizer"), seconds_between(marks), strict=True)
        return {f"{name}_seconds": time for name, time in parts} | {"all": seconds, "loss": value}

    def measure(self) -> None:
        """Take the warm-up step and, where there is time for it, the step."""
        warm = self.step(0, self.short)
        compiling = torch._dynamo.utils.calculate_time_spent().get("total_wall_time", 0.0)
        counters = torch._dynamo.utils.counters
        self.keep(
            "step",
            warmup_seconds=warm["all"],
            compile_seconds=compiling,
            compiled_graphs=counters["stats"]["unique_graphs"],
            compiled_before=counters["inductor"]["fxgraph_cache_hit"],
            **self.memory(),
        )
        expected = self.expected_step()
        left = self.end - time.time()
        if self.ranks.any(expected > left):
            self.keep(
                "over", problem=f"the step would take {expected:.0f} s, and {left:.0f} are left"
            )
            return
        found = self.step(1, self.document)
        peak = peak_flops(torch.cuda.get_device_name()) if self.on_cuda else None
        flops, seconds = self.flops(), found.pop("all")
        self.keep(
            "over",
            seconds_a_step=seconds,
            tokens_per_second=self.recipe.trained_length / seconds,
            mfu=None if peak is None else flops / self.ranks.world_size / seconds / peak,
            compiled_in_step=torch._dynamo.utils.calculate_time_spent().get("total_wall_time", 0.0)
            - compiling,
            **found,
            **self.memory(),
        )

    def flops(self) -> float:
        """Return the operations of the step's row."""
        batch = make_batch(self.recipe, self.document, 1, torch.device("cpu"))
        spans = (self.document,) * (self.recipe.trained_length // self.document)
        return step_flops(self.shape, spans, int(batch["targets"].sum()))

    def memory(self) -> dict[str, float | None]:
        """Return the largest GB of any process so far, and the host's of all."""
        offload = self.network.offload
        host = torch.tensor(0.0 if offload is None else offload.num_bytes / GB)
        found: dict[str, float | None] = {"peak_allocated_gb": None, "peak_reserved_gb": None}
        if self.on_cuda:
            used = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            largest = torch.tensor(used, dtype=torch.float64, device=self.ranks.device) / GB
            if self.ranks.world_size > 1:
                dist.all_reduce(largest, op=dist.ReduceOp.MAX)
            found = dict(zip(found, largest.tolist(), strict=True))
        return found | {"host_gb": self.ranks.sum(host.to(self.ranks.device)).item()}


def main(arguments: list[str] | None = None) -> None:
    """Measure one case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--folder", type=Path, default=Path("long_rows"), help="of the rows")
    parser.add_argument("--end", type=float, default=math.inf, help="when it must be over, epoch")
    parser.add_argument("--set", nargs="*", default=[], help="recipe keys, key=value")
    parser.add_argument("--tiny", action="store_true", help="tiny network, short rows")
    measurement = Measurement(parser.parse_args(arguments))
    measurement.probe()
    measurement.measure()
    stop_processes()


if __name__ == "__main__":
    main()
