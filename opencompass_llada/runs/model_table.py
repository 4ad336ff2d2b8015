"""Lists what is known of each checkpoint, every fact once.

`model_configs` makes model configs of it; docs/reference/models.md shows it. Sources: LongLLaDA,
arXiv 2506.14429, sections 4 and 5, and its repository OpenMOSS/LongLLaDA; UltraLLaDA, arXiv
2510.10481, and its repository Relaxed-System-Lab/UltraLLaDA; of the others, each entry's own
`source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from opencompass_llada.benchmarks.short.facts import INSTRUCT_SHORT, LLADA_1_5_SHORT

#: Benchmark -> ``max_out_len`` (tokens to generate) and what the papers run the sampler with:
#: without ``block_length`` the sampler has no blocks, without ``num_steps`` there is no sampler.
Generation = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """What is known of a checkpoint."""

    title: str
    """The name in tables and plots."""
    path: str
    """Shipped asset or hub name."""
    adapter: str | None = None
    """Folder or hub id of an adapter over it; only of what a run names itself."""
    family: str
    """What config.json says, as the wrapper's ``model_type`` takes it; one for all autoregressive
    networks."""
    chat: bool = False
    """Whether it is tuned to a chat template; a base model never gets one."""
    trained_length: int
    """Tokens that the checkpoint saw in training."""
    pretrained_length: int | None = None
    """Those before its context was extended, where its config.json is not at hand to state them;
    None for `trained_length`."""
    block_length: int | None = None
    """Tokens of its blocks where it is block-causal; its config.json, or the family, decides."""
    mask_token_id: int | None = None
    """The mask's id where the checkpoint's authors give it beside config.json."""
    licence: str = "not known"
    source: str = "LongLLaDA, UltraLLaDA"
    """Where trained length, blocks and licence were read."""
    states_length: bool = True
    """False where its config.json says another length than that."""
    takes_scaling: bool = True
    """Whether its RoPE can be scaled at all."""
    scalings: tuple[str, ...] = ()
    """The RoPE scalings that the papers give it, as `model_configs.parse_scaling` reads them."""
    generation: Generation
    """How it generates at each benchmark."""
    tuned_steps: bool = False
    """True where the steps fit the blocks of each benchmark's own answers alone, so that
    ``--models NAME``, for any data set, takes one token a step."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """Options of the sampler at every benchmark."""
    short: Generation = field(default_factory=dict)
    """How a chat model generates at short context, by task."""
    paper_dtype: str | None = None
    """The precision that the papers ran it in. Ours is bfloat16 on a GPU."""
    dtype: str | None = None
    """Ours, where it is not the wrapper's default."""
    batch_size: int = 1
    """Prompts at a time."""

    @property
    def weights(self) -> str:
        """Path of its checkpoint, and of the adapter over it if there is one."""
        return self.path if self.adapter is None else f"{self.path}+peft={self.adapter}"

    @property
    def is_autoregressive(self) -> bool:
        """Whether it writes from left to right."""
        return self.family == "autoregressive"


# LongLLaDA's lambdas: its Eq. 6, rounded up, for 8K, 16K, 24K and 32K tokens.
_LONGLLADA_SCALINGS = tuple(f"ntk:theta_multiplier={factor}" for factor in (4, 14, 31, 55))
# UltraLLaDA's method, for 8K to 128K tokens.
_ULTRALLADA_SCALINGS = tuple(
    f"diffusion_ntk:target_length={1024 * k}" for k in (8, 16, 32, 64, 128)
)


def _generation(
    niah: tuple[int, ...], ruler: tuple[int, ...], longbench: tuple[int, ...]
) -> Generation:
    """Return settings by benchmark, from new tokens, steps and block length, as far as there."""
    names = ("max_out_len", "num_steps", "block_length")
    given = {"niah": niah, "ruler": ruler, "longbench": longbench}
    return {name: dict(zip(names, values, strict=False)) for name, values in given.items()}


