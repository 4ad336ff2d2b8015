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
from torch import nn

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


class Norm(nn.Module):
    """Divides by the root of the mean square."""

    def __init__(self, width, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return x * (x.pow(2).mean(-1, keepdim=True) + self.epsilon).rsqrt() * self.weight


class SecondLLaDA(nn.Module):
    """LLaDA in modules of the published names, so that peft finds them; one row, float64."""

    def __init__(self, config):
        super().__init__()
        differing = {k: config[k] for k, value in COMPUTED.items() if config[k] != value}
        assert not differing, f"LLaDA's own code would compute something else: {differing}"
        self.settings = config  # peft would read self.config
        width, inner = config["d_model"], config["mlp_hidden_size"]
        self.size = width // config["n_heads"]
        kv_width = self.size * (config.get("n_kv_heads") or config["n_heads"])
        vocabulary, epsilon = config["embedding_size"], config["rms_norm_eps"]
        shapes = {
            **{"q_proj": (width, width), "k_proj": (width, kv_width), "v_proj": (width, kv_width)},
            **{"attn_out": (width, width), "ff_proj": (width, inner), "up_proj": (width, inner)},
            "ff_out": (inner, width),
        }
        blocks = nn.ModuleList()
        for _ in range(config["n_layers"]):
            parts = {name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()}
            norms = {name: Norm(width, epsilon) for name in ("attn_norm", "ff_norm")}
            blocks.append(nn.ModuleDict({**parts, **norms}))
        parts = {"wte": nn.Embedding(vocabulary, width), "blocks": blocks}
        parts["ln_f"] = Norm(width, epsilon)
        if not config["weight_tying"]:
            parts["ff_out"] = nn.Linear(width, vocabulary, bias=False)
        self.model = nn.ModuleDict({"transformer": nn.ModuleDict(parts)})
        self.double()

    def drop(self, x, kind):
        return F.dropout(x, self.settings[f"{kind}_dropout"], training=self.training)

    def forward(self, input_ids_L):
        own, size = self.model["transformer"], self.size
        angles = [
            [p / self.settings["rope_theta"] ** (2 * i / size) for i in range(size // 2)]
            for p in range(len(input_ids_L))
        ]
        turn = torch.polar(
            torch.ones(len(angles), size // 2).double(), torch.tensor(angles).double()
        )

        def rotate(x):
            pairs = torch.complex(x[:, : size // 2], x[:, size // 2 :]) * turn
            return torch.cat([pairs.real, pairs.imag], -1)

        x = self.drop(own["wte"](input_ids_L), "embedding")
        for block in own["blocks"]:
            h = block["attn_norm"](x)
            queries, keys, values = (block[f"{n}_proj"](h).split(size, -1) for n in "qkv")
            heads = []
            for number, q in enumerate(queries):
                group = number * len(keys) // len(queries)
                weights = (rotate(q) @ rotate(keys[group]).T / math.sqrt(size)).softmax(-1)
                heads.append(self.drop(weights, "attention") @ values[group])
            x = x + self.drop(block["attn_out"](torch.cat(heads, -1)), "residual")
            h = block["ff_norm"](x)
            inner = F.silu(block["ff_proj"](h)) * block["up_proj"](h)
            x = x + self.drop(block["ff_out"](inner), "residual")
        x = own["ln_f"](x)
        return x @ own["wte"].weight.T if self.settings["weight_tying"] else own["ff_out"](x)


def load_second(folder, changed=None):
    """Load a checkpoint; ``changed`` are fields that stand in place of config.json's."""
    config = {**DEFAULTS, **json.loads((folder / "config.json").read_text()), **(changed or {})}
    network = SecondLLaDA(config)
    network.load_state_dict(read_tensors(folder))
    return network.eval()


@torch.no_grad()
def second_loader(folder, input_ids_L, *, train=False, changed=None):
    """Return a checkpoint's logits [L, V], with dropout in train mode."""
    return load_second(folder, changed).train(train)(input_ids_L)
