"""Loads autoregressive checkpoints through transformers, with this package's RoPE scaling.

The network is transformers' own; only the frequencies of its rotary embeddings are replaced.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from opencompass_llada.networks.checkpoint import (
    locate_checkpoint,
    read_model_config,
    refuse_differences,
    refuse_non_finite,
)
from opencompass_llada.networks.declared_rope import (
    DeclaredRope,
    check_frequencies,
    fields_for_installed_major,
    read_config_rope,
    read_declared_rope,
)
from opencompass_llada.rope.frequencies import ResolvedRope
from opencompass_llada.rope.methods import RopeScaling, resolve_rope
from opencompass_llada.shared_weights import load_shared
from opencompass_llada.weight_files import (
    CheckpointError,
    list_differences,
    list_weight_files,
    read_stored_shapes,
)

logger = logging.getLogger(__name__)

#: Our names of kernels -> transformers' attn_implementation.
_ATTENTION = {"auto": "sdpa", "sdpa": "sdpa", "eager": "eager", "flash_attn": "flash_attention_2"}


def is_causal_architecture(model_type: Any) -> bool:
    """Tell whether transformers has an autoregressive network for a config.json's model_type."""
    return str(model_type) in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def check_causal(
    path: str | Path, *, rope_scaling: RopeScaling | None = None
) -> tuple[Path, Any, dict[str, DeclaredRope], ResolvedRope | None]:
    """Return a checked checkpoint's folder and config, its declared RoPE, and the scaled one."""
    folder = locate_checkpoint(path)
    config, declared = read_causal_config(folder)
    rope = resolve_causal_rope(config, rope_scaling or RopeScaling())
    read_stored_shapes(list_weight_files(folder))
    return folder, config, declared, rope


def build_causal(path: str | Path) -> nn.Module:
    """Build an autoregressive checkpoint's network on the meta device, without weights."""
    config, _ = read_causal_config(locate_checkpoint(path))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _choose_attention(config: Any, name: str, network: Any) -> str:
    if name not in _ATTENTION:
        raise ValueError(
            f"attention_backend={name!r} is for this package's own networks; one of transformers "
            f"takes {', '.join(_ATTENTION)}. Use attention_backend='auto'."
        )
    network = network or MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    # transformers 4's SDPA leaves Gemma 2's bound on attention logits out without a word.
    is_bounded = getattr(text_config(config), "attn_logit_softcapping", None) is not None
    sdpa_fits = network._supports_sdpa and not is_bounded
    if name == "sdpa" and not sdpa_fits:
        raise ValueError(
            f"attention_backend={name!r}: SDPA does not compute the attention of "
            f"{network.__name__}. Use attention_backend='auto', which takes 'eager' here."
        )
    return "eager" if name == "auto" and not sdpa_fits else _ATTENTION[name]


def load_causal(
    path: str | Path,
    *,
    rope_scaling: RopeScaling | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    attention_backend: str = "auto",
    network: Any = None,
) -> tuple[Any, ResolvedRope | None]:
    """Load an autoregressive checkpoint in evaluation mode, gradients off; return it and its RoPE.

    ``network`` is a class of transformers that its Auto classes do not know as autoregressive.

    ``attention_backend`` is ``auto`` (``sdpa`` where it computes the network's attention, otherwise
    ``eager``), or one of ``sdpa``, ``eager`` and ``flash_attn``. The RoPE is None if the network
    has none, or one with a scaling of its own. What does not fit is a ValueError.
    """
    folder, config, declared, rope = check_causal(path, rope_scaling=rope_scaling)
    attention = _choose_attention(config, attention_backend, network)

    def load() -> Any:
        model, report = (network or AutoModelForCausalLM).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are reported, and refused below by name
            output_loading_info=True,
        )
        kinds = {"missing": "missing", "extra": "unexpected", "wrongly_shaped": "mismatched"}
        found = {kind: sorted(map(str, report[f"{name}_keys"])) for kind, name in kinds.items()}
        refuse_differences(list_differences(**found), str(path))
        refuse_non_finite(model.named_parameters(), str(path))
        check_frequencies(model, declared, text_config(config), str(path))
        return model.to(device).eval().requires_grad_(False)

    # What from_pretrained reads of a folder besides: config.json and generation_config.json.
    files = [*list_weight_files(folder), *sorted(folder.glob("*config.json"))]
    form = (network, dtype, str(device), attention)
    model = load_shared(files, form, load, _build_around)
    if rope is not None and rope.method != "none":
        set_frequencies(model, rope)
    told = "RoPE, if it has any, as its config.json says" if rope is None else rope.describe()
    logger.info("Loaded %s as %s on %s. %s", path, dtype, device, told)
    return model, rope


