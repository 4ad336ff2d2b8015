"""A sweep of the split attention kernel over tilings, PyTorch's own kernels beside it.

What is found decides ``TILINGS`` of inference/tilings.py. A tiling that does not run (it
may not fit the card's shared memory) is noted and passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from inference_ceilings import median_seconds

from opencompass_llada.inference.attention_rule import attention_operations
from opencompass_llada.inference.kv_cache import FLOAT8, KeyValueCache
from opencompass_llada.inference.tilings import TILINGS, Tiling
from opencompass_llada.networks.attention import attend_with

FEW = ((32, 32768),)
MANY = ((512, 16900), (288, 16900), (128, 16900))
"""Queries and keys."""

_FEW_TILINGS = {
    torch.bfloat16: (
        (64, 4, 512, True),
        (64, 3, 512, True),
        (128, 2, 512, False),
    ),
    FLOAT8: ((64, 3, 512, True), (128, 2, 512, False), (128, 2, 512, True), (128, 3, 512, False)),
}
"""Keys, stages, programs, peeled; beside what is used with few queries."""

_MANY_TILINGS = {
    torch.bfloat16: (
        (128, 128, 2, 8, 1), (128, 64, 3, 8, 1), (128, 64, 2, 8, 1), (64, 64, 3, 4, 2),
        (64, 64, 2, 4, 2), (64, 128, 2, 4, 1), (128, 64, 4, 8, 1), (128, 128, 3, 8, 1),
    ),
    FLOAT8: (
        (128, 64, 3, 8, 1), (128, 128, 2, 8, 1), (128, 64, 2, 8, 1), (64, 64, 3, 4, 2),
        (64, 64, 2, 4, 2), (64, 128, 2, 4, 1), (128, 64, 4, 8, 1), (128, 128, 3, 8, 1),
    ),
}  # fmt: skip
"""Queries, keys, stages, warps, programs that a processor holds; the likeliest first."""


def kept_keys(
    device: torch.device, num_keys: int, dtype: torch.dtype, num_heads: int = 32
) -> KeyValueCache:
    """Return one layer of random keys and values with 50 slots more than asked for."""
    cache = KeyValueCache(
        num_layers=1,
        num_slots=num_keys + 50,
        num_heads=num_heads,
        head_dim=128,
        dtype=dtype,
        device=device,
    )
    slots = torch.arange(num_keys + 50, device=device)
    kind = torch.bfloat16 if dtype == FLOAT8 else dtype
    k, v = (torch.randn(num_keys + 50, num_heads, 128, device=device).to(kind) for _ in range(2))
    cache.layers[0].write(slots, k, v)
    return cache


def split_call(
    cache: KeyValueCache, q: torch.Tensor, first: int, num_keys: int, tiling: Any
) -> Callable[[], torch.Tensor]:
    """Return a call of the split kernel over one row.

    Args:
        cache: What is kept, see `kept_keys`.
        q: Queries.
        first: The row's first slot.
        num_keys: Its keys.
        tiling: How the work is cut; None for the kernel's own choice.
    """
    from opencompass_llada.inference.triton.split_attention import attend_cached

    layer, device = cache.layers[0], q.device
    offsets = torch.tensor([first], dtype=torch.int32, device=device)
    lengths = torch.tensor([num_keys], dtype=torch.int32, device=device)
    return lambda: attend_cached(
        q,
        layer.keys_SGD,
        layer.values_SGD,
        offsets,
        lengths,
        k_scales_SG=layer.key_scales_SG,
        v_scales_SG=layer.value_scales_SG,
        tiling=tiling,
    )


def sweep_tilings(device: torch.device, *, limit: float = 90.0) -> dict[str, Any]:
    """Time the split kernel for many tilings, and PyTorch's own kernels.

    Args:
        device: A CUDA device.
        limit: Seconds after which no further tiling is begun.

    Returns:
        For each shape, the seconds of each kernel, or why there are none.
    """
    started = time.perf_counter()
    found: dict[str, Any] = {}
    for num_queries, num_keys in (*FEW, *MANY):
        times = found[f"{num_queries}x{num_keys}"] = {}
        q = torch.randn(num_queries, 32, 128, device=device).bfloat16()
        for name, call in _kernels(q, num_keys, few=(num_queries, num_keys) in FEW):
            if time.perf_counter() - started > limit:
                times[name] = "not run: the time was up"
                continue
            try:
                times[name] = kernel_seconds(call, device)
            except Exception as error:
                times[name] = f"{type(error).__name__}: {error}"[:120]
    return found


def _kernels(
    q: torch.Tensor, num_keys: int, *, few: bool
) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Yield the name and a call of each kernel to be timed."""
    k, v = (torch.randn(num_keys, 32, 128, device=q.device).bfloat16() for _ in range(2))
    heads = [t.transpose(0, 1)[None] for t in (q, k, v)]
    for backend in ("flash", "cudnn"):
        yield f"{backend} bfloat16", lambda backend=backend: attend_with(backend, *heads)
    for dtype in (torch.bfloat16, FLOAT8):
        cache = kept_keys(q.device, num_keys, dtype)
        for tiling in _tilings(dtype, few=few):
            name = f"{str(dtype)[6:]} {_describe(tiling)}"
            yield name, split_call(cache, q, 0, num_keys, tiling)


def _tilings(dtype: torch.dtype, *, few: bool) -> Iterator[Tiling]:
    yield TILINGS["float8" if dtype == FLOAT8 else "16 bit"]  # with many queries to compare with
    for keys, stages, programs, peeled in _FEW_TILINGS[dtype] if few else ():
        yield Tiling(keys=keys, stages=stages, programs=programs, peeled=peeled)
    for queries, keys, stages, warps, resident in () if few else _MANY_TILINGS[dtype]:
        yield Tiling(
            queries=queries,
            keys=keys,
            stages=stages,
            warps=warps,
            programs=None,
            peeled=True,
            resident=resident,
        )


def _describe(tiling: Tiling) -> str:
    aim = f"{tiling.resident} a processor" if tiling.programs is None else f"x{tiling.programs}"
    return (
        f"{tiling.queries} queries {tiling.keys} keys {tiling.stages} stages "
        f"{tiling.warps} warps {aim}{' peeled' if tiling.peeled else ''}"
    )


def kernel_seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a call among ten of one graph, so that launches are hidden."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # compiles
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            call()
    return median_seconds(graph.replay, device, at_least=0.05, warm_ups=2) / 10


def print_sweep(found: dict[str, Any]) -> None:
    """Print a table for each shape, the fastest first.

    Args:
        found: See `sweep_tilings`.
    """
    for shape, times in found.items():
        num_queries, num_keys = map(int, shape.split("x"))
        operations = attention_operations(num_queries, num_keys, 32, 128)
        print(f"\n{num_queries} queries, {num_keys} keys")
        timed = {name: t for name, t in times.items() if not isinstance(t, str)}
        for name, seconds in sorted(timed.items(), key=lambda item: item[1]):
            print(f"{seconds * 1e6:9.1f} us {operations / seconds / 1e12:6.0f} TFLOP/s  {name}")
        for name, reason in times.items():
            if name not in timed:
                print(f"        - {name}: {reason}")
