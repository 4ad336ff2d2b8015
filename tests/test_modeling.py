"""The native network against an independent forward pass, and the checks of a checkpoint."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import published_fields, tiny_config, tiny_model, write_tiny_checkpoint
from transformers import AutoConfig, AutoModel

from opencompass_llada.networks import (
    CheckpointError,
    LLaDAConfig,
    LLaDAForMaskedDiffusion,
    load_checkpoint,
    read_model_config,
)
from opencompass_llada.networks.attention import ATTENTION_BACKENDS, attend_with, find_kernel
from opencompass_llada.rope.methods import parse_rope_scaling


def independent_logits(weights: dict, fields: dict, ids: list[int]) -> torch.Tensor:
    """LLaDA in a few lines of plain loops, float32, one row, from the published description."""
    w = {name.removeprefix("model.transformer."): value.float() for name, value in weights.items()}
    heads, kv_heads = fields["n_heads"], fields["n_kv_heads"]
    size = fields["d_model"] // heads

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

    x = w["wte.weight"][ids]
    for layer in range(fields["n_layers"]):
        p = f"blocks.{layer}."
        h = norm(x, w[p + "attn_norm.weight"])
        q, k, v = (h @ w[f"{p}{name}.weight"].T for name in ("q_proj", "k_proj", "v_proj"))
        out = torch.zeros(len(ids), heads * size)
        for head in range(heads):
            kv = head // (heads // kv_heads)
            cols, kv_cols = slice(head * size, (head + 1) * size), slice(kv * size, (kv + 1) * size)
            qs = torch.stack([rotate(q[i, cols], i) for i in range(len(ids))])
            ks = torch.stack([rotate(k[i, kv_cols], i) for i in range(len(ids))])
            out[:, cols] = torch.softmax(qs @ ks.T / math.sqrt(size), -1) @ v[:, kv_cols]
        x = x + out @ w[p + "attn_out.weight"].T
        h = norm(x, w[p + "ff_norm.weight"])
        gate = h @ w[p + "ff_proj.weight"].T
        h = gate / (1 + torch.exp(-gate)) * (h @ w[p + "up_proj.weight"].T)
        x = x + h @ w[p + "ff_out.weight"].T
    return norm(x, w["ln_f.weight"]) @ w["ff_out.weight"].T


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_published_checkpoint_gives_the_logits_of_an_independent_forward(
    tmp_path, num_shards, kv_heads
):
    folder = write_tiny_checkpoint(tmp_path, num_shards=num_shards, n_kv_heads=kv_heads)
    weights = {}
    for shard in folder.glob("*.safetensors"):
        weights |= load_file(shard)
    fields = json.loads((folder / "config.json").read_text())
    ids = [3, 250, 17, 258, 258, 90, 41, 258]
    model = load_checkpoint(folder, dtype=torch.float32)
    ours = model(torch.tensor([ids])).logits[0]
    expected = independent_logits(weights, fields, ids)
    assert expected.std() > 0.5, "a flat output would make the comparison vacuous"
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_logits_at_equals_full_logits_and_pads_do_not_matter():
    model = tiny_model()
    ids = torch.tensor([[1, 2, 3, 4, 5, 258], [9, 8, 258, 0, 0, 0]])
    lengths = torch.tensor([6, 3])
    positions = torch.tensor([[5, 0], [2, 1]])
    batch = model.logits_at(ids, positions, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(ids[row : row + 1, :length]).logits[0, positions[row]]
        torch.testing.assert_close(batch[row], alone, rtol=1e-5, atol=1e-5)
    unmasked = model.logits_at(ids, positions)
    assert (unmasked[1] - batch[1]).abs().max() > 1e-3, "padding had no influence to remove"


def test_attention_is_bidirectional():
    model = tiny_model()
    ids = torch.tensor([[1, 2, 3, 4]])
    changed = torch.tensor([[1, 2, 3, 5]])
    assert (model(ids).logits[0, 0] - model(changed).logits[0, 0]).abs().max() > 1e-4


def test_auto_classes_load_without_remote_code(tmp_path):
    folder = write_tiny_checkpoint(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(folder, trust_remote_code=False), LLaDAConfig)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    assert isinstance(model, LLaDAForMaskedDiffusion)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(
        model(ids).logits, load_checkpoint(folder, dtype=torch.float32)(ids).logits
    )


def test_save_pretrained_round_trip(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    again = load_checkpoint(tmp_path, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model(ids).logits, again(ids).logits)


def test_scaling_changes_the_network_and_two_models_do_not_share_it(tmp_path):
    folder = write_tiny_checkpoint(tmp_path)
    ids = torch.arange(40)[None]
    plain = load_checkpoint(folder, dtype=torch.float32)
    before = plain(ids).logits
    scaling = parse_rope_scaling({"type": "ntk", "theta_multiplier": 8})
    scaled = load_checkpoint(folder, dtype=torch.float32, rope_scaling=scaling)
    assert (scaled(ids).logits - before).abs().max() > 1e-3
    torch.testing.assert_close(plain(ids).logits, before)


def test_changing_theta_after_building_is_an_error(tmp_path):
    model = load_checkpoint(write_tiny_checkpoint(tmp_path), dtype=torch.float32)
    model.config.rope_theta *= 4
    with pytest.raises(RuntimeError, match="rope_scaling"):
        model(torch.tensor([[1, 2]]))


def test_dtype_is_obeyed(tmp_path):
    folder = write_tiny_checkpoint(tmp_path)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert load_checkpoint(folder, dtype=dtype)(torch.tensor([[1, 2]])).logits.dtype is dtype


@pytest.mark.parametrize("name", ["auto", "sdpa", "sdpa_math", "sdpa_flash"])
def test_attention_backends_agree(name):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 9, 16)
    exact = torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ v
    torch.testing.assert_close(attend_with(find_kernel(name, "cpu"), q, k, v), exact)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["auto", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient"])
def test_attention_backends_agree_on_cuda(name):
    """Within twice the error that PyTorch's own bfloat16 softmax attention has."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 300, 64, device="cuda")
    exact = torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ v
    low = [x.bfloat16() for x in (q, k, v)]
    plain = torch.softmax(low[0] @ low[1].transpose(-1, -2) / 8, -1) @ low[2]
    error = (attend_with(find_kernel(name, "cuda"), *low).float() - exact).norm()
    assert error < 2 * (plain.float() - exact).norm()
    padding = torch.ones(2, 1, 1, 300, dtype=torch.bool, device="cuda")
    padding[1, ..., 200:] = False
    if name in ("auto", "sdpa_efficient"):
        masked = attend_with(find_kernel(name, "cuda"), *low, padding).float()
        short = torch.softmax(q[1] @ k[1, :, :200].transpose(-1, -2) / 8, -1) @ v[1, :, :200]
        assert (masked[1] - short).norm() < 2 * (plain.float() - exact).norm()


