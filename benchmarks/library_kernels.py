"""Times our fast forward pass beside what libraries offer, at LLaDA-8B's layer shape.

``python benchmarks/library_kernels.py RECORD.json`` on one CUDA GPU; ``--quick`` is a tiny size for
any machine. Beside our full pass stand the plain network, as it is and compiled; liger-kernel's
RMSNorm, RoPE and SwiGLU in the place of our Triton kernels; and flashinfer's attention. A small
pass (32 tokens against a cache) is timed with our graphs and without. What cannot run is recorded
with the reason. Weights are random; each way is compared with the plain network in float32.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from inference_ceilings import median_seconds, seconds_of
from recording import describe_run, write_record
from torch import Tensor

from opencompass_llada.inference import FastNetwork, PassServer
from opencompass_llada.inference.elementwise import PlainElementwise
from opencompass_llada.inference.forward import LayerAttend
from opencompass_llada.networks import LLaDAConfig, LLaDAForMaskedDiffusion
from opencompass_llada.networks.transformer import Rotation

Call = Callable[[], Tensor]
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")
SPAN = 32  # tokens of a small pass, and positions that logits are asked for


class LigerElementwise(PlainElementwise):
    """Our forward pass with liger-kernel's operations; the residual's addition stays PyTorch's."""

    def __init__(self) -> None:
        """Import the kernels, or raise ImportError."""
        ops = [importlib.import_module(f"liger_kernel.ops.{n}") for n in ("rms_norm", "rope")]
        self.norm, self.rope = ops[0].LigerRMSNormFunction, ops[1].LigerRopeFunction
        self.swiglu = importlib.import_module("liger_kernel.ops.swiglu").LigerSiLUMulFunction

    def add_norm(self, x_TM: Tensor, delta_TM: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
        """Add and normalise; "llama" casting rounds after the norm as ours does."""
        x_TM = x_TM if delta_TM is None else x_TM + delta_TM
        return x_TM, self.norm.apply(x_TM, norm.weight, norm.eps, 0.0, "llama", False)

    def gate(self, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        """Gate; the kernel wants each input contiguous."""
        return self.swiglu.apply(gate_TF.contiguous(), up_TF.contiguous())

    def rotate(self, x_THD: Tensor, positions_T: Tensor, rotation: Rotation) -> Tensor:
        """Rotate queries alone, where only some positions are wanted."""
        return self._both(x_THD, x_THD[:, :1], positions_T, rotation)[0]

    def place(self, q_THD: Any, k_TGD: Tensor, v_TGD: Tensor, *places: Any) -> Any:
        """Rotate queries and keys in one launch; caching is PyTorch's."""
        positions_T, rotation, layer, slots_T = places
        queries = k_TGD[:, :1] if q_THD is None else q_THD
        rotated, k_TGD = self._both(queries, k_TGD, positions_T, rotation)
        if layer is not None:
            layer.write(slots_T, k_TGD, v_TGD)
        return (None if q_THD is None else rotated), k_TGD

    def _both(
        self, q_THD: Tensor, k_TGD: Tensor, positions_T: Tensor, rotation: Rotation
    ) -> tuple[Tensor, Tensor]:
        heads = (x[None].transpose(1, 2) for x in (q_THD, k_TGD))
        tables = (table[positions_T][None] for table in rotation)
        q_BHTD, k_BGTD = self.rope.apply(*heads, *tables)
        return q_BHTD[0].transpose(0, 1), k_BGTD[0].transpose(0, 1)


def flashinfer_attend() -> LayerAttend:
    """Return attention of one row by flashinfer, or raise ImportError."""
    flashinfer = importlib.import_module("flashinfer")

    def attend(index: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        heads = (x.contiguous() for x in (q_THD, k_TGD, v_TGD))
        return flashinfer.single_prefill_with_kv_cache(*heads, causal=False)

    return attend


class Comparison:
    """One network, and the ways to run it over one length."""

    def __init__(self, *, quick: bool, num_layers: int, modes: Sequence[str]) -> None:
        """Make the network with random weights."""
        self.modes, self.at_least = modes, 0.02 if quick else 1.0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        tiny = {"d_model": 64, "n_heads": 4, "mlp_hidden_size": 96, "vocab_size": 512}
        tiny |= {"mask_token_id": 500, "eos_token_id": 501, "pad_token_id": 501}
        config = LLaDAConfig(n_layers=num_layers, **(tiny if quick else {}))
        torch.manual_seed(0)
        with torch.device(self.device):
            model = LLaDAForMaskedDiffusion(config)
        self.model = model.to(self.dtype).eval().requires_grad_(False)

    def inputs(self, length: int) -> tuple[Tensor, Tensor]:
        """Return ids [1, L] and the last positions, which logits are asked for."""
        torch.manual_seed(length)
        ids_BL = torch.randint(0, 500, (1, length), device=self.device)
        return ids_BL, torch.arange(length - SPAN, length, device=self.device)[None]

    def ways(self, length: int) -> Iterator[tuple[str, Callable[[], Call]]]:
        """Yield the name of each way to run a pass, and what prepares its call."""
        ids_BL, positions_BP = self.inputs(length)

        def compiled(mode: str | None) -> Call:
            self.model.prepare(length, self.device)
            torch._dynamo.reset()
            run = self.model.hidden_states
            if mode is not None:
                run = torch.compile(run, mode=mode, dynamic=False, fullgraph=True)
            head = self.model.get_output_embeddings()
            return lambda: head(run(ids_BL, None, positions_BP))

        def fast(ops: Any = None, attend: Any = None, pack: bool | None = None) -> Call:
            network = FastNetwork(self.model, pack_weights=pack)
            network.ops = network.ops if ops is None else ops()
            server = PassServer(network)
            session = server.open([length], block_length=SPAN, cache_dtype=None, passes=1000)
            if attend is not None:
                own = attend()
                session._layers = lambda every, last: own  # type: ignore[method-assign]
            return lambda: session.full_pass(ids_BL, positions_BP, keep=False)

        def small(graphs: bool | None) -> Call:
            server = PassServer(FastNetwork(self.model), graphs=graphs)
            session = server.open([length], block_length=SPAN, cache_dtype="bfloat16", passes=1)
            session.full_pass(ids_BL, positions_BP, keep=True)
            return lambda: session.partial_pass(ids_BL, [length - SPAN], SPAN, positions_BP)

        yield "plain", lambda: compiled(None)
        for mode in self.modes:
            yield f"compiled {mode}", lambda mode=mode: compiled(mode)
        yield "ours", fast
        yield "ours, operations of PyTorch", lambda: fast(PlainElementwise)
        yield "ours, operations of liger-kernel", lambda: fast(LigerElementwise)
        # Its kernels want contiguous inputs, which slices of packed products are not.
        yield "the same, weights not packed", lambda: fast(LigerElementwise, pack=False)
        yield "ours, attention of flashinfer", lambda: fast(None, flashinfer_attend)
        yield "small pass, ours", lambda: small(None)
        yield "small pass, without graphs", lambda: small(False)

    def measure(self, length: int) -> dict[str, Any]:
        """Time every way over one length; ratios are to ours, errors to float32's logits."""
        exact = self.model.float().logits_at(*self.inputs(length))
        self.model.to(self.dtype)
        found: dict[str, Any] = {}
        for name, prepare in self.ways(length):
            found[name] = self._measure_one(prepare, exact)
            print(length, name, found[name], flush=True)
            gc.collect()
            torch.cuda.empty_cache()  # does nothing where there is no card
        for name, one in found.items():
            ours = found["small pass, ours" if name.startswith("small") else "ours"]
            if "seconds" in one and "seconds" in ours:
                one["times_ours"] = round(one["seconds"] / ours["seconds"], 3)
        return found

    def _measure_one(self, prepare: Callable[[], Call], exact: Tensor) -> dict[str, Any]:
        try:
            begin = time.perf_counter()
            call = torch.inference_mode()(prepare())
            seconds_of(call, self.device)
            first = time.perf_counter() - begin  # compiles, captures and measures rates
            logits = call().float()
            seconds = median_seconds(call, self.device, at_least=self.at_least, warm_ups=2)
        except Exception as error:  # an absent library, or one that cannot serve this shape
            return {"absent": f"{type(error).__name__}: {error}"[:300]}
        return {
            "seconds": seconds,
            "first_call_seconds": round(first, 2),
            "relative_error": ((logits - exact).norm() / exact.norm()).item(),
            "argmax_agreement": (logits.argmax(-1) == exact.argmax(-1)).float().mean().item(),
        }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--quick", action="store_true", help="a tiny network, on any machine")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--modes", nargs="*", default=COMPILE_MODES, help="of torch.compile")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    given = parser.parse_args()
    comparison = Comparison(quick=given.quick, num_layers=given.layers, modes=given.modes)
    record: dict[str, Any] = {**describe_run(), "layers": given.layers, "lengths": {}}
    for length in given.lengths:
        record["lengths"][str(length)] = comparison.measure(length)
        write_record(given.record, record)


if __name__ == "__main__":
    main()
