"""Time and memory of sampling: ours, the papers' algorithm and one full pass, in one run.

    python benchmarks/inference.py                 # one H100 80GB, about 5 minutes
    python benchmarks/inference.py --quick         # tiny shapes on any machine, a few seconds

LLaDA-8B's shape with random bfloat16 weights, batch 1; no checkpoint is needed, since time does not
depend on what the weights are under a fixed schedule. Prints tables and writes one record. The
papers' algorithm is timed for a few steps and scaled by the number of steps, as the record says.
Generated tokens are counted, prompt tokens are not.
"""

from __future__ import annotations

import argparse
import gc
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import inference_parts as parts
import torch
from inference_agreement import logit_agreement, tiny_agreement
from inference_baseline import baseline_fails, baseline_step_seconds
from inference_ceilings import (
    attention_rate,
    copy_rate,
    matrix_rate,
    seconds_of,
    synchronize,
)
from inference_kernels import check_kernels, profile_passes
from inference_report import report
from inference_shapes import (
    H100_SHAPES,
    MODES,
    QUICK_SHAPES,
    Shape,
    make_model,
    pass_operations,
)
from recorded_parts import RecordedParts
from recording import ROOT

from opencompass_llada.inference import FastNetwork, PassServer
from opencompass_llada.networks.attention import attend_with
from opencompass_llada.sampling import CacheOptions, SamplerConfig, SpecialTokens, sample


