"""Reads what a config.json declares of rotary embeddings, and checks that a network holds it.

transformers 4 keeps the base in ``rope_theta`` and a scaling in ``rope_scaling``, 5 keeps both in
``rope_parameters``; each ignores what only the other knows. Shape suffix: D pairs of channels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from torch import nn

from opencompass_llada.rope.frequencies import inverse_frequencies, transformers_frequencies
from opencompass_llada.weight_files import CheckpointError

logger = logging.getLogger(__name__)

ROPE_FIELDS = ("rope_theta", "rope_scaling", "rope_parameters")
"""Where either major keeps the base and the scaling."""

_SHARE = "partial_rotary_factor"
_LOCAL = "rope_local_base_freq"  # of Gemma 3's sliding layers, in transformers 4
_ALIASES = {"rotary_emb_base": "rope_theta", "rotary_pct": _SHARE, "type": "rope_type"}
_TYPES = {"su": "longrope", "mrope": "default"}  # older names; mrope's frequencies are plain
_KNOWN_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")


@dataclass(frozen=True, kw_only=True)
class DeclaredRope:
    """Rotary embeddings as a config.json declares them, whatever the form."""

    theta: float | None = None
    """The base; None where it is not declared."""
    rope_type: str = "default"
    options: Mapping[str, Any] = field(default_factory=dict)
    """The scaling's numbers: factor, original_max_position_embeddings, ..."""
    rotated_share: float | None = None
    """Share of each head that is rotated; None where it is not declared."""

    @property
    def is_scaled(self) -> bool:
        """Whether a scaling is declared."""
        return self.rope_type != "default"


def read_declared_rope(fields: Mapping[str, Any]) -> dict[str, DeclaredRope]:
    """Read RoPE out of a config.json: by kind of layer, under ``""`` where all layers are alike."""
    parameters = _mapping(fields, "rope_parameters")
    nested = {kind: value for kind, value in parameters.items() if isinstance(value, Mapping)}
    if nested:
        return {kind: _merge({f"rope_parameters[{kind!r}]": v}) for kind, v in nested.items()}
    names = ("rope_theta", "rotary_emb_base", _SHARE, "rotary_pct")
    top = {name: fields[name] for name in names if name in fields}
    flat = _merge(
        {"": top, "rope_scaling": _mapping(fields, "rope_scaling"), "rope_parameters": parameters}
    )
    local = fields.get(_LOCAL)
    if local is None:
        return {"": flat}
    return {"full_attention": flat, "sliding_attention": _merge({"": {"rope_theta": local}})}


def read_config_rope(config: Any) -> dict[str, DeclaredRope]:
    """Read RoPE out of a config of transformers, which has the class's own where none was given."""
    return read_declared_rope({k: getattr(config, k, None) for k in (*ROPE_FIELDS, _LOCAL)})