# One block at NIAH and RULER and one step a token; 512 tokens in blocks of 64 at LongBench, where
# a data set that asks for fewer gets fewer steps.
LONGLLADA_GENERATION = _generation((32, 32, 32), (64, 64, 64), (512, 512, 64))
# As LongLLaDA's, but two tokens a step at NIAH.
ULTRALLADA_GENERATION = _generation((32, 16, 32), (64, 64, 64), (512, 512, 64))
_LLAMA_GENERATION = _generation((32,), (64,), (512,))
# RULER's answers in tiny-llada's tokens, six samples a task counted: a uuid takes 32 to 37, four
# values 35, ten common words 35 to 48 with commas, so that 32 tokens cut nearly all of them short.
# 48 holds these and is three blocks of 16. It does not hold ten numbered words, up to 70, and
# tiny-llada does number them. Tasks for which RULER itself keeps less than 48 get that:
# `benchmarks.ruler.plan`.
TINY_RULER_TOKENS = 48
# For speed on two cores: four tokens a step.
TINY_GENERATION = _generation(
    (16, 4, 16), (TINY_RULER_TOKENS, TINY_RULER_TOKENS // 4, 16), (32, 8, 32)
)


def autoregressive(title: str, path: str, trained_length: int, **facts: Any) -> KnownModel:
    """Return an autoregressive baseline, which generates as the papers' LLaMA-3."""
    return KnownModel(
        title=title,
        path=path,
        family="autoregressive",
        trained_length=trained_length,
        **{"generation": _LLAMA_GENERATION, **facts},
    )


_LLADA = KnownModel(
    title="LLaDA-8B-Base",
    path="GSAI-ML/LLaDA-8B-Base",
    family="llada",
    trained_length=4096,
    licence="MIT",
    source="LongLLaDA, UltraLLaDA; README of ML-GSAI/LLaDA (licence)",
    scalings=_LONGLLADA_SCALINGS + _ULTRALLADA_SCALINGS,
    generation=LONGLLADA_GENERATION,
    paper_dtype="float16",
)
_UNSTATED: dict[str, Any] = {"licence": "not known", "source": "LongLLaDA, UltraLLaDA"}
_DREAM = KnownModel(
    title="Dream-v0-Base-7B",
    path="Dream-org/Dream-v0-Base-7B",
    family="dream",
    # LongLLaDA's and UltraLLaDA's number; config.json says max_position_embeddings 131,072.
    trained_length=2048,
    states_length=False,
    scalings=("ntk:theta_multiplier=5",),  # for 4K, in LongLLaDA's repository alone
    generation=_generation((32, 32), (64, 64), (512, 512)),
    sampler={"remasking": "entropy", "temperature": 0.2, "top_p": 0.95},
    paper_dtype="bfloat16",
)
_LLAMA = autoregressive(
    "LLaMA-3-8B",
    "meta-llama/Meta-Llama-3-8B",
    8192,
    # LongLLaDA's, for 16K and 32K.
    scalings=("ntk:theta_multiplier=4", "ntk:theta_multiplier=13"),
    paper_dtype="float16",
)
_TINY: dict[str, Any] = {
    **{"dtype": "float32", "batch_size": 2, "tuned_steps": True},
    **{"licence": "this package's", "source": "their recipes"},
}


# iLLaDA's paper gives no settings at these benchmarks: LLaDA-8B's.
_ILLADA = KnownModel(
    title="iLLaDA-8B-Base",
    path="GSAI-ML/iLLaDA-8B-Base",
    family="llada",
    trained_length=8192,
    licence="Apache-2.0",
    mask_token_id=5,
    source="README of ML-GSAI/LLaDA (licence, mask 5); model card and arXiv 2606.25331 (length)",
    generation=LONGLLADA_GENERATION,
    sampler={"variable_length": True},  # its abstract: for inference and evaluation
)
_LLADA_MOE = KnownModel(
    title="LLaDA-MoE-7B-A1B-Base",
    path="inclusionAI/LLaDA-MoE-7B-A1B-Base",
    family="llada_moe",
    trained_length=8192,
    licence="Apache-2.0",
    source="model card (licence); summaries of arXiv 2509.24389 (length, of its last stage)",
    generation=LONGLLADA_GENERATION,
)
# One token a step at most, in the blocks of the checkpoint; a confident block takes fewer.
_BLOCK_GENERATION = _generation((32, 32), (64, 64), (512, 512))
_SDAR_SOURCE = "JetAstra/SDAR: README (blocks, licence) and {config} (length)"
_SDAR = KnownModel(
    title="SDAR-8B-Chat",
    path="JetLM/SDAR-8B-Chat",
    family="sdar",
    chat=True,
    trained_length=32768,
    block_length=4,
    licence="MIT",
    source=_SDAR_SOURCE.format(config="SDAR-8B-Chat's config.json"),
    generation=_BLOCK_GENERATION,
)
_SDAR_SMALL = _SDAR_SOURCE.format(config="SDAR-8B-Chat's config.json, its own not being at hand,")


_FAST_DLLM = KnownModel(
    title="Fast-dLLM-v2-7B",
    path="Efficient-Large-Model/Fast_dLLM_v2_7B",
    family="fast_dllm_qwen",
    chat=True,
    trained_length=32768,
    block_length=32,
    licence="Apache-2.0",
    source="Efficient-Large-Model/Fast_dLLM_v2_7B: config.json (length, Qwen2.5's; blocks), "
    "README (licence)",
    generation=_BLOCK_GENERATION,
)
_DIFFUSION_GEMMA = KnownModel(
    title="DiffusionGemma-26B-A4B-it",
    path="google/diffusiongemma-26B-A4B-it",
    family="diffusion_gemma",
    chat=True,
    trained_length=262144,
    block_length=256,
    licence="Apache-2.0",
    source="transformers' models/diffusion_gemma (canvas); model card (length, licence)",
    takes_scaling=False,
    generation=_LLAMA_GENERATION,
)


def _like(other: KnownModel, title: str, path: str, **own: Any) -> KnownModel:
    return replace(other, title=title, path=path, **own)


_TINY_LLADA = _like(
    _LLADA, "tiny-llada", "asset:tiny-llada", generation=TINY_GENERATION, paper_dtype=None, **_TINY
)
KNOWN_MODELS: dict[str, KnownModel] = {
    "tiny_llada": replace(_TINY_LLADA, trained_length=512, scalings=("ntk", "diffusion_ntk")),
    "tiny_llada_long": _like(
        _TINY_LLADA, "tiny-llada-long", "asset:tiny-llada-long", trained_length=16384, scalings=()
    ),
    # Needles in four tokens a step, as tiny-llada: its blocks are one step each.
    "tiny_block": _like(
        _SDAR,
        "tiny-block",
        "asset:tiny-block",
        chat=False,
        trained_length=512,
        scalings=("ntk",),
        generation=_generation((16, 4), (TINY_RULER_TOKENS, TINY_RULER_TOKENS), (32, 32)),
        **_TINY,
    ),
    "tiny_ar": autoregressive(
        "tiny-ar",
        "asset:tiny-ar",
        512,
        scalings=("ntk",),
        generation=_generation((16,), (TINY_RULER_TOKENS,), (32,)),
        **_TINY,
    ),
    "llada_8b_base": _LLADA,
    "llada_8b_instruct": _like(
        _LLADA, "LLaDA-8B-Instruct", "GSAI-ML/LLaDA-8B-Instruct", chat=True, short=INSTRUCT_SHORT
    ),
    "llada_1_5": _like(
        _LLADA,
        "LLaDA-1.5",
        "GSAI-ML/LLaDA-1.5",
        chat=True,
        short=LLADA_1_5_SHORT,
        **_UNSTATED,
    ),
    "ultrallada": _like(
        _LLADA,
        "UltraLLaDA",
        "relaxe-system-lab/UltraLLaDA",
        trained_length=131072,
        pretrained_length=_LLADA.trained_length,
        scalings=(),  # its repository runs it with factor 1: the scaling is in config.json
        generation=ULTRALLADA_GENERATION,
        **_UNSTATED,
    ),
    "illada_8b_base": _ILLADA,
    "illada_8b_instruct": _like(
        _ILLADA, "iLLaDA-8B-Instruct", "GSAI-ML/iLLaDA-8B-Instruct", chat=True
    ),
    "llada_moe_7b_base": _LLADA_MOE,
    "llada_moe_7b_instruct": _like(
        _LLADA_MOE,
        "LLaDA-MoE-7B-A1B-Instruct",
        "inclusionAI/LLaDA-MoE-7B-A1B-Instruct",
        chat=True,
    ),
    "dream_v0_7b_base": _DREAM,
    "dream_v0_7b_instruct": _like(
        _DREAM, "Dream-v0-Instruct-7B", "Dream-org/Dream-v0-Instruct-7B", chat=True
    ),
    "sdar_1_7b_chat": _like(_SDAR, "SDAR-1.7B-Chat", "JetLM/SDAR-1.7B-Chat", source=_SDAR_SMALL),
    "sdar_4b_chat": _like(_SDAR, "SDAR-4B-Chat", "JetLM/SDAR-4B-Chat", source=_SDAR_SMALL),
    "sdar_8b_chat": _SDAR,
    "llada2_mini": _like(
        _SDAR,
        "LLaDA2.0-mini",
        "inclusionAI/LLaDA2.0-mini",
        family="llada2_moe",
        block_length=32,
        states_length=False,
        licence="Apache-2.0",
        # arXiv 2512.15745 reaches 65,536 tokens so, with degraded answers.
        scalings=("yarn:factor=2",),
        source="model card (length, where dFactory's config.json says 16,384); "
        "inclusionAI/dFactory (blocks, licence)",
    ),
    "fast_dllm_v2_1_5b": _like(
        _FAST_DLLM,
        "Fast-dLLM-v2-1.5B",
        "Efficient-Large-Model/Fast_dLLM_v2_1.5B",
        source=_FAST_DLLM.source + "; its own config.json was not at hand",
    ),
    "fast_dllm_v2_7b": _FAST_DLLM,
    "diffusion_gemma_26b_it": _DIFFUSION_GEMMA,
    "llama_3_8b_base": _LLAMA,
    "llama_3_8b_instruct": _like(
        _LLAMA, "LLaMA-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct", chat=True
    ),
}
