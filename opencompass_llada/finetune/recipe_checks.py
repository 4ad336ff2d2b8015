"""What a recipe's values must be, one by one and together; needs no file and no device."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opencompass_llada.finetune.networks import LLAMA_NAMES
from opencompass_llada.finetune.recipe_parts import SHORTEST_ROW
from opencompass_llada.finetune.styles import STYLES
from opencompass_llada.modeling import LLaDAConfig
from opencompass_llada.options import reject_unknown, unknown_name_message
from opencompass_llada.rope_scaling import parse_rope_scaling

if TYPE_CHECKING:
    from opencompass_llada.finetune.recipe import Recipe

CHOICES = {
    "objective": ("masked_diffusion", "autoregressive"),
    "strategy": ("windows", "adaptive", "eod", "direct"),
    "loss_weight": ("inverse_t", "none"),
    "mask_ratios": ("low_discrepancy", "uniform"),
    "dtype": ("bfloat16", "float16", "float32"),
    "parameter_dtype": ("float32", "bfloat16"),
}
#: Scalings that a checkpoint can carry: they change the base alone, or nothing.
TRAINED_SCALINGS = ("none", "ntk", "diffusion_ntk")
#: Field -> smallest whole number; None is allowed where the default is None.
_LOWEST = {
    "vocab_size": 1,
    "log_every": 1,
    "probe_every": 1,
    "warmup_steps": 0,
    "num_workers": 0,
    "keep_last": 1,
    "micro_rows": 1,
    "max_document_tokens": 1,
    "mlp_tile": 1,
    "loss_chunk": 1,
    "sequence_parallel": 1,
}
#: Field -> whether it must be above 0 (else from 0).
_NUMBERS = {
    "learning_rate": True,
    "clip_norm": True,
    "weight_decay": False,
    "min_mask_ratio": False,
    "continuation_share": False,
    "retrieval_share": False,
    "retrieval_masked_everywhere": False,
    "time_limit": True,
    "memory_limit": True,
    "ema_decay": True,
}
#: Fields of the network's config that the trainer sets itself.
_SET_BY_TRAINER = (
    *("vocab_size", "embedding_size", "max_sequence_length"),
    *("mask_token_id", "eos_token_id", "pad_token_id"),
)


def check_recipe(recipe: Recipe) -> None:
    """Check everything that needs no file and no device.

    Args:
        recipe: Not checked yet.

    Raises:
        ValueError: For the first value or combination that is wrong; says what would be right.
    """
    if not isinstance(recipe.output_dir, str) or not recipe.output_dir:
        raise ValueError(
            f"recipe: output_dir={recipe.output_dir!r} must name a folder: checkpoints/mine."
        )
    _check_numbers(recipe)
    for name, allowed in CHOICES.items():
        if getattr(recipe, name) not in allowed:
            raise ValueError(
                "recipe: " + unknown_name_message(name, str(getattr(recipe, name)), allowed)
            )
    for name in ("continuation_share", "retrieval_share", "retrieval_masked_everywhere"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise ValueError(f"recipe: {name}={getattr(recipe, name)} must be from 0 to 1.")
    for name in ("min_mask_ratio", "ema_decay"):
        value = getattr(recipe, name)
        if value is not None and not 0 < value < 1:
            raise ValueError(f"recipe: {name}={value} must be above 0 and below 1.")
    for item in dataclasses.fields(recipe):
        if item.type == "bool" and not isinstance(getattr(recipe, item.name), bool):
            raise ValueError(
                f"recipe: {item.name}={getattr(recipe, item.name)!r} must be true or false."
            )
    if not recipe.text or not recipe.phases:
        raise ValueError("recipe: text and phases need at least one entry each.")
    _check_styles(recipe)
    _check_start(recipe)
    _check_combinations(recipe)


def _check_numbers(recipe: Recipe) -> None:
    defaults = {item.name: item.default for item in dataclasses.fields(recipe)}
    for name, lowest in _LOWEST.items():
        value = getattr(recipe, name)
        if value is None and defaults[name] is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ValueError(f"recipe: {name}={value!r} must be a whole number from {lowest}.")
    for name, positive in _NUMBERS.items():
        value = getattr(recipe, name)
        if value is None and defaults[name] is None:
            continue
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(
                f"recipe: {name}={value!r} must be a number from 0 (YAML takes 3e-3 for text: "
                "write 3.0e-3)."
            )
        if positive and value == 0:
            raise ValueError(f"recipe: {name}={value!r} must be above 0.")
    betas = recipe.betas
    pair = isinstance(betas, tuple) and len(betas) == 2
    if not pair or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas):
        raise ValueError(f"recipe: betas={betas!r} must be two numbers from 0 to below 1.")


def _check_styles(recipe: Recipe) -> None:
    styles = recipe.retrieval_styles
    if not isinstance(styles, Mapping):
        raise ValueError(
            f"recipe: retrieval_styles={styles!r} must map styles to shares: {{words: 1, copy: 2}}."
        )
    reject_unknown("style in retrieval_styles", styles, STYLES)
    shares = list(styles.values())
    if not all(isinstance(n, int | float) and n >= 0 for n in shares) or not sum(shares) > 0:
        raise ValueError(
            f"recipe: retrieval_styles={dict(styles)!r} must map styles to shares from 0, one "
            "of them above 0."
        )
    shortest = min(phase.sequence_length for phase in recipe.phases)
    if recipe.retrieval_share and shortest < SHORTEST_ROW:
        raise ValueError(
            f"recipe phases: sequence_length={shortest} must be at least {SHORTEST_ROW}, which "
            "retrieval rows need."
        )


def _check_start(recipe: Recipe) -> None:
    known = inspect.signature(LLaDAConfig.__init__).parameters.keys()
    reject_unknown("model key", recipe.model, known - {"self", "kwargs", *_SET_BY_TRAINER})
    if recipe.objective == "autoregressive":
        reject_unknown("model key of the autoregressive objective", recipe.model, LLAMA_NAMES)
    scaling = parse_rope_scaling(recipe.rope_scaling).type
    if scaling not in TRAINED_SCALINGS:
        raise ValueError(
            f"recipe: rope_scaling {scaling!r} changes more than RoPE's base, which "
            "config.json cannot say to other loaders; train with "
            f"{', '.join(TRAINED_SCALINGS)}."
        )
    if recipe.init_from is None:
        if not recipe.model or recipe.vocab_size is None:
            raise ValueError(
                "recipe: give init_from (a checkpoint to post-train), or model and vocab_size "
                "for a network from scratch."
            )
        if recipe.rope_scaling is not None:
            raise ValueError(
                "recipe: rope_scaling changes a checkpoint's RoPE and needs init_from; a "
                "network from scratch takes model.rope_theta."
            )
    elif recipe.model or recipe.vocab_size is not None:
        raise ValueError(
            "recipe: init_from brings its own sizes and tokenizer; leave model and vocab_size out."
        )


def _check_combinations(recipe: Recipe) -> None:
    if recipe.objective == "autoregressive":
        for name, needed in (
            ("strategy", "windows"),
            ("init_from", None),
            ("lora", None),
            ("continuation_share", 0.0),
            ("sequence_parallel", 1),
        ):
            if getattr(recipe, name) != needed:
                raise ValueError(
                    f"recipe: {name}={getattr(recipe, name)!r} does not work with "
                    f"objective='autoregressive', which is the small twin; it takes {needed!r}."
                )
        if any(phase.continuation_share for phase in recipe.phases):
            raise ValueError(
                "recipe phases: continuation_share does not work with objective='autoregressive', "
                "which is the small twin; leave it out."
            )
    if recipe.strategy == "windows" and any(source.prompt_field for source in recipe.text):
        raise ValueError(
            "recipe: prompt_field needs whole documents, which strategy='windows' cuts; use "
            "adaptive, eod or direct."
        )
    for name in ("offload_checkpoints", "keep_attention"):
        if getattr(recipe, name) and not recipe.activation_checkpointing:
            raise ValueError(
                f"recipe: {name}=true says what activation checkpoints keep and where; it needs "
                "activation_checkpointing=true."
            )
    if recipe.offload_checkpoints and recipe.keep_attention:
        raise ValueError(
            "recipe: offload_checkpoints=true keeps one activation a block on the host, "
            "keep_attention=true keeps another on the device; choose one."
        )
    for phase in recipe.phases:
        if phase.sequence_length % recipe.sequence_parallel:
            raise ValueError(
                f"recipe phases: sequence_length={phase.sequence_length} must be a multiple of "
                f"sequence_parallel={recipe.sequence_parallel}."
            )
