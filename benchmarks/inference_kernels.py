"""The kernels against plain PyTorch on the device, and profiles.

    python benchmarks/inference_kernels.py --record FILE    # errors and the sweep, a minute
    TRITON_INTERPRET=1 python benchmarks/inference_kernels.py --quick --device cpu    # no card

The sweep of the split kernel is in ``inference_sweep.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from inference_agreement import relative_error
from inference_sweep import kept_keys, print_sweep, split_call, sweep_tilings
from recording import describe_run, write_record

from opencompass_llada.inference import PassServer
from opencompass_llada.inference.elementwise import PlainElementwise, kernels_fit
from opencompass_llada.inference.kv_cache import FLOAT8, KeyValueCache
from opencompass_llada.networks import LLaDAForMaskedDiffusion
from opencompass_llada.networks.attention import attend_with
from opencompass_llada.networks.transformer import RMSNorm

SHAPES = ((32, 5000), (64, 300), (100, 70), (200, 4100), (288, 16931), (512, 16900))
"""Queries and keys that the split kernel is checked with: few, many, no whole tiles."""


def check_kernels(device: torch.device) -> dict[str, Any]:
    """Compare the fused operations with the plain ones, and attention with float32's.

    Args:
        device: Where.

    Returns:
        Relative errors.
    """
    if kernels_fit(device, 128) is not None:
        return {"skipped": kernels_fit(device, 128)}
    found = _elementwise_errors(device)
    found.update(attention_errors(device, SHAPES))
    return found


def attention_errors(
    device: torch.device, shapes: tuple[tuple[int, int], ...], *, num_heads: int = 32
) -> dict[str, Any]:
    """Return the relative error of the split kernel, or what it failed with, by shape and dtype.

    Args:
        device: Where.
        shapes: Queries and keys.
        num_heads: Heads.
    """
    found: dict[str, Any] = {}
    # Triton's interpreter multiplies no bfloat16
    plain = torch.bfloat16 if device.type == "cuda" else torch.float32
    for num_queries, num_keys in shapes:
        for dtype in (plain, FLOAT8):
            key = f"attention {num_queries}x{num_keys} {str(dtype)[6:]}"
            try:
                found[key] = _attention_error(device, num_queries, num_keys, dtype, num_heads)
            except Exception as error:  # the other shapes are still of use
                found[key] = f"{type(error).__name__}: {error}"[:200]
    return found


def _elementwise_errors(device: torch.device) -> dict[str, Any]:
    from opencompass_llada.inference.triton.elementwise import FusedElementwise

    torch.manual_seed(0)
    kind = {"device": device, "dtype": torch.bfloat16}
    x, delta = torch.randn(777, 4096, **kind), torch.randn(777, 4096, **kind)
    norm = RMSNorm(4096, 1e-5).to(**kind).requires_grad_(False)
    norm.weight.normal_()
    plain, fused = PlainElementwise(), FusedElementwise()
    expected_sum, expected = plain.add_norm(x, delta, norm)
    found_sum, found = fused.add_norm(x.clone(), delta, norm)
    errors = {"sum": relative_error(found_sum, expected_sum)}
    errors["norm"] = relative_error(found, expected)
    gate, up = torch.randn(777, 2 * 12288, **kind).chunk(2, dim=-1)
    errors["gate"] = relative_error(fused.gate(gate, up), plain.gate(gate, up))
    positions = torch.randint(0, 9000, (777,), device=device)
    angles = torch.rand(9000, 64, device=device).repeat(1, 2) * 6.3
    rotation = (angles.cos(), angles.sin())
    packed = torch.randn(777, 3 * 4096, **kind)
    slots = torch.randperm(900, device=device)[:777]
    for dtype in (torch.bfloat16, FLOAT8):
        results = []
        for ops in (plain, fused):
            cache = KeyValueCache(
                num_layers=1, num_slots=900, num_heads=32, head_dim=128, dtype=dtype, device=device
            )
            heads = [part.unflatten(-1, (32, 128)) for part in packed.clone().chunk(3, dim=-1)]
            q, k = ops.place(*heads, positions, rotation, cache.layers[0], slots)
            kept = cache.layers[0].read(0, 900, torch.bfloat16)
            results.append((q, k, kept[0][slots], kept[1][slots]))
        for name, found, expected in zip(
            ("queries", "keys", "kept keys", "kept values"), results[1], results[0], strict=True
        ):
            errors[f"{name} {str(dtype)[6:]}"] = relative_error(found, expected)
    return errors


def _attention_error(
    device: torch.device, num_queries: int, num_keys: int, dtype: torch.dtype, num_heads: int
) -> float:
    cache = kept_keys(device, num_keys, dtype, num_heads)
    q = torch.randn(num_queries, num_heads, 128, device=device)
    q = q.to(torch.bfloat16 if dtype == FLOAT8 else dtype)
    k, v = cache.layers[0].read(37, 37 + num_keys, torch.float32)
    expected = attend_with(None, *(x.float().transpose(0, 1)[None] for x in (q, k, v)))[0]
    return relative_error(split_call(cache, q, 37, num_keys, None)(), expected.transpose(0, 1))


def profile_passes(
    model: LLaDAForMaskedDiffusion, server: PassServer, quick: bool
) -> dict[str, Any]:
    """Say which kernels the time of a full pass and of a small pass goes to, in milliseconds.

    Args:
        model: The network.
        server: Its fast passes.
        quick: Tiny lengths.
    """
    device = server.network.device
    found: dict[str, Any] = {}
    for name, length, partial in (
        ("full", 128 if quick else 32768, False),
        ("small", 64 if quick else 4096, True),
    ):
        ids = torch.randint(0, 200, (1, length + 32), device=device)
        positions = torch.arange(length, length + 32, device=device)[None]
        session = server.open([length + 32], block_length=32, cache_dtype="bfloat16", passes=1)
        session.full_pass(ids, positions, keep=True)

        def one(
            session: Any = session,
            ids: Any = ids,
            positions: Any = positions,
            length: int = length,
            partial: bool = partial,
        ) -> None:
            if partial:
                session.partial_pass(ids, [length], 32, positions)
            else:
                session.full_pass(ids, positions, keep=True)

        one()
        found[name] = kernel_times(one, device)
    return found


def kernel_times(call: Any, device: torch.device) -> dict[str, float]:
    """Return milliseconds by kernel of one call, the longest ones, and of all."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        call()
        if cuda:
            torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        if spent:
            key = f"{event.key[:60]} x{event.count}"
            times[key] = times.get(key, 0.0) + spent / 1e3
    ranked = sorted(times.items(), key=lambda item: -item[1])
    return {"all": sum(times.values()), **dict(ranked[:14])}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, help="where the figures are written, as JSON")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=90.0, help="most time for the sweep")
    parser.add_argument("--quick", action="store_true", help="small shapes and no clock")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    record: dict[str, Any] = describe_run()
    shapes = ((3, 70), (70, 140)) if arguments.quick else SHAPES
    record["errors"] = attention_errors(device, shapes, num_heads=2 if arguments.quick else 32)
    for name, error in record["errors"].items():
        print(f"{name}: {error}")
    if not arguments.quick:
        record["sweep"] = sweep_tilings(device, limit=arguments.seconds)
        print_sweep(record["sweep"])
    if arguments.record:
        write_record(arguments.record, record)


if __name__ == "__main__":
    _main()
