"""The kernels against plain PyTorch on the device, a sweep of the split kernel, and profiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from inference_agreement import relative_error
from inference_ceilings import median_seconds

from opencompass_llada.modeling import LLaDAForMaskedDiffusion
from opencompass_llada.modeling.block import RMSNorm
from opencompass_llada.modeling.cache import FLOAT8, KeyValueCache
from opencompass_llada.modeling.inference import PassServer
from opencompass_llada.modeling.inference.attention_rule import attend_with
from opencompass_llada.modeling.inference.elementwise import (
    FusedElementwise,
    PlainElementwise,
    kernels_fit,
)


def check_kernels(device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Compare the fused operations with the plain ones, and attention with float32's.

    Args:
        device: Where.
        quick: Leave the sweep out.

    Returns:
        Relative errors, and seconds of the split kernel for each tiling.
    """
    if kernels_fit(device, 128) is not None:
        return {"skipped": kernels_fit(device, 128)}
    found = _elementwise_errors(device)
    for num_queries, num_keys in ((32, 5000), (64, 300), (200, 4100)):
        for dtype in (torch.bfloat16, FLOAT8):
            key = f"attention {num_queries}x{num_keys} {str(dtype)[6:]}"
            found[key] = _attention_error(device, num_queries, num_keys, dtype)
    if not quick:
        found["sweep"] = _sweep(device)
    return found


def _elementwise_errors(device: torch.device) -> dict[str, Any]:
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


def _kept(device: torch.device, num_keys: int, dtype: torch.dtype) -> KeyValueCache:
    cache = KeyValueCache(
        num_layers=1,
        num_slots=num_keys + 50,
        num_heads=32,
        head_dim=128,
        dtype=dtype,
        device=device,
    )
    slots = torch.arange(num_keys + 50, device=device)
    k, v = (torch.randn(num_keys + 50, 32, 128, device=device).bfloat16() for _ in range(2))
    cache.layers[0].write(slots, k, v)
    return cache


def _split_call(
    cache: KeyValueCache, q: torch.Tensor, first: int, num_keys: int, tiling: Any
) -> Callable[[], torch.Tensor]:
    from opencompass_llada.modeling.inference.decode_kernel import attend_kept

    layer, device = cache.layers[0], q.device
    offsets = torch.tensor([first], dtype=torch.int32, device=device)
    lengths = torch.tensor([num_keys], dtype=torch.int32, device=device)
    return lambda: attend_kept(
        q,
        layer.keys_SGD,
        layer.values_SGD,
        offsets,
        lengths,
        k_scales_SG=layer.key_scales_SG,
        v_scales_SG=layer.value_scales_SG,
        tiling=tiling,
    )


def _attention_error(
    device: torch.device, num_queries: int, num_keys: int, dtype: torch.dtype
) -> float:
    cache = _kept(device, num_keys, dtype)
    q = torch.randn(num_queries, 32, 128, device=device).bfloat16()
    k, v = cache.layers[0].read(37, 37 + num_keys, torch.float32)
    expected = attend_with(
        None, q.float().transpose(0, 1), k.float().transpose(0, 1), v.float().transpose(0, 1)
    )
    return relative_error(_split_call(cache, q, 37, num_keys, None)(), expected.transpose(0, 1))


def _sweep(device: torch.device) -> dict[str, Any]:
    """Time the split kernel for several tilings, and PyTorch's own kernels beside it."""
    from opencompass_llada.modeling.inference.decode_kernel import Tiling

    found: dict[str, Any] = {}
    num_keys = 32768
    q = torch.randn(32, 32, 128, device=device).bfloat16()
    tilings = {
        torch.bfloat16: ((64, 3, 4, 512), (64, 4, 4, 512), (64, 4, 4, 1024), (128, 2, 4, 512)),
        FLOAT8: ((64, 3, 4, 512), (64, 2, 4, 1024), (128, 2, 4, 512), (128, 3, 4, 512),
                 (128, 2, 4, 1024), (128, 3, 8, 512)),
    }  # fmt: skip
    for dtype, chosen in tilings.items():
        cache = _kept(device, num_keys, dtype)
        for keys, stages, warps, programs in chosen:
            tiling = Tiling(keys=keys, stages=stages, warps=warps, programs=programs)
            name = f"{str(dtype)[6:]} keys {keys} stages {stages} warps {warps} x{programs}"
            try:
                found[name] = _kernel_seconds(_split_call(cache, q, 0, num_keys, tiling), device)
            except Exception as error:  # a tiling may not fit the card's shared memory
                found[name] = str(error)[:80]
    cache = _kept(device, num_keys, torch.bfloat16)
    k, v = cache.layers[0].read(0, num_keys, torch.bfloat16)
    heads = [t.transpose(0, 1) for t in (q, k, v)]
    for backend in ("flash", "cudnn"):
        found[f"{backend} bfloat16"] = _kernel_seconds(
            lambda backend=backend: attend_with(backend, *heads), device
        )
    return found


def _kernel_seconds(call: Any, device: torch.device) -> float:
    """Return the seconds of a call among many in a row, so that launches are hidden."""

    def many() -> None:
        for _ in range(50):
            call()

    return median_seconds(many, device, at_least=0.02) / 50


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
        found[name] = _kernel_times(one, device)
    return found


def _kernel_times(call: Any, device: torch.device) -> dict[str, float]:
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
