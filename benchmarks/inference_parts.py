"""Parts of the inference benchmark beside the shapes: small passes, waits, batches, the rule."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from inference_ceilings import median_seconds, seconds_of
from inference_shapes import weight_bytes

from opencompass_llada.inference import PassServer
from opencompass_llada.inference.attention_rule import measure_rates
from opencompass_llada.sampling import SamplerConfig, sample

if TYPE_CHECKING:
    from inference import Bench


def small_steps(bench: Bench) -> dict[str, Any]:
    """Time one partial pass with its logits, at several contexts and dtypes."""
    found: dict[str, Any] = {}
    read = weight_bytes(bench.model) / bench.record["ceilings"]["copy"]
    found["read_weights_seconds"] = read
    for length in (256,) if bench.quick else (4096, 32768):
        for dtype in ("bfloat16", "float8"):
            ids = torch.tensor([bench.prompt(length) + [0] * 32], device=bench.device)
            positions = torch.arange(length, length + 32, device=bench.device)[None]
            session = bench.server.open([length + 32], block_length=32, cache_dtype=dtype, passes=1)
            session.full_pass(ids, positions, keep=True)

            def step(
                session: Any = session,
                ids: Any = ids,
                positions: Any = positions,
                length: int = length,
            ) -> None:
                for _ in range(10):
                    session.partial_pass(ids, [length], 32, positions)

            at_least = 0.01 if bench.quick else 0.3
            seconds = median_seconds(step, bench.device, at_least=at_least) / 10
            found[f"{length} {dtype}"] = {"seconds": seconds, "of_weights": seconds / read}
    return found


def without_graphs(bench: Bench) -> dict[str, Any]:
    """Time a small pass that is launched kernel by kernel, with PyTorch's attention."""
    server = PassServer(bench.server.network, graphs=False)
    length = 256 if bench.quick else 4096
    ids = torch.tensor([bench.prompt(length) + [0] * 32], device=bench.device)
    positions = torch.arange(length, length + 32, device=bench.device)[None]
    session = server.open([length + 32], block_length=32, cache_dtype="bfloat16", passes=1)
    session.full_pass(ids, positions, keep=True)

    def step() -> None:
        session.partial_pass(ids, [length], 32, positions)

    return {"seconds": median_seconds(step, bench.device, at_least=0.05)}


def synchronisations(bench: Bench) -> dict[str, Any]:
    """Count how often a generation of four blocks waits for the device."""
    config = SamplerConfig(generation_length=32, block_length=8, num_steps=32, cache="prompt")
    prompt = bench.prompt(64 if bench.quick else 4096)
    sample(bench.server, [prompt], config, bench.tokens, device=bench.device)
    if bench.device.type != "cuda":
        return {"skipped": "not CUDA"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            sample(bench.server, [prompt], config, bench.tokens, device=bench.device)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught)
    return {"steps": 32, "blocks": 4, "waits": sum(places.values()), "places": dict(places)}


def batching(bench: Bench) -> dict[str, Any]:
    """Time eight prompts of different lengths together and one at a time."""
    lengths = [16 + 4 * i for i in range(3)] if bench.quick else range(600, 1800, 150)
    prompts = [bench.prompt(length) for length in lengths]
    steps = 8 if bench.quick else 32
    config = SamplerConfig(
        generation_length=steps, block_length=steps, num_steps=steps, cache="prompt"
    )

    def together() -> None:
        sample(bench.server, prompts, config, bench.tokens, device=bench.device)

    def alone() -> None:
        for prompt in prompts:
            sample(bench.server, [prompt], config, bench.tokens, device=bench.device)

    found: dict[str, Any] = {"lengths": list(lengths)}
    for name, call in (("together", together), ("alone", alone)):
        call()
        found[name] = seconds_of(call, bench.device)
    return found


def rates(bench: Bench) -> dict[str, Any]:
    """Return what the attention rule measured for itbench."""
    network = bench.server.network
    if network.choose_attention(64, 64, 1) is None:
        return {"skipped": "no choice here"}
    heads = (network.num_heads, network.num_groups, network.head_dim)
    return asdict(measure_rates(network.device, network.dtype, *heads))
