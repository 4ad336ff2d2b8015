"""The networks and lengths of `block_causal`, in their true sizes and tiny, and its parts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from opencompass_llada.networks import (
    NETWORKS,
    LLaDAConfig,
    LLaDAForMaskedDiffusion,
    SDARConfig,
    SDARForMaskedDiffusion,
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Lengths and shapes of one run."""

    exact: dict[int, int]
    """Prompt length -> denoising steps, all of which are full passes."""
    prompt: int
    new: int
    blocks: tuple[int, ...]
    published_tokens: int
    """Tokens that SDAR's own sampler is timed for, beyond the first block length."""
    prefill: tuple[int, ...]
    prefill_block: int
    agreement_length: int
    agreement_layers: int
    expert_tokens: tuple[int, ...]
    at_least: float
    """Seconds that a short call is repeated for."""
    is_tiny: bool
    new_exact: int = 32

    @property
    def longest(self) -> int:
        """Longest prompt whose pass is timed."""
        return max(self.prefill)


SHAPES = Sizes(
    exact={131072: 2, 262144: 1},
    prompt=32768,
    new=256,
    blocks=(4, 16, 32),
    published_tokens=64,
    prefill=(32768, 131072),
    prefill_block=4,
    agreement_length=4096,
    agreement_layers=4,
    expert_tokens=(32768, 8192, 32),
    at_least=0.3,
    is_tiny=False,
)
TINY = Sizes(
    exact={64: 2, 128: 1},
    prompt=128,
    new=32,
    blocks=(4, 16, 32),
    published_tokens=32,
    prefill=(64, 128),
    prefill_block=4,
    agreement_length=64,
    agreement_layers=2,
    expert_tokens=(64, 32),
    at_least=0.01,
    is_tiny=True,
)


def illada(sizes: Sizes) -> tuple[Any, Any]:
    """Return iLLaDA-8B's network and configuration."""
    fields: dict[str, Any] = {"n_layers": 32, "n_heads": 32, "n_kv_heads": 8}
    fields |= {"mlp_hidden_size": 14336, "vocab_size": 155136, "max_sequence_length": 8192}
    if sizes.is_tiny:
        fields |= {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 64}
        fields |= {"mlp_hidden_size": 96, "vocab_size": 300, "eos_token_id": 298}
        fields |= {"pad_token_id": 298}
    return LLaDAForMaskedDiffusion, LLaDAConfig(weight_tying=True, mask_token_id=5, **fields)


def sdar(sizes: Sizes, num_layers: int | None = None) -> tuple[Any, Any]:
    """Return SDAR-8B's network and configuration, with fewer layers if asked."""
    fields: dict[str, Any] = {}
    if sizes.is_tiny:
        fields |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
        fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        fields |= {"vocab_size": 300, "mask_token_id": 299, "eos_token_id": 298}
    if num_layers is not None:
        fields["num_hidden_layers"] = num_layers
    return SDARForMaskedDiffusion, SDARConfig(**fields)


def llada2(sizes: Sizes) -> tuple[Any, Any]:
    """Return LLaDA2.0-mini's network and configuration."""
    network = NETWORKS["llada2_moe"]
    fields: dict[str, Any] = {"mask_token_id": 156895, "eos_token_id": 156892}
    if sizes.is_tiny:
        fields |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
        fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        fields |= {"vocab_size": 300, "mask_token_id": 299, "eos_token_id": 298}
        fields |= {"pad_token_id": 298, "num_experts": 16, "moe_intermediate_size": 32}
        fields |= {"num_experts_per_tok": 4, "n_group": 4, "topk_group": 2}
    return network, network.config_class(**fields)


def make_parts(bench: Any) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """Yield the parts in the order of running: name, what makes the network it needs, the call."""
    sizes, partial = bench.sizes, functools.partial
    for prompt, steps in sizes.exact.items():
        yield f"iLLaDA-8B {prompt}", illada, partial(bench.exact, prompt, steps)
    for block in sizes.blocks:
        if bench.published is not None:
            yield f"published block {block}", sdar, partial(bench.published_generation, block)
        yield f"block {block}", sdar, partial(bench.generation, block)
    for length in sizes.prefill:
        yield f"prefill {length}", sdar, partial(bench.prefill, length)
    yield "prefill agreement", sdar, bench.prefill_agreement
    if "llada2_moe" not in NETWORKS:
        return
    for tokens in sizes.expert_tokens:
        yield f"experts {tokens}", None, partial(bench.experts, tokens)
    yield f"LLaDA2.0-mini {sizes.prompt}", llada2, bench.expert_network