def test_attention_backend_errors():
    with pytest.raises(ValueError, match="sdpa_flash"):
        find_kernel("sdpa_flush", "cpu")
    with pytest.raises(ValueError, match="auto"):
        find_kernel("sdpa_cudnn", "cpu")
    assert ATTENTION_BACKENDS[0] == "auto"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alibi", True),
        ("multi_query_attention", True),
        ("block_type", "sequential"),
        ("layer_norm_type", "default"),
        ("activation_type", "swiglu"),
        ("include_bias", True),
        ("attention_layer_norm", True),
    ],
)
def test_fields_that_are_not_implemented_are_refused_by_name(tmp_path, field, value):
    fields = published_fields(tiny_config()) | {field: value}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"{field}={value!r}"):
        load_checkpoint(tmp_path)


def rewrite(folder, change):
    """Change the tensors of a checkpoint in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_extra_and_wrong_tensors_are_listed(tmp_path):
    folder = write_tiny_checkpoint(tmp_path)

    def change(tensors):
        del tensors["model.transformer.blocks.1.q_proj.weight"]
        tensors["model.transformer.blocks.7.q_proj.weight"] = torch.zeros(1)
        tensors["model.transformer.ln_f.weight"] = torch.zeros(5)

    rewrite(folder, change)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    for part in (
        "1 missing: model.transformer.blocks.1.q_proj.weight",
        "1 extra: model.transformer.blocks.7.q_proj.weight",
        "model.transformer.ln_f.weight is [5], config.json asks for [32]",
    ):
        assert part in str(error.value)


def test_missing_shard_is_named(tmp_path):
    folder = write_tiny_checkpoint(tmp_path, num_shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        load_checkpoint(folder)


def test_wrong_paths_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="neither an existing folder nor a hub id"):
        read_model_config(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(CheckpointError, match="no config.json"):
        read_model_config(tmp_path)
    with pytest.raises(CheckpointError, match="hf download"):
        read_model_config("GSAI-ML/no-such-model")


def test_the_hub_is_asked_for_config_json_alone(tmp_path, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(CheckpointError, match="no config.json on the hub"):
        read_model_config("organisation/name-for-a-test")
    (tmp_path / "config.json").write_text('{"model_type": "llada"}')
    assert read_model_config("organisation/name-for-a-test") == {"model_type": "llada"}
    assert asked == [("organisation/name-for-a-test", ["config.json"])] * 2


def test_an_error_without_text_does_not_hide_the_remedy(monkeypatch):
    def fail(*_, **__):
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match="TimeoutError.*hf download"):
        read_model_config("organisation/name-for-a-test")


def test_other_model_types_and_broken_files_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="'llama'"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_checkpoint(tmp_path)
    folder = write_tiny_checkpoint(tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no .safetensors"):
        load_checkpoint(folder)