def _build_around(model: Any) -> Any:
    """Return a network with another's parameters, and all else, frequencies too, its own."""
    return copy.deepcopy(model, {id(own): own for own in model.parameters()})


def resolve_causal_rope(config: Any, scaling: RopeScaling) -> ResolvedRope | None:
    """Work out the scaled frequencies of a network; None without plain rotary embeddings."""
    scaling.refuse_one_sided("an autoregressive model")
    by_kind = DeclaredRope(theta=1.0, rope_type="several, by kind of layer")
    own = read_config_rope(config).get("", by_kind)
    share = own.rotated_share or getattr(config, "partial_rotary_factor", None) or 1.0
    is_plain = own.theta is not None and not own.is_scaled and share == 1.0
    if not is_plain and scaling.type != "none":
        what = f"rope_type={own.rope_type!r} already"
        what = "no rotary embeddings" if own.theta is None else what
        what = what if share == 1.0 else f"rotary embeddings on {share:.0%} of each head"
        raise ValueError(
            f"rope_scaling {scaling.type!r}: the checkpoint (model_type={config.model_type!r}) has "
            f"{what}, and only plain ones are scaled here. Use type='none', or the scaling in its "
            "own config.json."
        )
    if own.theta is None or not is_plain:
        return None
    head_dim = getattr(config, "head_dim", None)
    return resolve_rope(
        scaling,
        rope_theta=own.theta,
        head_dim=head_dim or config.hidden_size // config.num_attention_heads,
        trained_length=config.max_position_embeddings,
    )


def set_frequencies(model: nn.Module, rope: ResolvedRope) -> None:
    """Replace the frequencies of every rotary embedding of a network that has not run yet."""
    wanted = rope.inverse_frequencies_D
    found = [m for m in model.modules() if getattr(m, "inv_freq", None) is not None]
    found = [m for m in found if m.inv_freq.shape == wanted.shape]
    if not found:
        raise ValueError(
            f"rope_scaling {rope.method!r}: no module of {type(model).__name__} holds inv_freq of "
            f"{len(wanted)} frequencies; this architecture cannot be scaled. Use type='none'."
        )
    for module in found:
        for name in ("inv_freq", "original_inv_freq"):
            if getattr(module, name, None) is not None:
                setattr(module, name, wanted.to(getattr(module, name).device))
        module.attention_scaling = rope.attention_factor  # type: ignore[assignment]


def read_causal_config(folder: Path) -> tuple[Any, dict[str, DeclaredRope]]:
    """Read config.json by the installed major of transformers, and what it declares of RoPE."""
    fields = read_model_config(folder)
    if fields.get("quantization_config"):
        raise CheckpointError(
            f"Checkpoint {folder}: config.json has a quantization_config; quantised weights are "
            "not read here. Give the checkpoint that it was made of."
        )
    inner = fields.get("text_config")
    text = inner if isinstance(inner, dict) else fields
    declared = read_declared_rope(text)
    known = fields_for_installed_major(text)
    fields = {**fields, "text_config": known} if isinstance(inner, dict) else known
    try:
        kind = CONFIG_MAPPING[str(fields.get("model_type"))]
        return kind.from_dict(fields), declared
    except Exception as error:  # transformers raises many kinds for a config it cannot build
        raise CheckpointError(
            f"Checkpoint {folder}: its config.json describes no network that transformers can "
            f"build ({type(error).__name__}: {str(error).partition(chr(10))[0]}). Correct the "
            "file, or give another checkpoint."
        ) from error


def text_config(config: Any) -> Any:
    """Return the part of a config of transformers that describes the language model."""
    return config.get_text_config(decoder=True)
