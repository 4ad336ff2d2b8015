"""SDAR's network against an independent forward pass, and its lengths and scalings."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_sdar import sdar_fields, write_tiny_sdar
from transformers import AutoConfig, AutoModel, Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from opencompass_llada.networks import (
    CheckpointError,
    SDARConfig,
    SDARForMaskedDiffusion,
    load_checkpoint,
)
from opencompass_llada.rope.methods import parse_rope_scaling

IDS = [3, 250, 17, 261, 261, 90, 41, 261, 8, 77, 261]
K = 1024
#: What SDAR-8B-Chat's config.json says of positions; the rest of the network does not matter here.
POSITIONS = {"head_dim": 128, "max_position_embeddings": 32 * K, "rope_theta": 1000000}


def independent_logits(weights: dict, fields: dict, ids: list[int]) -> torch.Tensor:
    """SDAR in plain loops, float32, one row: Qwen3's, a query seeing up to its block's end."""
    w = {name: value.float() for name, value in weights.items()}
    heads, kv_heads, size = (
        fields[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    block = fields["block_size"]

    def norm(x, weight):
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + fields["rms_norm_eps"]) * weight

    def rotate(vector, position):
        out = vector.clone()
        for i in range(size // 2):
            angle = position * fields["rope_theta"] ** (-2 * i / size)
            a, b = vector[i], vector[i + size // 2]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + size // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(fields["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = norm(x, w[p + "input_layernorm.weight"])
        q, k, v = (h @ w[f"{p}self_attn.{name}_proj.weight"].T for name in "qkv")
        out = torch.zeros(len(ids), heads * size)
        for head in range(heads):
            kv = head // (heads // kv_heads)
            cols, kv_cols = slice(head * size, (head + 1) * size), slice(kv * size, (kv + 1) * size)
            own = norm(q[:, cols], w[p + "self_attn.q_norm.weight"])
            keys = norm(k[:, kv_cols], w[p + "self_attn.k_norm.weight"])
            keys = torch.stack([rotate(keys[i], i) for i in range(len(ids))])
            for i in range(len(ids)):
                end = min((i // block + 1) * block, len(ids))
                scores = keys[:end] @ rotate(own[i], i) / math.sqrt(size)
                out[i, cols] = torch.softmax(scores, -1) @ v[:end, kv_cols]
        x = x + out @ w[p + "self_attn.o_proj.weight"].T
        h = norm(x, w[p + "post_attention_layernorm.weight"])
        gate = h @ w[p + "mlp.gate_proj.weight"].T
        h = gate / (1 + torch.exp(-gate)) * (h @ w[p + "mlp.up_proj.weight"].T)
        x = x + h @ w[p + "mlp.down_proj.weight"].T
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return norm(x, w["model.norm.weight"]) @ head.T


@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize("ties", [False, True])
def test_a_published_checkpoint_gives_the_logits_of_an_independent_forward(tmp_path, block, ties):
    folder = write_tiny_sdar(tmp_path, num_shards=2, block_size=block, tie_word_embeddings=ties)
    weights = {}
    for shard in folder.glob("*.safetensors"):
        weights |= load_file(shard)
    assert ("lm_head.weight" in weights) is not ties
    assert len(weights) == 2 * 11 + 3 - ties
    expected = independent_logits(weights, sdar_fields(block_size=block), IDS)
    assert expected.std() > 0.5, "a flat output would make the comparison vacuous"
    model = load_checkpoint(folder, dtype=torch.float32)
    ours = model(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_auto_classes_load_without_remote_code(tmp_path):
    folder = write_tiny_sdar(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(folder, trust_remote_code=False), SDARConfig)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    assert isinstance(model, SDARForMaskedDiffusion)
    ours = load_checkpoint(folder, dtype=torch.float32)(torch.tensor([IDS])).logits
    torch.testing.assert_close(model(torch.tensor([IDS])).logits, ours)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("block_size", None, r"config\.json has no block_size"),
        ("block_size", 0, r"block_size=0 must be at least 1"),
        ("head_dim", None, r"config\.json has no head_dim"),
        ("mask_token_id", None, r"config\.json has no mask_token_id"),
        ("num_key_value_heads", None, r"config\.json has no num_key_value_heads"),
        ("rope_theta", None, r"config\.json has no rope_theta"),
        ("max_position_embeddings", None, r"config\.json has no max_position_embeddings"),
        ("tie_word_embeddings", None, r"config\.json has no tie_word_embeddings"),
        ("attention_bias", True, r"attention_bias=True is not implemented"),
        ("use_sliding_window", True, r"use_sliding_window=True is not implemented"),
        ("num_key_value_heads", 3, r"must be a multiple of num_key_value_heads=3"),
    ],
)
def test_what_config_json_does_not_give_is_an_error(tmp_path, name, value, message):
    folder = write_tiny_sdar(tmp_path)
    fields = {**sdar_fields(), name: value}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises((CheckpointError, ValueError), match=message):
        load_checkpoint(folder)


def scaled(options):
    config = SDARConfig(**sdar_fields(**POSITIONS))
    return SDARForMaskedDiffusion(config, parse_rope_scaling(options)).resolved_rope


@pytest.mark.parametrize("method", ["linear", "yarn"])
def test_linear_and_yarn_are_qwen3s_own_from_the_trained_length(method):
    rope = scaled({"type": method, "target_length": 128 * K})
    assert (rope.trained_length, rope.longest_context) == (32 * K, 128 * K)
    declared = {"rope_type": method, "factor": 4.0, "rope_theta": 1e6}
    declared |= {"original_max_position_embeddings": 32 * K} if method == "yarn" else {}
    is_old = not hasattr(Qwen3Config(), "rope_parameters")
    name = "rope_scaling" if is_old else "rope_parameters"
    config = Qwen3Config(**{**POSITIONS, "rope_theta": 1e6, name: declared})
    theirs = Qwen3RotaryEmbedding(config)
    torch.testing.assert_close(rope.inverse_frequencies_D, theirs.inv_freq)
    assert rope.attention_factor == pytest.approx(theirs.attention_scaling)


def test_ntk_goes_by_the_trained_length():
    """LongLLaDA's Eq. 6 by hand: 80 of 128 dimensions turn within 32,768 tokens."""
    rope = scaled({"type": "ntk", "target_length": 128 * K})
    assert rope.critical_dimension == 80
    assert rope.theta_multiplier == pytest.approx((128 * K / 2 / math.pi) ** 1.6 / 1e6)
    assert rope.theta_multiplier == pytest.approx(8.15, abs=0.01)
    expected = (rope.theta_multiplier * 1e6) ** (-np.arange(0, 128, 2) / 128)
    np.testing.assert_allclose(rope.inverse_frequencies_D, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="target_length=16384 is below the trained length 32768"):
        scaled({"type": "ntk", "target_length": 16 * K})


@pytest.mark.parametrize("block", [1, 4, 64])
def test_diffusion_ntk_is_refused_and_says_why(tmp_path, block):
    folder = write_tiny_sdar(tmp_path, block_size=block)
    scaling = parse_rope_scaling({"type": "diffusion_ntk", "target_length": 256})
    with pytest.raises(ValueError, match=r"sees 0 to T-1, .* Use type='ntk'"):
        load_checkpoint(folder, rope_scaling=scaling)