class Bench(RecordedParts):
    """One run: a model, its fast passes, and what was found."""

    def __init__(
        self, *, quick: bool, device: torch.device, limit: float, record_path: Path
    ) -> None:
        """Make the model.

        Args:
            quick: Tiny shapes.
            device: Where.
            limit: Seconds after which no further part begins.
            record_path: Where the record is written after every part.
        """
        super().__init__(device, limit, record_path)
        self.quick = quick
        self.model = make_model(quick, device)
        self.server = PassServer(FastNetwork(self.model))
        if device.type == "cuda":  # the plain forward pass is the papers', who use flash attention
            self.model.attention_backend = "sdpa_flash"
        self.tokens = SpecialTokens(
            mask_token_id=self.model.config.mask_token_id,
            eos_token_id=self.model.config.eos_token_id,
        )
        self.baseline_steps: dict[int, list[float]] = {}

    def prompt(self, length: int) -> list[int]:
        """Return random token ids; the same for one length."""
        generator = torch.Generator().manual_seed(length)
        top = min(self.model.config.vocab_size, self.tokens.eos_token_id)
        return torch.randint(0, top, (length,), generator=generator).tolist()

    def ceilings(self) -> dict[str, Any]:
        """Measure what the machine can do."""
        cuda = self.device.type == "cuda"
        dtype = torch.bfloat16 if cuda else torch.float32
        long = 0.7 if cuda else 0.01
        heads, size = (32, 128) if cuda else (2, 32)
        found: dict[str, Any] = {
            "matrix": matrix_rate(8192 if cuda else 256, self.device, dtype, long),
            "copy": copy_rate(2**32 if cuda else 2**20, self.device, long / 2),
        }
        for length in (32768, 131072) if cuda else (128,):
            for backend in ("cudnn", "flash") if cuda else (None,):
                try:
                    rate = attention_rate(backend, length, heads, size, self.device, dtype, long)
                except RuntimeError as error:
                    rate = None
                    self.record["failed"][f"{backend} {length}"] = str(error)[:300]
                found[f"attention {backend} {length}"] = rate
        return found

    def baselines(self, shapes: tuple[Shape, ...]) -> dict[str, Any]:
        """Time steps of the papers' algorithm, longest first shapes last."""
        baseline_step_seconds(self.model, self.prompt(64), 8, 1)
        for shape in shapes:
            if shape.baseline_steps:
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                self.baseline_steps[shape.prompt] = baseline_step_seconds(
                    self.model, self.prompt(shape.prompt), shape.new, shape.baseline_steps
                )
                gc.collect()
        return {str(length): times for length, times in self.baseline_steps.items()}

    def floor(self, shape: Shape) -> dict[str, Any]:
        """Time one full pass that keeps nothing and gives logits of the last block."""
        total = shape.prompt + shape.new
        ids = torch.tensor([self.prompt(shape.prompt) + [0] * shape.new], device=self.device)
        positions = torch.arange(total - shape.block, total, device=self.device)[None]
        session = self.server.open([total], block_length=32, cache_dtype=None, passes=1)

        def one() -> None:
            session.full_pass(ids, positions, keep=False)

        repeats = 1 if total > 50_000 else 3
        if repeats == 1:
            self._warm_attention(total)
        else:
            one()
        times = sorted(seconds_of(one, self.device) for _ in range(repeats))
        found = {"seconds": times[len(times) // 2], "all": times}
        found["of_operations"] = found["seconds"] / self._operation_seconds(total)
        return found

    def _warm_attention(self, total: int) -> None:
        """Have the attention kernel's plan for a shape built before the shape is timed."""
        network = self.server.network
        heads = [
            torch.randn(
                total, network.num_heads, network.head_dim, device=self.device, dtype=network.dtype
            ).transpose(0, 1)[None]
            for _ in range(3)
        ]
        attend_with(network.choose_attention(total, total, len(network.layers)), *heads)

    def _operation_seconds(self, total: int) -> float:
        """Return what a pass's operations take at the rates of this run."""
        rates = self.record["ceilings"]
        linear, attention = pass_operations(self.model, total)
        key = "131072" if total > 80_000 else "32768"
        found = [
            v
            for k, v in rates.items()
            if k.startswith("attention") and v and (self.quick or k.endswith(key))
        ]
        return linear / rates["matrix"] + attention / max(found)

    def run_shape(self, shape: Shape) -> dict[str, Any]:
        """Run one shape in its modes."""
        result: dict[str, Any] = {"shape": asdict(shape), "modes": {}}
        floor = self.record.get(f"floor {shape.prompt}", {}).get("seconds")
        steps = self.baseline_steps.get(shape.prompt)
        baseline = shape.steps * sum(steps) / len(steps) if steps else None
        result["baseline_seconds"], result["floor_seconds"] = baseline, floor
        for mode in shape.modes:
            found = self._run_mode(shape, MODES[mode])
            if baseline:
                found["against_baseline"] = baseline / found["seconds"]
            if floor:
                found["against_floor"] = found["seconds"] / floor
            result["modes"][mode] = found
        return result

    def _run_mode(self, shape: Shape, cache: CacheOptions) -> dict[str, Any]:
        prompt = self.prompt(shape.prompt)
        config = SamplerConfig(
            generation_length=shape.new,
            block_length=shape.block,
            num_steps=shape.steps,
            cache=cache,
        )
        if cache.enabled:  # reserves the cache and captures the graphs at a short prompt's price
            self.server.open(
                [shape.prompt + shape.new], block_length=32, cache_dtype=cache.dtype, passes=1
            )
            short = prompt[: max(shape.prompt // 16, 16)]
            sample(self.server, [short], config, self.tokens, device=self.device)
            if shape.prompt > 100_000:
                self._warm_attention(shape.prompt + shape.new)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times: list[float] = []
        while len(times) < (1 if shape.prompt > 50_000 or shape.steps > 100 else 2):
            synchronize(self.device)
            start = time.perf_counter()
            output = sample(self.server, [prompt], config, self.tokens, device=self.device)
            times.append(time.perf_counter() - start)
        found = {
            "seconds": min(times),
            "all": times,
            "nfe": output.num_forward_passes,
            "full_passes": output.num_full_passes,
            "tokens_per_second": shape.new / min(times),
        }
        if self.device.type == "cuda":
            found["peak_allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
            assert self.server.plan is not None
            found["planned_gb"] = self.server.plan.peak_bytes / 1e9
            found["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
        return found

    def run(self, shapes: tuple[Shape, ...]) -> None:
        """Run all parts, those that matter most first."""
        self.part("ceilings", self.ceilings)
        self.part("kernels", lambda: check_kernels(self.device))
        self.part("baselines", lambda: self.baselines(shapes))
        for shape in shapes:
            if f"floor {shape.prompt}" not in self.record:
                self.part(f"floor {shape.prompt}", lambda shape=shape: self.floor(shape))
        for shape in shapes:
            self.part(f"run {shape.name}", lambda shape=shape: self.run_shape(shape))
        self.part("attention rule", lambda: parts.rates(self))
        self.part("small steps", lambda: parts.small_steps(self))
        self.part("without graphs", lambda: parts.without_graphs(self))
        self.part("synchronisations", lambda: parts.synchronisations(self))
        self.part("batching", lambda: parts.batching(self))
        self.part(
            "logits",
            lambda: logit_agreement(
                self.model,
                self.server,
                self.prompt(64 if self.quick else 4096),
                8 if self.quick else 32,
            ),
        )
        self.server.release()
        longest = 256 if self.quick else 131072 + 32
        self.part("seeds at the longest", lambda: baseline_fails(self.model, longest))
        self.part("profile", lambda: profile_passes(self.model, self.server, self.quick))
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        lengths, repeats, new = ((256,), 1, 4) if self.quick else ((512, 1024), 5, 32)
        self.part("tiny", lambda: tiny_agreement(self.device, dtype, lengths, repeats, new))


def main() -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description="Time and memory of sampling.")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, any machine")
    parser.add_argument("--only", help="run shapes whose names begin so")
    parser.add_argument("--limit", type=float, default=285.0, help="seconds")
    parser.add_argument("--verbose", action="store_true", help="show the package's log")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.quick:
        parser.error("no CUDA device is visible; use --quick, or run on a GPU of 80 GB")
    shapes = QUICK_SHAPES if given.quick else H100_SHAPES
    if given.only:
        shapes = tuple(s for s in shapes if s.name.startswith(given.only))
    name = "inference_quick.json" if given.quick else "inference_h100.json"
    path = given.record or ROOT / "benchmarks" / "records" / name
    bench = Bench(quick=given.quick, device=device, limit=given.limit, record_path=path)
    bench.run(shapes)
    report(bench.record)
    return int(bool(bench.record["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
