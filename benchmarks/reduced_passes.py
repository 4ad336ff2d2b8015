"""Time of passes in float8 and over a part of the keys, beside ours in 16 bit, in one run.

    python benchmarks/reduced_passes.py            # one H100 80GB or larger, about 3 minutes
    python benchmarks/reduced_passes.py --quick    # tiny shapes on any machine, a few seconds

LLaDA-8B's shape with random weights, batch 1, 32 tokens in 32 steps with the prompt's keys and
values kept, and 256 tokens after 3,840 in blocks of 32 with those of later blocks kept, too; random
weights prove time, not fidelity. Tiers are measured one after another on one card: 16 bit,
attention in float8, products in float8 too, and a part of the keys. Products are also
timed alone; those of few tokens, which read the weights, in a graph over more of these than a card
caches. Attention is by `float8_attention.py`. Fidelity on trained models is
`opencompass-llada fidelity`'s.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from inference_ceilings import median_seconds, synchronize
from inference_shapes import make_model
from recorded_parts import RecordedParts
from recording import ROOT
from torch import Tensor, nn

from opencompass_llada.inference import (
    FastNetwork,
    PassServer,
    PrefillOptions,
    quantise_network,
)
from opencompass_llada.inference.float8 import Float8Linear, multiply, quantise_rows
from opencompass_llada.inference.tilings import SMALL_PRODUCT
from opencompass_llada.sampling import CacheOptions, SamplerConfig, SpecialTokens, sample

NEW_TOKENS = 32
#: Tokens of the prompt and the answer that is made in blocks, and where it is tiny.
BLOCKS, QUICK_BLOCKS = (3840, 256), (96, 64)
#: By name: the precision of the products, and how full passes attend.
TIERS: Mapping[str, tuple[str | None, Mapping[str, Any]]] = {
    "16 bit": (None, {}),
    "attention float8": (None, {"type": "float8", "shortest": 1}),
    "float8, attention 16 bit": ("float8", {}),
    "float8": ("float8", {"type": "float8", "shortest": 1}),
    "float8, half of the keys": ("float8", {"type": "sparse", "keep": 0.5, "shortest": 1}),
    "float8, 0.3 of the keys": ("float8", {"type": "sparse", "keep": 0.3, "shortest": 1}),
    "float8, 0.15 of the keys": ("float8", {"type": "sparse", "keep": 0.15, "shortest": 1}),
}


class Bench(RecordedParts):
    """One model whose products become float8 on the way."""

    def __init__(self, quick: bool, device: torch.device, limit: float, path: Path) -> None:
        """Make the model."""
        super().__init__(device, limit, path)
        self.quick, self.model = quick, make_model(quick, device)
        config = self.model.config
        self.tokens = SpecialTokens(
            mask_token_id=config.mask_token_id, eos_token_id=config.eos_token_id
        )

    def products(self) -> dict[str, Any]:
        """Time the products of a block for many tokens, in 16 bit and in float8."""
        block = self.model.blocks[0].parts
        found: dict[str, Any] = {}
        for tokens in (2 * SMALL_PRODUCT,) if self.quick else (4096, 16384):
            for name in ("query", "gate", "down"):
                linear = getattr(block, name)
                x = torch.randn(
                    tokens, linear.in_features, device=self.device, dtype=linear.weight.dtype
                )
                quantised = Float8Linear(linear)
                operations = 2 * tokens * linear.in_features * linear.out_features
                times = {
                    kind: median_seconds(partial(own, x), self.device, at_least=0.02)
                    for kind, own in (("16 bit", linear), ("float8", quantised))
                }
                error = (quantised(x) - linear(x)).norm() / linear(x).norm()
                found[f"{name} {tokens}"] = {
                    "seconds": times,
                    "operations_a_second": {kind: operations / t for kind, t in times.items()},
                    "error": error.item(),
                }
        return found

    def small_products(self) -> dict[str, Any]:
        """Time the products of a block for few tokens: seconds of one, and bytes of weights read.

        Float8 is timed as small passes run it, and with inputs rounded as those of full passes are.
        """
        shape = self.model.config.shape
        width, heads = shape.width, shape.num_heads + 2 * shape.num_groups
        sizes = {
            "query, key and value": (heads * shape.head_dim, width),
            "attention out": (width, shape.num_heads * shape.head_dim),
            "gate and up": (2 * shape.mlp_width, width),
            "down": (width, shape.mlp_width),
        }
        dtype, most = self.model.dtype, 10**5 if self.quick else 10**9
        found: dict[str, Any] = {}
        for name, (channels, inputs) in sizes.items():
            with torch.device(self.device):
                linears = [
                    nn.Linear(inputs, channels, bias=False, dtype=dtype)
                    for _ in range(math.ceil(most / (channels * inputs)))
                ]
            own = [Float8Linear(linear) for linear in linears]
            for tokens in (SMALL_PRODUCT // 2, SMALL_PRODUCT):
                x = torch.randn(tokens, inputs, device=self.device, dtype=dtype)
                found[f"{name} {tokens}"] = self._small_product(x, linears, own)
        return found

    def _small_product(
        self, x: Tensor, linears: list[nn.Linear], own: list[Float8Linear]
    ) -> dict[str, Any]:
        def rounded() -> None:
            for linear in own:
                multiply(quantise_rows(x), linear.weight, linear.scales, None, x.dtype)

        calls = {
            "16 bit": lambda: [linear(x) for linear in linears],
            "float8": lambda: [linear.multiply(x, is_small=True) for linear in own],
            "float8, inputs rounded": rounded,
        }
        with torch.inference_mode():
            times = {
                kind: median_seconds(replayed(call, self.device), self.device, at_least=0.02)
                for kind, call in calls.items()
            }
            small = own[0].multiply(x, is_small=True)
            error = (small - linears[0](x)).norm() / linears[0](x).norm()
        seconds = {kind: taken / len(own) for kind, taken in times.items()}
        sizes = {kind: (linears if kind == "16 bit" else own)[0].weight.nbytes for kind in times}
        return {
            "seconds": seconds,
            "bytes_a_second": {kind: sizes[kind] / seconds[kind] for kind in times},
            "error": error.item(),
        }

    def tier(self, name: str, lengths: tuple[int, ...]) -> dict[str, Any]:
        """Time one tier at all lengths."""
        precision, prefill = TIERS[name]
        if precision == "float8" and not isinstance(self.model.blocks[0].parts.down, Float8Linear):
            quantise_network(self.model)
        options = PrefillOptions(**prefill)
        server = PassServer(FastNetwork(self.model), prefill=options)
        found = {}
        for length in lengths:
            cache = CacheOptions(type="prompt", dtype="float8" if length > 65536 else "bfloat16")
            found[str(length)] = self._time(server, length, NEW_TOKENS, cache)
        if options.type != "sparse":  # few tokens: all keys are seen
            prompt, answer = QUICK_BLOCKS if self.quick else BLOCKS
            found[f"{prompt}+{answer}"] = self._time(
                server, prompt, answer, CacheOptions(type="dual")
            )
        server.release()
        return found

    def _time(
        self, server: PassServer, length: int, answer: int, cache: CacheOptions
    ) -> dict[str, Any]:
        config = SamplerConfig(
            generation_length=answer, block_length=NEW_TOKENS, num_steps=answer, cache=cache
        )
        generator = torch.Generator().manual_seed(length)
        top = min(self.model.config.vocab_size, self.tokens.eos_token_id)
        prompt = torch.randint(0, top, (length,), generator=generator).tolist()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times: list[float] = []
        while len(times) < (2 if length > 65536 else 3):
            synchronize(self.device)
            start = time.perf_counter()
            sample(server, [prompt], config, self.tokens, device=self.device)
            times.append(time.perf_counter() - start)
        found: dict[str, Any] = {"seconds": min(times), "all": times}
        if self.device.type == "cuda":
            found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            assert server.plan is not None
            found["planned_gb"] = server.plan.peak_bytes / 1e9
        return found

    def run(self, tiers: list[str], lengths: tuple[int, ...], *, alone: bool) -> None:
        """Run the parts, the tiers alone if asked."""
        if not alone:
            self.part("products", self.products)
            self.part("small products", self.small_products)
        for name in tiers:
            self.part(name, partial(self.tier, name, lengths))


def replayed(call: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """Return the replay of a CUDA graph of a call, which small passes are; elsewhere the call."""
    if device.type != "cuda":
        return call
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def main() -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description="Time of passes in float8 and over fewer keys.")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, any machine")
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=list(TIERS))
    parser.add_argument("--tiers-alone", action="store_true", help="no products")
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds")
    parser.add_argument("--verbose", action="store_true", help="show the package's log")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.quick:
        parser.error("no CUDA device is visible; use --quick, or run on a GPU of 80 GB")
    usual = (512,) if given.quick else (4096, 8192, 16384, 32768, 65536, 131072)
    name = "reduced_passes_quick.json" if given.quick else "reduced_passes.json"
    path = given.record or ROOT / "benchmarks" / "records" / name
    bench = Bench(given.quick, device, given.limit, path)
    # Products become float8 once and stay so: tiers in 16 bit come first.
    tiers = sorted(given.tiers, key=lambda name: TIERS[name][0] is not None)
    bench.run(tiers, tuple(given.lengths or usual), alone=given.tiers_alone)
    return int(bool(bench.record["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
