"""Attention over all keys in float8 beside 16 bit and cuDNN's own float8, and over fewer keys.

    python benchmarks/float8_attention.py            # one H100 or larger, about a minute
    python benchmarks/float8_attention.py --quick    # tiny shapes on any machine, a few seconds

32 heads of 128, without a mask, random numbers. Times of one call at several lengths; of fewer
keys with the choice of them. Errors against float64 for values without a mean, with one, and with
one that changes its sign half way, where sums in few bits go wrong. cuDNN's float8 is had through
``pip install nvidia-cudnn-frontend==1.20.0``, and left out where that is missing; its values are
centred by the mean over all keys, which is added to its output, since its sums need that.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from inference_ceilings import median_seconds
from recorded_parts import RecordedParts
from recording import ROOT
from torch import Tensor

from opencompass_llada.inference import PrefillOptions
from opencompass_llada.inference.attention_rule import attention_operations
from opencompass_llada.inference.kv_cache import FLOAT8, FLOAT8_MAX
from opencompass_llada.inference.prefill import (
    attend_float8,
    attend_plainly,
    choose_tiles,
    sparse_share,
)
from opencompass_llada.networks.attention import attend_with

#: What is added to values, by the share of the keys that are before one.
MEANS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean 0": torch.zeros_like,
    "mean 0.5": lambda share: torch.full_like(share, 0.5),
    "mean 0.5, then -0.5": lambda share: torch.where(share < 0.5, 0.5, -0.5),
}


class CudnnFloat8:
    """cuDNN's float8 attention at one shape: a scale a tensor, an output in e4m3."""

    def __init__(self, q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> None:
        """Quantise and build the plan; an ImportError without the front end."""
        cudnn = importlib.import_module("cudnn")
        self._handle = cudnn.create_handle()
        cudnn.set_stream(handle=self._handle, stream=torch.cuda.current_stream().cuda_stream)
        self._mean_GD = v_SGD.mean(0, dtype=torch.float32)
        given = (q_THD, k_SGD - k_SGD.float().mean(0), v_SGD.float() - self._mean_GD)
        scales = [x.abs().amax().float() / FLOAT8_MAX for x in given]
        rows = [(x.float() / scale).to(FLOAT8) for x, scale in zip(given, scales, strict=True)]
        # An output is a mean of many values and far below the largest of them.
        self._scale = 8.0 / scales[2].item()
        types = cudnn.data_type
        self._graph = graph = cudnn.pygraph(
            io_data_type=types.FP8_E4M3,
            intermediate_data_type=types.FLOAT,
            compute_data_type=types.FLOAT,
            handle=self._handle,
        )
        held: dict[Any, Tensor] = {}

        def declare(value: Tensor, data_type: Any, shape: tuple[int, ...]) -> Any:
            own = value.view(shape)
            tensor = graph.tensor(dim=shape, stride=own.stride(), data_type=data_type)
            held[tensor] = own
            return tensor

        def number(value: float) -> Any:
            return declare(torch.tensor([value], device=q_THD.device), types.FLOAT, (1, 1, 1, 1))

        inputs = []
        for x in rows:
            own = x.transpose(0, 1)[None]
            inputs.append(
                graph.tensor(dim=own.shape, stride=own.stride(), data_type=types.FP8_E4M3)
            )
            held[inputs[-1]] = own
        out, _, *largest = graph.sdpa_fp8(
            **dict(zip("qkv", inputs, strict=True)),
            **{f"descale_{n}": number(s.item()) for n, s in zip("qkv", scales, strict=True)},
            descale_s=number(1 / 256),
            scale_s=number(256.0),
            scale_o=number(self._scale),
            generate_stats=False,
            attn_scale=1 / math.sqrt(q_THD.shape[-1]),
        )
        self._out_THD = torch.empty_like(rows[0])
        shown = self._out_THD.transpose(0, 1)[None]
        out.set_output(True).set_dim(shown.shape).set_stride(shown.stride())
        out.set_data_type(types.FP8_E4M3)
        held[out] = shown
        for tensor in largest:
            tensor.set_output(True).set_dim((1, 1, 1, 1)).set_stride((1, 1, 1, 1))
            tensor.set_data_type(types.FLOAT)
            held[tensor] = torch.zeros(1, 1, 1, 1, device=q_THD.device)
        graph.build([cudnn.heur_mode.A])
        size = max(graph.get_workspace_size(), 1)
        self._held = held
        self._workspace = torch.empty(size, device=q_THD.device, dtype=torch.uint8)

    def run(self) -> None:
        """Run the kernel alone."""
        self._graph.execute(self._held, self._workspace, handle=self._handle)

    def result(self) -> Tensor:
        """Return the attention, float32 [T, H, D]."""
        self.run()
        repeats = self._out_THD.shape[1] // len(self._mean_GD)
        mean_HD = self._mean_GD.repeat_interleave(repeats, dim=0)
        return self._out_THD.float() / self._scale + mean_HD


class Bench(RecordedParts):
    """Heads of one size."""

    def __init__(self, quick: bool, device: torch.device, limit: float, path: Path) -> None:
        """Choose the sizes."""
        super().__init__(device, limit, path)
        self.quick = quick
        self.heads, self.size = (2, 32) if quick else (32, 128)
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def rows(self, length: int, heads: int) -> list[Tensor]:
        """Return random queries, keys and values, [T, H, D]."""
        generator = torch.Generator(self.device).manual_seed(length)
        shape = (length, heads, self.size)
        return [
            torch.randn(shape, device=self.device, dtype=self.dtype, generator=generator)
            for _ in range(3)
        ]

    def times(self, length: int) -> dict[str, Any]:
        """Time each way at a length."""
        q, k, v = self.rows(length, self.heads)
        batch = [x.transpose(0, 1)[None] for x in (q, k, v)]
        kernel = "cudnn" if self.device.type == "cuda" else None
        calls: dict[str, Callable[[], Any]] = {
            "16 bit": partial(attend_with, kernel, *batch),
            "float8": partial(attend_float8, q, k, v),
        }
        absent = {}
        try:
            calls["cuDNN float8, the kernel alone"] = CudnnFloat8(q, k, v).run
        except (ImportError, RuntimeError) as error:
            absent["cuDNN float8, the kernel alone"] = f"{type(error).__name__}: {error}"[:200]
        for keep in (0.5, 0.3, 0.15):
            options = PrefillOptions(type="sparse", keep=keep, dense_tail=64)
            queries, count = sparse_share(options, length)
            if queries:
                tiles = choose_tiles(q[:queries], k, count, options)
                chosen = partial(choose_tiles, q[:queries], k, count, options)
                calls[f"choice of {keep}"] = chosen
                calls[f"sparse {keep}"] = partial(attend_float8, q, k, v, tiles)
        seconds = {n: median_seconds(c, self.device, at_least=0.05) for n, c in calls.items()}
        operations = attention_operations(length, length, self.heads, self.size)
        whole = [name for name in seconds if "0." not in name]
        return {
            "seconds": seconds,
            "operations_a_second": {name: operations / seconds[name] for name in whole},
            "absent": absent,
        }

    def errors(self) -> dict[str, Any]:
        """Return relative errors of norms against float64, once the mean of the values is out."""
        tokens = 1024 if self.quick else 32768
        found: dict[str, Any] = {}
        for name, mean in MEANS.items():
            q, k, v = self.rows(tokens, 2)
            share_S = torch.arange(tokens, device=self.device) / tokens
            v = v + mean(share_S)[:, None, None].to(v.dtype)
            exact = _exactly(q[:ASKED], k, v)
            scale = (exact - v.double().mean(0)).norm()
            found[name] = {}
            for way, call in WAYS.items():
                try:
                    own = call(q, k, v)[:ASKED].double().to(self.device)
                except (ImportError, RuntimeError) as error:
                    found[name][way] = f"{type(error).__name__}: {error}"[:200]
                    continue
                found[name][way] = ((own - exact).norm() / scale).item()
        return found

    def run(self, lengths: tuple[int, ...]) -> None:
        """Run the parts."""
        self.part("errors", self.errors)
        for length in lengths:
            self.part(str(length), partial(self.times, length))


def _exactly(*rows: Tensor) -> Tensor:
    """Return attention in float64, [T, H, D]."""
    q, k, v = (x.double().transpose(0, 1)[None] for x in rows)
    return attend_with("math", q, k, v)[0].transpose(0, 1)


def _in_16_bit(*rows: Tensor) -> Tensor:
    return attend_with(None, *(x.transpose(0, 1)[None] for x in rows))[0].transpose(0, 1)


def _plainly(q_THD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
    return attend_plainly(*(x.cpu() for x in (q_THD[:ASKED], k_SGD, v_SGD)))


#: Queries whose errors are measured.
ASKED = 1024
WAYS: Mapping[str, Callable[..., Tensor]] = {
    "16 bit": _in_16_bit,
    "float8": attend_float8,
    "float8, plain form": _plainly,
    "cuDNN float8": lambda q, k, v: CudnnFloat8(q, k, v).result(),
}


def main() -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes, any machine")
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.quick:
        parser.error("no CUDA device is visible; use --quick, or run on a GPU with float8")
    usual = (512,) if given.quick else (4096, 32768, 32785, 131072)
    name = "float8_attention_quick.json" if given.quick else "float8_attention_h200.json"
    bench = Bench(
        given.quick, device, given.limit, given.record or ROOT / "benchmarks/records" / name
    )
    bench.run(tuple(given.lengths or usual))
    return int(bool(bench.record["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
