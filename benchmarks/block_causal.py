"""Time and memory of block-causal and grouped-query networks, in one run.

    python benchmarks/block_causal.py --published FOLDER    # one GPU, about 6 minutes
    python benchmarks/block_causal.py --tiny                # tiny shapes on any machine

True shapes with random bfloat16 weights, batch 1; no checkpoint is needed. iLLaDA-8B exactly at
128K and 256K; SDAR-8B at 32K beside SDAR's published sampler in blocks of 4, 16 and 32, where both
reveal a token a step; its prompt at 128K beside a causal pass of the same network; the experts of
LLaDA2.0-mini beside dense products. FOLDER: see `published_sdar`. Every part is written to the
record as it ends, and one that fails costs no other.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from block_causal_passes import (
    StepClock,
    agreement,
    causal_pass,
    chunked_pass,
    compare,
    dense_pass,
    limited_memory,
    shortened,
)
from block_causal_shapes import SHAPES, TINY, make_parts, sdar
from expert_rates import expert_rates
from inference_ceilings import copy_rate, median_seconds, seconds_of
from inference_kernels import kernel_times
from inference_shapes import make_random, weight_bytes
from published_sdar import PublishedSDAR
from recorded_parts import RecordedParts
from recording import ROOT
from torch import Tensor

from opencompass_llada.inference import FastNetwork, PassServer
from opencompass_llada.inference import session as session_module
from opencompass_llada.networks.attention_pattern import CAUSAL, AttentionPattern, Blocks
from opencompass_llada.sampling import CacheOptions, SamplerConfig, SpecialTokens, sample


class BlockCausal(RecordedParts):
    """One run."""

    def __init__(
        self, device: torch.device, limit: float, record_path: Path, published: Path | None
    ) -> None:
        """Begin; see `RecordedParts`. ``published`` is the folder of SDAR's files."""
        super().__init__(device, limit, record_path)
        self.sizes = SHAPES if device.type == "cuda" else TINY
        self.published = published
        self.model: Any = None
        self.fast: Any = None
        self.loaded: Any = None
        self.first_logits: dict[int, Tensor] = {}

    def part(self, name: str, call: Any) -> None:
        """Run a part, and show what it found."""
        super().part(name, call)
        if name in self.record:
            at = self.record["seconds_at"][name]
            print(f"{at:6.1f} s  {name}: {json.dumps(self.record[name])}", flush=True)

    def run(self, only: Sequence[str]) -> None:
        """Run the parts whose names begin so."""
        for name, make, call in make_parts(self):
            if not name.startswith(tuple(only)):
                continue
            if make not in (None, self.loaded):
                self.part(f"load {make.__name__}", functools.partial(self.load, make))
            if make in (None, self.loaded):
                self.part(name, call)
            else:
                self.record["failed"][name] = f"{make.__name__} did not load"

    # Networks

    def load(self, make: Any) -> dict[str, Any]:
        """Make a random network, the one before it given up."""
        self.model = self.fast = self.loaded = None
        self.first_logits = {}
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        seconds = seconds_of(lambda: self._load(*make(self.sizes)), self.device)
        self.loaded, parameters = make, sum(p.numel() for p in self.model.parameters())
        return {"seconds": seconds, "parameters": parameters}

    def _load(self, network: Any, config: Any) -> None:
        self.model = make_random(network, config, self.device)
        self.fast = FastNetwork(self.model)

    def server(self, pattern: AttentionPattern | None = None) -> PassServer:
        """Open a server for an attention pattern; the weights are the same."""
        if pattern is not None:
            self.model.attention_pattern = pattern
        return PassServer(self.fast)

    def prompt(self, length: int) -> list[int]:
        """Return random token ids, none of which is the mask."""
        generator = torch.Generator().manual_seed(length)
        config = self.model.config
        high = min(config.shape.vocabulary, config.eos_token_id)
        return torch.randint(6, high, (length,), generator=generator).tolist()

    @property
    def tokens(self) -> SpecialTokens:
        """The network's special tokens."""
        config = self.model.config
        return SpecialTokens(mask_token_id=config.mask_token_id, eos_token_id=config.eos_token_id)

    def row(self, prompt: int, masks: int) -> Tensor:
        """Return one row of ids, [1, L]."""
        ids = self.prompt(prompt) + [self.model.config.mask_token_id] * masks
        return torch.tensor([ids], device=self.device)

    def memory(self, server: PassServer) -> dict[str, Any]:
        """Return the peak since it was reset, beside the plan's."""
        assert server.plan is not None
        planned = server.plan.peak_bytes
        found: dict[str, Any] = {"planned_gb": planned / 1e9}
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated()
            found |= {"peak_gb": peak / 1e9, "of_plan": peak / planned}
        return found

    def reset_peak(self) -> None:
        """Begin to measure the peak anew."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    # iLLaDA-8B: exact, fully bidirectional

    def exact(self, prompt: int, steps: int) -> dict[str, Any]:
        """Time denoising steps that recompute everything, on a card of 80 GB."""
        server, new = self.server(), self.sizes.new_exact
        config = SamplerConfig(generation_length=new, block_length=new, num_steps=steps)
        with limited_memory(self.device):
            sample(server, [self.prompt(256)], config, self.tokens, device=self.device)
            self.reset_peak()
            clock = StepClock(self.device)
            given = [self.prompt(prompt)]
            sample(server, given, config, self.tokens, device=self.device, progress=clock)
            seconds = clock.seconds
            return {"prompt": prompt, "new": new, "seconds_of_steps": seconds,
                    "seconds_a_step": seconds[-1], **self.memory(server)}  # fmt: skip

    # SDAR-8B: generation

    def published_generation(self, block: int) -> dict[str, Any]:
        """Time SDAR's sampler: its prompt's pass, and denoising scaled to all tokens."""
        assert self.published is not None, "a part only where the folder was given"
        theirs, new = PublishedSDAR(self.published, self.model), self.sizes.new
        theirs.generate(self.prompt(4 * block), block, block)
        given = self.prompt(self.sizes.prompt)
        tokens = min(new, max(self.sizes.published_tokens, block))
        found, self.first_logits[block] = theirs.generate(given, tokens, block)
        scaled = found["denoising_seconds"] * new / tokens
        passes = found["passes"] - 1
        return {**found, "seconds": found["prefill_seconds"] + scaled,
                "seconds_a_pass": found["denoising_seconds"] / passes}  # fmt: skip

    def generation(self, block: int) -> dict[str, Any]:
        """Time ours, and compare it with SDAR's sampler where that was timed."""
        sizes, server = self.sizes, self.server(Blocks(block))
        prompt, new = self.prompt(sizes.prompt), sizes.new

        def run(given: list[int], new: int) -> Any:
            config = SamplerConfig(
                generation_length=new,
                block_length=block,
                num_steps=new,
                temperature=1.0,
                remasking="maskgit_plus",
                cache=CacheOptions(type="prefix"),
            )
            return sample(server, [given], config, self.tokens, device=self.device)

        self._reserve(server, len(prompt) + new, block)
        run(prompt[: 4 * block], 2 * block)  # captures the graphs
        self.reset_peak()
        times = []
        for _ in range(2):  # the first one plans the prompt's attention, too
            start = time.perf_counter()
            output = run(prompt, new)
            times.append(time.perf_counter() - start)
        found = {"seconds": min(times), "all": times, "passes": output.num_forward_passes,
                 "tokens_a_second": new / min(times), **self.memory(server)}  # fmt: skip
        theirs = self.record.get(f"published block {block}")
        if theirs is not None:
            found["times_as_fast"] = theirs["seconds"] / found["seconds"]
            found["times_as_fast_at_first"] = theirs["seconds"] / times[0]
        return {**found, **self._passes(server, block)}

    def _passes(self, server: PassServer, block: int) -> dict[str, Any]:
        """Time the prompt's pass and a step's alone; compare logits with the published ones."""
        length = self.sizes.prompt
        ids_BL = self.row(length, block)
        positions_BP = torch.arange(length, length + block, device=self.device)[None]
        session = self._reserve(server, length + block, block)
        prefill = seconds_of(lambda: session.prefill(ids_BL, [length]), self.device)

        def step() -> Tensor:
            return session.partial_pass(ids_BL, [length], block, positions_BP)

        step()
        seconds = median_seconds(step, self.device, at_least=self.sizes.at_least)
        found: dict[str, Any] = {
            "prefill_seconds": prefill,
            "seconds_a_pass": seconds,
            "of_weights": seconds * self.record["copy"] / weight_bytes(self.model),
        }
        if block == self.sizes.blocks[0]:
            found["milliseconds_by_kernel"] = kernel_times(step, self.device)
        if block in self.first_logits:
            found["published_logits"] = agreement(step(), self.first_logits[block])
        return found

    def _reserve(self, server: PassServer, length: int, block: int) -> Any:
        return server.open([length], block_length=block, cache_dtype="bfloat16", passes=1)

    # SDAR-8B: the prompt's pass

    def prefill(self, length: int) -> dict[str, Any]:
        """Time the prompt's pass in blocks, and causal ones of the same network."""
        blocks = Blocks(self.sizes.prefill_block)
        kinds = {"ours": blocks, "causal, in chunks": CAUSAL, "causal, whole": CAUSAL}
        found = {name: self._prefill(length, name, kinds[name]) for name in kinds}
        fastest = min(v["seconds"] for k, v in found.items() if k != "ours")
        return {**found, "against_causal": found["ours"]["seconds"] / fastest}

    def _prefill(self, length: int, name: str, pattern: AttentionPattern) -> dict[str, Any]:
        server, ids_BL = self.server(pattern), self.row(length, 0)
        session = self._reserve(server, length, self.sizes.prefill_block)

        def one() -> None:
            if name == "causal, whole":
                causal_pass(server, ids_BL)
            else:
                session.prefill(ids_BL, [length])

        with shortened(self.fast):  # attention's plans, made at a layer's price
            warm = seconds_of(one, self.device)
        self.reset_peak()
        repeats = 2 if length < self.sizes.longest else 1
        times = [seconds_of(one, self.device) for _ in range(repeats)]
        return {"seconds": min(times), "two_layers_at_first": warm, **self.memory(server)}

    def prefill_agreement(self) -> dict[str, Any]:
        """Compare a prefix run in chunks with one pass under a dense mask, few layers."""
        network, config = sdar(self.sizes, num_layers=self.sizes.agreement_layers)
        model, block = make_random(network, config, self.device), self.sizes.prefill_block
        model.attention_pattern = Blocks(block)
        length = self.sizes.agreement_length
        generator = torch.Generator().manual_seed(0)
        ids_BL = torch.randint(6, 200, (1, length + block), generator=generator).to(self.device)
        found: dict[str, Any] = {}
        with patch.object(session_module, "PREFILL_CHUNK", length // 4):
            chunks = chunked_pass(model, ids_BL, length, block)
            dense = dense_pass(model, ids_BL, length)
            exact = dense_pass(model.float(), ids_BL, length)
            found["bfloat16, in chunks, to float32"] = compare(chunks, exact)
            found["bfloat16, dense mask, to float32"] = compare(dense, exact)
            found["bfloat16, in chunks, to dense mask"] = compare(chunks, dense)
            try:
                chunks = chunked_pass(model, ids_BL, length, block)
                found["float32, in chunks, to float32"] = compare(chunks, exact)
            except (RuntimeError, NotImplementedError) as error:
                found["float32, in chunks, to float32"] = f"{type(error).__name__}: {error}"[:300]
        return found

    # LLaDA2.0-mini

    def experts(self, num_tokens: int) -> dict[str, Any]:
        """Time a layer of experts; see `expert_rates`."""
        return expert_rates(self.sizes, num_tokens, self.device, self.record["copy"])

    def expert_network(self) -> dict[str, Any]:
        """Time a generation of the whole network, a token a step."""
        server, block = self.server(), self.model.config.attention_pattern.block_length
        prompt, new = self.prompt(self.sizes.prompt), self.sizes.new
        config = SamplerConfig(
            generation_length=new,
            block_length=block,
            num_steps=new,
            cache=CacheOptions(type="prefix"),
        )
        self._reserve(server, len(prompt) + new, block)
        sample(server, [prompt[: 4 * block]], config, self.tokens, device=self.device)
        self.reset_peak()
        times = []
        for _ in range(2):
            start = time.perf_counter()
            output = sample(server, [prompt], config, self.tokens, device=self.device)
            times.append(time.perf_counter() - start)
        found = {"seconds": min(times), "all": times, "passes": output.num_forward_passes}
        return {**found, **self.memory(server), **self._passes(server, block)}


def main() -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description="Block-causal and grouped-query networks.")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("--published", type=Path, help="folder of SDAR's own files")
    parser.add_argument("--only", nargs="+", default=[""], help="run parts whose names begin so")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds until the last begins")
    parser.add_argument("--verbose", action="store_true", help="show the package's log")
    parser.add_argument("--out", type=Path, help="the record; default in $OUT or the records")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO if given.verbose else logging.WARNING)
    device = torch.device("cpu" if given.tiny else "cuda")
    if not given.tiny and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; use --tiny, or run on a GPU of 80 GB")
    folder = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "records")
    path = given.out or folder / f"block_causal_{'tiny' if given.tiny else 'h200'}.json"
    bench = BlockCausal(device, given.limit, path, given.published)
    bench.record["copy"] = copy_rate(2**22 if given.tiny else 2**31, device, 0.02)
    bench.run(given.only)
    print("failed:", ", ".join(bench.record["failed"]) or "nothing")
    return int(bool(bench.record["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
