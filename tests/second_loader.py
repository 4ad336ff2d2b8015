"""A loader of LLaDA's published format that shares no code with the package, one head at a time.

Knows what LLaDA's own remote code knows: of RoPE ``rope_theta``, and nothing of scalings; its
defaults for fields that config.json leaves out; and dropout, which train mode applies.
"""

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

#: Defaults of LLaDA's own configuration class (configuration_llada.py of GSAI-ML/LLaDA-8B-Base).
DEFAULTS = {
    "attention_dropout": 0.1,
    "embedding_dropout": 0.1,
    "residual_dropout": 0.1,
    "rope": False,
    "layer_norm_type": "default",
    "activation_type": "swiglu",
    "block_type": "sequential",
    "weight_tying": True,
    "scale_logits": False,
    "input_emb_norm": False,
    "attention_layer_norm": False,
}
#: What this loader computes of them.
COMPUTED = {
    "rope": True,
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "block_type": "llama",
    "scale_logits": False,
    "input_emb_norm": False,
    "attention_layer_norm": False,
}


def read_tensors(folder):
    """Return all tensors of a checkpoint in float64."""
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.is_file():
        files = set(json.loads(index.read_text())["weight_map"].values())
    return {k: v.double() for file in files for k, v in load_file(folder / file).items()}


def second_loader(folder, input_ids_L, *, train=False, changed=None):
    """Return logits [L, V] by the published format alone, with dropout in train mode.

    ``changed`` are fields that stand in place of config.json's.
    """
    config = {**DEFAULTS, **json.loads((folder / "config.json").read_text()), **(changed or {})}
    differing = {k: config[k] for k, value in COMPUTED.items() if config[k] != value}
    assert not differing, f"LLaDA's own code would compute something else: {differing}"
    tensors = read_tensors(folder)

    def drop(x, kind):
        return F.dropout(x, config[f"{kind}_dropout"], training=train)

    def norm(x, name):
        scale = (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).rsqrt()
        return x * scale * tensors[f"model.transformer.{name}.weight"]

    size = config["d_model"] // config["n_heads"]
    angles = [
        [p / config["rope_theta"] ** (2 * i / size) for i in range(size // 2)]
        for p in range(len(input_ids_L))
    ]
    turn = torch.polar(torch.ones(len(angles), size // 2).double(), torch.tensor(angles).double())

    def rotate(x):
        pairs = torch.complex(x[:, : size // 2], x[:, size // 2 :]) * turn
        return torch.cat([pairs.real, pairs.imag], -1)

    embedding = tensors["model.transformer.wte.weight"]
    x = drop(embedding[input_ids_L], "embedding")
    for layer in range(config["n_layers"]):
        block = f"blocks.{layer}"
        linear = {
            name: tensors[f"model.transformer.{block}.{name}.weight"].T
            for name in ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
        }
        h = norm(x, f"{block}.attn_norm")
        heads = []
        for q, k, v in zip(
            *((h @ linear[f"{n}_proj"]).split(size, -1) for n in "qkv"), strict=True
        ):
            weights = (rotate(q) @ rotate(k).T / math.sqrt(size)).softmax(-1)
            heads.append(drop(weights, "attention") @ v)
        x = x + drop(torch.cat(heads, -1) @ linear["attn_out"], "residual")
        h = norm(x, f"{block}.ff_norm")
        inner = F.silu(h @ linear["ff_proj"]) * (h @ linear["up_proj"])
        x = x + drop(inner @ linear["ff_out"], "residual")
    head = embedding if config["weight_tying"] else tensors["model.transformer.ff_out.weight"]
    return norm(x, "ln_f") @ head.T