def fields_for_installed_major(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json's fields in the form that the installed transformers reads."""
    fields = {k: v for k, v in fields.items() if k not in ROPE_FIELDS or v is not None}
    older = _mapping(fields, "rope_scaling")
    if older.get("type") == "su":  # the first name of Phi-3's, which transformers 5 does not know
        fields["rope_scaling"] = {**older, "type": _TYPES["su"]}
    if not _mapping(fields, "rope_parameters") or not transformers.__version__.startswith("4."):
        return fields
    declared = read_declared_rope(fields).get("")
    if declared is None:
        raise CheckpointError(
            f"config.json: rope_parameters={fields['rope_parameters']!r} declares RoPE by kind of "
            f"layer, which transformers {transformers.__version__} does not read. Install "
            "transformers 5 (pip install 'transformers>=5,<6')."
        )
    scaling = {"rope_type": declared.rope_type, **declared.options} if declared.is_scaled else None
    found = {
        **dict.fromkeys(("rope_theta", "rotary_emb_base"), declared.theta),
        **dict.fromkeys((_SHARE, "rotary_pct"), declared.rotated_share),
    }
    return {
        **{name: value for name, value in fields.items() if name != "rope_parameters"},
        **{name: value for name, value in found.items() if value is not None},
        "rope_scaling": scaling,
    }


def check_frequencies(
    model: nn.Module, declared: Mapping[str, DeclaredRope], config: Any, source: str
) -> None:
    """Refuse a network of transformers whose frequencies or attention factor are not the declared.

    What config.json leaves to the class is taken from transformers' ``config``.
    """
    wanted = _completed(declared, config, source)
    found = list(held_frequencies(model))
    holder = f"{type(model).__name__} of transformers {transformers.__version__}"
    if not found and any(rope.is_scaled for rope in wanted.values()):
        raise CheckpointError(
            f"Checkpoint {source}: config.json declares RoPE ({_describe(wanted)}), but {holder} "
            "holds no frequencies that could be scaled. Use the other major of transformers."
        )
    for kind, held_D, held_factor in found:
        choices = [wanted[kind]] if kind in wanted else list(wanted.values())
        if kind == "sliding_attention" and "" in wanted:  # Olmo 3's: such layers need no scaling
            choices.append(replace(wanted[""], rope_type="default", options={}))
        computed = [declared_frequencies(rope, len(held_D), config) for rope in choices]
        if not any(
            math.isclose(held_factor, factor, rel_tol=1e-5)
            and held_D.dtype == torch.float32
            and held_D.shape == table_D.shape
            and torch.allclose(held_D.cpu(), table_D, rtol=1e-5, atol=0.0)
            for table_D, factor in computed
        ):
            table_D, factor = computed[0]
            raise CheckpointError(
                f"Checkpoint {source}: config.json declares RoPE with {_describe(wanted)}: "
                f"frequencies {_ends(table_D)}, attention factor {factor:.5g}; but "
                f"{holder} holds {_ends(held_D)}, attention factor {held_factor:.5g}. Use the "
                "other major of transformers, or write RoPE into config.json in a form that this "
                "one reads."
            )


def held_frequencies(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, float]]:
    """Yield kind of layer, inverse frequencies [D] and attention factor of each embedding."""
    get_decoder = getattr(model, "get_decoder", None)
    text = (get_decoder() if get_decoder is not None else None) or model  # not an image's encoder
    for name, table_D in text.named_buffers():
        owner, _, own = name.rpartition(".")
        if own.endswith("inv_freq") and not own.endswith("original_inv_freq"):
            prefix = own.removesuffix("inv_freq")
            module = text.get_submodule(owner)
            factor = getattr(module, f"{prefix}attention_scaling", 1.0)
            kind = prefix.rstrip("_") or owner.rpartition(".")[2]
            yield kind, table_D, float(1.0 if factor is None else factor)


def _mapping(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"config.json: {name}={value!r} must be an object, or null.")
    return value


