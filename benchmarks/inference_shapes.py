"""The benchmark's shapes and modes, and the random network that they are run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from opencompass_llada.networks import LLaDAConfig, LLaDAForMaskedDiffusion
from opencompass_llada.sampling import CacheOptions

Network = TypeVar("Network", bound=torch.nn.Module)

MODES = {
    "exact": CacheOptions(),
    "prompt": CacheOptions(type="prompt"),
    "prompt-fp8": CacheOptions(type="prompt", dtype="float8"),
    "dual": CacheOptions(type="dual"),
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One generation: how long, in which steps, under which cache policies."""

    prompt: int
    new: int
    block: int
    steps: int
    modes: tuple[str, ...]
    baseline_steps: int = 0
    """Steps of the papers' algorithm to time at this prompt length; 0 takes another shape's."""
    asked: str = ""

    @property
    def name(self) -> str:
        """A short name, such as ``32K+32/16`` for 32 tokens in 16 steps."""
        prompt = str(self.prompt) if self.prompt % 1024 else f"{self.prompt // 1024}K"
        return f"{prompt}+{self.new}" + ("" if self.steps == self.new else f"/{self.steps}")


def _niah(prompt: int, *modes: str, steps: int = 32, **options: Any) -> Shape:
    return Shape(prompt=prompt, new=32, block=32, steps=steps, modes=modes, **options)


H100_SHAPES = (
    _niah(4096, "exact", "prompt", "prompt-fp8", baseline_steps=4, asked="seeds 11"),
    _niah(4096, "prompt", steps=16),
    _niah(32768, "prompt", "prompt-fp8", baseline_steps=2, asked="seeds 35, floor 1.25"),
    _niah(32768, "prompt", steps=16),
    _niah(65536, "prompt", "prompt-fp8", baseline_steps=1, asked="seeds 42, floor 1.15"),
    _niah(131072, "prompt-fp8", asked="76 GB, floor 1.2"),
    Shape(
        prompt=32768, new=64, block=64, steps=64, modes=("prompt", "prompt-fp8"), asked="seeds 55"
    ),
    Shape(
        prompt=16384,
        new=512,
        block=64,
        steps=512,
        modes=("prompt", "dual"),
        baseline_steps=2,
        asked="seeds 35",
    ),
)
QUICK_SHAPES = (
    Shape(
        prompt=64,
        new=8,
        block=8,
        steps=8,
        modes=("exact", "prompt", "prompt-fp8"),
        baseline_steps=1,
    ),
    Shape(prompt=48, new=8, block=4, steps=8, modes=("prompt", "dual"), baseline_steps=1),
)


def make_model(quick: bool, device: torch.device) -> LLaDAForMaskedDiffusion:
    """Return a random network of LLaDA-8B's shape, or a tiny one, made on the device."""
    sizes: dict[str, Any] = {}
    if quick:
        sizes = {
            "d_model": 64,
            "n_heads": 2,
            "n_layers": 2,
            "mlp_hidden_size": 96,
            "vocab_size": 300,
            "mask_token_id": 299,
            "eos_token_id": 298,
            "pad_token_id": 298,
        }
    return make_random(LLaDAForMaskedDiffusion, LLaDAConfig(**sizes), device)


def make_random(make: Callable[[Any], Network], config: Any, device: torch.device) -> Network:
    """Return a module of random weights made on the device, in bfloat16 on CUDA, else float32."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device("meta"):
        model = make(config)
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(std=0.02)
    for buffer in model.buffers():
        buffer.zero_()
    return model


def weight_bytes(model: LLaDAForMaskedDiffusion) -> int:
    """Return the bytes of all weights that a step reads whole: all but the embedding."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    embedding = model.get_input_embeddings().weight
    return total - embedding.numel() * embedding.element_size()


def pass_operations(model: LLaDAForMaskedDiffusion, num_tokens: int) -> tuple[float, float]:
    """Return operations of one full pass: matrix products (no head), attention."""
    weights = sum(p.numel() for block in model.blocks for p in block.parameters() if p.ndim == 2)
    config = model.config
    attention = 4.0 * num_tokens**2 * config.d_model * config.n_layers
    return 2.0 * weights * num_tokens, attention
