"""What a recipe's values must be together; needs no file and no device.

Types and ranges of single values stand at the recipe's fields; `explain` words what is wrong there.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from opencompass_llada.finetune.networks import LLAMA_NAMES
from opencompass_llada.finetune.recipe_parts import SHORTEST_ROW, STRICT, Positive, Whole
from opencompass_llada.finetune.styles import STYLES
from opencompass_llada.modeling import LLaDAConfig
from opencompass_llada.options import reject_unknown, unknown_name_message
from opencompass_llada.rope_scaling import parse_rope_scaling

if TYPE_CHECKING:
    from opencompass_llada.finetune.recipe import Recipe

#: Scalings that a checkpoint can carry: they change the base alone, or nothing.
TRAINED_SCALINGS = ("none", "ntk", "diffusion_ntk")
#: Sizes that are no whole numbers, that may be null, and what the trainer sets itself.
_REAL = ("rope_theta", "rms_norm_eps", "init_std", "mlp_ratio")
_MAY_BE_NONE = ("n_kv_heads", "mlp_hidden_size")
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
    if not recipe.text or not recipe.phases:
        raise ValueError("recipe: text and phases need at least one entry each.")
    _check_styles(recipe)
    _check_start(recipe)
    _check_combinations(recipe)


def _check_styles(recipe: Recipe) -> None:
    styles = recipe.retrieval_styles
    reject_unknown("style in retrieval_styles", styles, STYLES)
    if not sum(styles.values()) > 0:
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
    for name, value in recipe.model.items():
        kind: Any = Positive if name in _REAL else Whole
        if value is not None or name not in _MAY_BE_NONE:
            try:
                TypeAdapter(kind, config=STRICT).validate_python(value)
            except ValidationError:
                raise ValueError(wrong_value("recipe model", name, value, kind)) from None
    try:
        scaling = parse_rope_scaling(recipe.rope_scaling).type
    except ValueError as error:
        raise ValueError(f"recipe: rope_scaling={recipe.rope_scaling!r}: {error}") from error
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
        _check_sizes(recipe.model)
    elif recipe.model or recipe.vocab_size is not None:
        raise ValueError(
            "recipe: init_from brings its own sizes and tokenizer; leave model and vocab_size out."
        )


def _check_sizes(sizes: Mapping[str, Any]) -> None:
    """Refuse sizes that make no network; the special tokens come later."""
    try:
        head = LLaDAConfig(**sizes, mask_token_id=0, eos_token_id=0).head_dim
    except (ValueError, ZeroDivisionError) as error:
        reason = str(error).removeprefix("config.json: ")
        raise ValueError(f"recipe model: {reason}") from error
    if head % 2:
        raise ValueError(
            f"recipe model: d_model / n_heads={head} must be even, since RoPE turns pairs."
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


def explain(error: ValidationError, what: str, cls: type) -> str:
    """Word the first fault that pydantic found as this package's errors are.

    Args:
        error: What it raised.
        what: The group of keys, ``recipe phases``.
        cls: The group's class.

    Returns:
        One paragraph with the value, the rule and the remedy.
    """
    fault = error.errors()[0]
    if fault["type"] == "value_error":  # from a check of ours, in its own words
        return str(fault["ctx"]["error"])
    name, *inner = fault["loc"]
    annotation = get_type_hints(cls, include_extras=True)[str(name)]
    for _ in inner:
        annotation = _element(annotation)
    place = str(name) + "".join(f"[{part!r}]" for part in inner)
    if get_origin(annotation) is Literal and isinstance(fault["input"], str):
        allowed = get_args(annotation)
        return f"{what}: " + unknown_name_message(place, fault["input"], allowed)
    return wrong_value(what, place, fault["input"], annotation)


def wrong_value(what: str, name: str, value: Any, annotation: Any) -> str:
    """Say what a value must be by its annotation.

    Args:
        what: The group of keys.
        name: The key.
        value: What was given.
        annotation: What it must be; its Field's description is the rule.
    """
    rule, hint = _rule(annotation), ""
    if isinstance(value, str) and "number" in rule:
        hint = _number_hint(value)
    elif rule == "a list":
        hint = f": [{value}]"
    verb = "" if rule.startswith("name") else "be "
    return f"{what}: {name}={value!r} must {verb}{rule}{hint}."


def _number_hint(text: str) -> str:
    """Say how YAML takes a number: 3e-3 is text, 3.0e-3 is none."""
    mantissa, mark, exponent = text.strip().lower().partition("e")
    try:
        number = f"{float(mantissa)}e{exponent}" if mark else str(yaml.safe_load(text))
        float(number)
    except (ValueError, yaml.YAMLError):
        return ""
    return f" (YAML takes {text} for text: write {number})"


def _element(annotation: Any) -> Any:
    """Return the annotation of a list's entries or of a mapping's values."""
    if get_origin(annotation) is Annotated:
        return annotation  # its description is of the entries
    first, *others = get_args(annotation)
    return first if get_origin(annotation) is tuple else others[-1]


def _rule(annotation: Any) -> str:
    """Say in words what an annotation allows."""
    members = get_args(annotation)
    for part in members:
        if isinstance(part, FieldInfo) and part.description:
            return part.description
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_rule(part) for part in members if part is not type(None)) + ", or null"
    if origin is Literal:
        return f"one of {', '.join(members)}"
    if origin is tuple:
        return "a list"
    return "true or false" if annotation is bool else "a mapping of keys to values"