def _merge(places: Mapping[str, Mapping[str, Any]]) -> DeclaredRope:
    """Join what several places declare; a value may be said twice, but not two ways."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for place, given in places.items():
        # The newer name of two comes last: {"type": "mrope", "rope_type": "default"} exists.
        for name, value in sorted(given.items(), key=lambda item: item[0] not in _ALIASES):
            if value is None:
                continue
            known = _ALIASES.get(name, name)
            value = _TYPES.get(value, value) if known == "rope_type" else value
            origin = f"{place}.{name}" if place else name
            if known in merged and merged[known] != value and not origins[known].startswith(place):
                raise CheckpointError(
                    f"config.json: {origins[known]}={merged[known]!r} and {origin}={value!r} "
                    "disagree about RoPE. Keep the one that the checkpoint was trained with."
                )
            merged[known], origins[known] = value, origin
    for name, value in merged.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(v, float) and not math.isfinite(v) for v in numbers):
            raise CheckpointError(f"config.json: {origins[name]}={value!r} must be finite.")
        least = {"rope_theta": 1.0, _SHARE: 0.0}.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if least is not None and not (is_number and value > least):
            raise CheckpointError(
                f"config.json: {origins[name]}={value!r} must be a number above {least:g}."
            )
    theta, share = (
        float(merged.pop(name)) if name in merged else None for name in ("rope_theta", _SHARE)
    )
    rope_type = str(merged.pop("rope_type", "default"))
    return DeclaredRope(theta=theta, rope_type=rope_type, options=merged, rotated_share=share)


def _completed(
    declared: Mapping[str, DeclaredRope], config: Any, source: str
) -> dict[str, DeclaredRope]:
    """Fill in what config.json leaves out by what transformers' class of the config says."""
    own = read_config_rope(config)
    flat = declared.get("")
    if flat is None:
        return {**own, **declared} if "" not in own else dict(declared)
    if flat.theta is None and any(rope.theta is not None for rope in own.values()):
        told = "%s: config.json declares no rope_theta; transformers' %s has %s"
        logger.info(told, source, type(config).__name__, _describe(own))
    if "" in own:
        return {"": replace(flat, theta=own[""].theta) if flat.theta is None else flat}
    # The class has several kinds of layers, and config.json one base and scaling: one kind's, or
    # the base of all where the class has no other; transformers 5 gives it to Olmo 3's full ones.
    if flat.theta is not None and isinstance(getattr(config, "default_theta", None), int | float):
        own = {kind: replace(rope, theta=flat.theta) for kind, rope in own.items()}
    is_known = flat.theta is None or flat.theta in {rope.theta for rope in own.values()}
    if not is_known or (flat.is_scaled and not any(rope.is_scaled for rope in own.values())):
        return {"": flat}
    return own


def declared_frequencies(rope: DeclaredRope, pairs: int, config: Any) -> tuple[torch.Tensor, float]:
    """Return a declared table of as many frequencies as the network has, float32, and its factor.

    ``config`` has ``max_position_embeddings``; a kind of RoPE not known is a CheckpointError.
    """
    if rope.rope_type not in _KNOWN_TYPES:
        raise CheckpointError(
            f"config.json: rope_type={rope.rope_type!r} is none whose frequencies can be checked "
            f"here ({', '.join(_KNOWN_TYPES)}). Use a checkpoint with one of those."
        )
    if rope.rope_type == "proportional" and rope.theta is not None:  # Gemma 4's global layers
        table_D = inverse_frequencies(rope.theta, 2 * pairs) / rope.options.get("factor", 1.0)
        table_D[int((rope.rotated_share or 1.0) * pairs) :] = 0.0
        return table_D, 1.0
    # One head size of all layers, of which not every config has one.
    if rope.rotated_share is not None and (head_dim := getattr(config, "head_dim", None)):
        pairs = int(head_dim * rope.rotated_share) // 2
    if rope.theta is None:
        return torch.full((pairs,), math.nan), math.nan
    if rope.rope_type in ("default", "linear", "dynamic"):
        factor = rope.options.get("factor", 1.0) if rope.rope_type == "linear" else 1.0
        return inverse_frequencies(rope.theta, 2 * pairs) / factor, 1.0
    longest = config.max_position_embeddings
    original = getattr(config, "original_max_position_embeddings", None)
    original = original or rope.options.get("original_max_position_embeddings") or longest
    options = {**rope.options, "original_max_position_embeddings": original}
    return transformers_frequencies(
        {"rope_type": rope.rope_type, **options},
        rope_theta=rope.theta,
        head_dim=2 * pairs,
        max_position_embeddings=longest,
    )


def _describe(ropes: Mapping[str, DeclaredRope]) -> str:
    found = []
    for kind, rope in ropes.items():
        numbers = {k: v for k, v in rope.options.items() if isinstance(v, int | float)}
        scaling = f"scaled by {rope.rope_type} {numbers}" if rope.is_scaled else "not scaled"
        base = "of the class" if rope.theta is None else format(rope.theta, ".6g")
        found.append(f"{kind}: base {base}, {scaling}".removeprefix(": "))
    return "; ".join(found)


def _ends(table_D: torch.Tensor) -> str:
    """Return the second and the last of some frequencies; the first is 1 whatever the base."""
    values = table_D.flatten().tolist()
    return f"{len(values)} from {values[min(1, len(values) - 1)]:.5g} to {values[-1]:.5g}"
