"""What config.json declares is what the network holds, under either major of transformers."""

import json
import math

import numpy as np
import pytest
import torch
import transformers
from tiny import published_fields, tiny_config, write_tiny_checkpoint
from tiny_causal import published_llama_fields, write_llama_checkpoint
from tiny_dream import write_tiny_dream
from tiny_sdar import write_tiny_sdar
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from opencompass_llada.networks import CheckpointError, check_causal, load_causal, load_checkpoint
from opencompass_llada.networks.causal import read_causal_config
from opencompass_llada.networks.checkpoint import open_checkpoint
from opencompass_llada.networks.declared_rope import check_frequencies, held_frequencies
from opencompass_llada.rope.methods import parse_rope_scaling

HEAD_DIM, LENGTH = 8, 64
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"rope_type": "llama3", "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 4.0}


def plain(theta, size=HEAD_DIM):
    return theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)


def llama3(theta):
    """LLaMA-3.1's rule, from its reference code: long waves divided, short ones left alone."""
    table = []
    for frequency in plain(theta):
        wave = 2 * math.pi / frequency
        if wave < 32 / 4.0:
            table.append(frequency)
        elif wave > 32 / 1.0:
            table.append(frequency / 8.0)
        else:
            smooth = (32 / wave - 1.0) / (4.0 - 1.0)
            table.append((1 - smooth) * frequency / 8.0 + smooth * frequency)
    return np.array(table)


def yarn(theta, factor=4.0, length=32, fast=32.0, slow=1.0):
    """YaRN's rule, arXiv 2309.00071, equations 17 to 22, with the bounds rounded outwards."""

    def dimension(rotations):
        return HEAD_DIM * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(dimension(fast)), 0), min(math.ceil(dimension(slow)), HEAD_DIM - 1)
    ramp = np.clip((np.arange(HEAD_DIM // 2) - low) / max(high - low, 0.001), 0, 1)
    return plain(theta) / factor * ramp + plain(theta) * (1 - ramp)


def write(folder, **fields):
    """Write a checkpoint whose config.json has these fields of RoPE and no others."""
    write_llama_checkpoint(folder)
    known = published_llama_fields(**fields)
    for name in ("rope_theta", "rope_scaling"):
        if name not in fields:
            del known[name]
    (folder / "config.json").write_text(json.dumps(known))
    return folder


def held(model):
    tables = list(held_frequencies(model))
    assert tables
    return tables


FORMS = {
    "base alone": ({"rope_theta": 5e5}, plain(5e5)),
    "base alone, of transformers 5": ({"rope_parameters": {"rope_theta": 5e5}}, plain(5e5)),
    "base in both": (
        {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        plain(5e5),
    ),
    "nothing: the class's": ({}, plain(1e4)),
    "null": ({"rope_theta": None, "rope_scaling": None}, plain(1e4)),
    "linear": ({"rope_theta": 5e5, "rope_scaling": LINEAR}, plain(5e5) / 4),
    "linear, as older files write it": (
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
        plain(5e5) / 4,
    ),
    "linear, of transformers 5": (
        {"rope_parameters": {"rope_theta": 5e5, **LINEAR}},
        plain(5e5) / 4,
    ),
    "linear without a base": ({"rope_parameters": LINEAR}, plain(1e4) / 4),
    "base outside, scaling inside": (
        {"rope_theta": 5e5, "rope_parameters": LINEAR},
        plain(5e5) / 4,
    ),
    "llama3": ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, llama3(5e5)),
    "llama3, of transformers 5": (
        {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
        llama3(5e5),
    ),
    "yarn": ({"rope_theta": 5e3, "rope_scaling": YARN}, yarn(5e3)),
    "yarn, of transformers 5": ({"rope_parameters": {"rope_theta": 5e3, **YARN}}, yarn(5e3)),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_autoregressive_network_holds_what_is_declared(tmp_path, form):
    fields, expected = FORMS[form]
    model, _ = load_causal(write(tmp_path, **fields), dtype=torch.float32)
    factor = 0.1 * math.log(4.0) + 1 if "yarn" in form else 1.0
    for _, table, attention_factor in held(model):
        np.testing.assert_allclose(table.numpy(), expected, rtol=1e-5)
        assert attention_factor == pytest.approx(factor)


@pytest.mark.parametrize("form", ["base alone", "base alone, of transformers 5", "base in both"])
def test_ntk_multiplies_the_declared_base(tmp_path, form):
    scaling = parse_rope_scaling({"type": "ntk", "theta_multiplier": 4})
    folder = write(tmp_path, **FORMS[form][0])
    model, rope = load_causal(folder, rope_scaling=scaling, dtype=torch.float32)
    assert rope.rope_theta == 2e6
    for _, table, _ in held(model):
        np.testing.assert_allclose(table.numpy(), plain(2e6), rtol=1e-5)


@pytest.mark.parametrize("form", [name for name in FORMS if "linear" in name])
def test_a_declared_scaling_is_not_scaled_again(tmp_path, form):
    folder = write(tmp_path, **FORMS[form][0])
    with pytest.raises(ValueError, match="rope_type='linear' already"):
        check_causal(
            folder, rope_scaling=parse_rope_scaling({"type": "ntk", "theta_multiplier": 4})
        )


def test_a_missing_base_is_said_in_the_log(tmp_path, caplog):
    with caplog.at_level("INFO"):
        load_causal(write(tmp_path))
    assert "config.json declares no rope_theta; transformers' LlamaConfig has base 10000" in (
        caplog.text
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            ["rope_theta=10000.0", "rope_parameters.rope_theta=500000.0", "disagree"],
        ),
        (
            {"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default"}},
            ["rope_scaling.rope_type='linear'", "'default'", "disagree"],
        ),
        ({"rope_theta": math.nan}, ["rope_theta=nan", "finite"]),
        ({"rope_theta": math.inf}, ["rope_theta=inf", "finite"]),
        ({"rope_theta": -1.0}, ["rope_theta=-1.0", "above 1"]),
        ({"rope_theta": True}, ["rope_theta=True", "number"]),
        ({"rope_theta": "10000"}, ["'10000'", "number"]),
        ({"rope_scaling": {"rope_type": "linear", "factor": math.nan}}, ["factor=nan", "finite"]),
        ({"rope_scaling": "linear"}, ["rope_scaling='linear'", "object"]),
    ],
)
@pytest.mark.parametrize("kind", ["llama", "llada", "dream"])
def test_contradictions_and_no_numbers_are_refused_before_weights(tmp_path, fields, words, kind):
    writers = {"llada": write_tiny_checkpoint, "dream": write_tiny_dream}
    if kind == "llama":
        write(tmp_path, **fields)
    else:
        config = writers[kind](tmp_path) / "config.json"
        known = json.loads(config.read_text())
        config.write_text(json.dumps({"rope_theta": known.pop("rope_theta"), **known, **fields}))
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ValueError, match=".") as error:
        check_causal(tmp_path) if kind == "llama" else open_checkpoint(tmp_path)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_network_that_holds_other_frequencies_is_refused(tmp_path):
    folder = write(tmp_path, rope_theta=5e5)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    config, declared = read_causal_config(folder)
    check_frequencies(model, declared, config, "here")
    for change in (
        {"inv_freq": torch.tensor(plain(1e4), dtype=torch.float32)},
        {"inv_freq": torch.tensor(plain(5e5), dtype=torch.bfloat16)},
        {"attention_scaling": 1.5},
    ):
        rotary = model.model.rotary_emb
        before = {name: getattr(rotary, name) for name in change}
        for name, value in change.items():
            setattr(rotary, name, value)
        with pytest.raises(CheckpointError, match="here: config.json declares RoPE with base") as e:
            check_frequencies(model, declared, config, "here")
        assert "0.037606" in str(e.value), "what is declared"
        for name, value in before.items():
            setattr(rotary, name, value)


@pytest.mark.parametrize("name", ["longrope", "su"])
def test_longrope_of_phi3(tmp_path, name):
    from transformers import Phi3Config, Phi3ForCausalLM

    fields = published_llama_fields(rope_theta=1e4, bos_token_id=1, pad_token_id=0)
    fields |= {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}
    fields |= {"original_max_position_embeddings": 16, "max_position_embeddings": 64}
    short, long = [1.0, 1.1, 1.2, 1.3], [1.0, 2.0, 3.0, 4.0]
    Phi3ForCausalLM(Phi3Config(**{**fields, "rope_scaling": None})).save_pretrained(tmp_path)
    fields["rope_scaling"] = {"type": name, "short_factor": short, "long_factor": long}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    model, _ = load_causal(tmp_path, dtype=torch.float32)
    for _, table, factor in held(model):
        np.testing.assert_allclose(table.numpy(), plain(1e4) / np.array(short), rtol=1e-5)
        assert factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(16)))


@pytest.mark.parametrize("writer", [write_tiny_checkpoint, write_tiny_dream])
@pytest.mark.parametrize("where", ["rope_theta", "rope_parameters", "both"])
def test_a_native_network_takes_the_base_of_either_form(tmp_path, writer, where):
    config = writer(tmp_path) / "config.json"
    fields = json.loads(config.read_text())
    del fields["rope_theta"]
    if where != "rope_parameters":
        fields["rope_theta"] = 5e4
    if where != "rope_theta":
        fields["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e4}
    config.write_text(json.dumps(fields))
    rope = load_checkpoint(tmp_path).resolved_rope
    assert rope.rope_theta == 5e4
    size = 2 * len(rope.inverse_frequencies_D)
    np.testing.assert_allclose(rope.inverse_frequencies_D.numpy(), plain(5e4, size), rtol=1e-5)
    assert AutoConfig.from_pretrained(tmp_path, trust_remote_code=False).rope_theta == 5e4


@pytest.mark.parametrize("writer", [write_tiny_checkpoint, write_tiny_dream])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_scaling", {"type": "dynamic", "factor": 4.0}),
        ("rope_parameters", {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}),
        ("sliding_window_size", 128),
        ("attention_bias", "yes"),
        ("final_logit_softcapping", 30.0),
        ("num_experts", 8),
        ("head_size", 16),
        ("quantization_config", {"bits": 4}),
        ("norm_after", False),
    ],
)
def test_native_networks_refuse_fields_that_they_do_not_know(tmp_path, writer, name, value):
    config = writer(tmp_path) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), name: value}))
    with pytest.raises(ValueError, match=name):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("declared", [LINEAR, YARN], ids=["linear", "yarn"])
@pytest.mark.parametrize(
    ("writer", "sizes"),
    [
        (write_tiny_checkpoint, {"n_heads": 4, "max_sequence_length": 128}),
        (write_tiny_dream, {"max_position_embeddings": 128, "rope_theta": 1e4}),
        (write_tiny_sdar, {"head_dim": 8, "max_position_embeddings": 128}),
    ],
)
def test_native_networks_obey_what_is_declared(tmp_path, writer, sizes, declared, name):
    config = writer(tmp_path, **sizes) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), name: declared}))
    model = load_checkpoint(tmp_path, dtype=torch.float32)
    rope = model.resolved_rope
    expected = yarn(1e4) if declared is YARN else plain(1e4) / 4
    np.testing.assert_allclose(rope.inverse_frequencies_D.numpy(), expected, rtol=1e-5)
    factor = 0.1 * math.log(4.0) + 1 if declared is YARN else 1.0
    assert rope.attention_factor == pytest.approx(factor)
    cos_LD, _ = model.prepare(8, torch.device("cpu"))
    np.testing.assert_allclose(cos_LD[5, :4], factor * np.cos(5 * expected), rtol=1e-5)
    with pytest.raises(ValueError, match=f"config.json scales by {declared['rope_type']} already"):
        open_checkpoint(
            tmp_path, rope_scaling=parse_rope_scaling({"type": "ntk", "theta_multiplier": 4})
        )


@pytest.mark.parametrize(
    ("writer", "names"),
    [
        (write_tiny_checkpoint, ["rope_theta", "n_heads", "rms_norm_eps", "max_sequence_length"]),
        (write_tiny_dream, ["rope_theta", "num_attention_heads", "rms_norm_eps"]),
    ],
)
def test_native_networks_take_no_default_for_what_is_not_declared(tmp_path, writer, names):
    config = writer(tmp_path) / "config.json"
    fields = json.loads(config.read_text())
    for name in names:
        config.write_text(json.dumps({k: v for k, v in fields.items() if k != name}))
        with pytest.raises(CheckpointError, match=f"has no {name}"):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("writer", [write_tiny_checkpoint, write_tiny_dream])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_of_a_config_are_finite(tmp_path, writer, value):
    config = writer(tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": value}))
    with pytest.raises(CheckpointError, match=f"rms_norm_eps={value!r} must be finite"):
        open_checkpoint(tmp_path)


def test_a_network_with_two_bases_is_checked_and_not_scaled(tmp_path):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    fields = published_llama_fields(head_dim=HEAD_DIM, bos_token_id=1, pad_token_id=0)
    fields |= {"layer_types": ["sliding_attention", "full_attention"]}
    fields |= {"rope_theta": 5e5, "rope_local_base_freq": 2e3, "architectures": None}
    fields |= {"model_type": "gemma3_text", "sliding_window": 8, "query_pre_attn_scalar": 8}
    Gemma3ForCausalLM(Gemma3TextConfig(**fields)).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    tables = [table for _, table, _ in held(load_causal(tmp_path, dtype=torch.float32)[0])]
    tables.sort(key=lambda table: float(table[-1]))
    for table, theta in zip(tables, (5e5, 2e3), strict=True):
        np.testing.assert_allclose(table.numpy(), plain(theta), rtol=1e-5)
    scaling = parse_rope_scaling({"type": "ntk", "theta_multiplier": 4})
    with pytest.raises(ValueError, match="several, by kind of layer"):
        check_causal(tmp_path, rope_scaling=scaling)


@pytest.mark.parametrize("writer", [write_tiny_checkpoint, write_tiny_dream])
def test_fields_that_change_nothing_pass(tmp_path, writer):
    config = writer(tmp_path) / "config.json"
    fields = json.loads(config.read_text()) | {"rope_scaling": None, "anything": None}
    fields |= {"id2label": {"0": "A"}, "do_sample": False, "torchscript": False, "dtype": "float32"}
    config.write_text(json.dumps(fields))
    open_checkpoint(tmp_path)


def test_the_published_llada_config_is_known():
    from opencompass_llada.networks import LLaDAConfig

    LLaDAConfig.check_fields(published_fields(tiny_config()))


def test_mlp_hidden_size_null_is_the_ratio_times_the_width(tmp_path):
    config = write_tiny_checkpoint(tmp_path, mlp_hidden_size=128) / "config.json"
    fields = json.loads(config.read_text()) | {"mlp_hidden_size": None}
    config.write_text(json.dumps(fields))  # d_model 32, mlp_ratio 4
    assert load_checkpoint(tmp_path).config.mlp_hidden_size == 128
    config.write_text(json.dumps(fields | {"mlp_ratio": 2}))
    with pytest.raises(CheckpointError, match=r"is \[128, 32\], config.json asks for \[64, 32\]"):
        load_checkpoint(tmp_path)


PLAIN_SIZES = {
    **{"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": HEAD_DIM},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 256},
}


def write_of_kind(folder, kind, **fields):
    """Write a network of transformers whose config.json has these fields of RoPE and no others."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**PLAIN_SIZES)
    AutoModelForCausalLM.from_config(config, trust_remote_code=False).save_pretrained(folder)
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
    known = {"model_type": kind, **PLAIN_SIZES, **layers, **fields}
    (folder / "config.json").write_text(json.dumps(known))
    return folder


def test_published_forms_of_layers_with_two_kinds_of_rope(tmp_path):
    """google/gemma-3-4b-it declares the scaling alone; allenai/Olmo-3 one base and YaRN."""
    folder = write_of_kind(tmp_path / "gemma", "gemma3_text", rope_scaling=LINEAR)
    model, _ = load_causal(folder, dtype=torch.float32)
    tables = sorted((table for _, table, _ in held(model)), key=lambda table: float(table[1]))
    for table, expected in zip(tables, (plain(1e6) / 4, plain(1e4)), strict=True):
        np.testing.assert_allclose(table.numpy(), expected, rtol=1e-5)
    folder = write_of_kind(tmp_path / "olmo", "olmo3", rope_theta=5e5, rope_scaling=YARN)
    model, _ = load_causal(folder, dtype=torch.float32)
    for kind, table, _ in held(model):
        expected = plain(5e5) if "sliding" in kind else yarn(5e5)
        np.testing.assert_allclose(table.numpy(), expected, rtol=1e-5)
    folder = write_of_kind(tmp_path / "other", "olmo3", rope_theta=5e3)
    if transformers.__version__.startswith("4."):
        model, _ = load_causal(folder, dtype=torch.float32)
        for _, table, _ in held(model):
            np.testing.assert_allclose(table.numpy(), plain(5e3), rtol=1e-5)
    else:  # its own fault: the sliding layers keep the class's base
        with pytest.raises(CheckpointError, match="declares RoPE .* base 5000"):
            load_causal(folder, dtype=torch.float32)


def test_attention_that_sdpa_does_not_compute_is_eager(tmp_path):
    """Gemma 2 bounds its attention logits; transformers 4's SDPA leaves the bound out silently."""
    folder = write_of_kind(tmp_path, "gemma2", rope_theta=1e4)
    model, _ = load_causal(folder, dtype=torch.float32)
    assert model.config._attn_implementation == "eager"
    assert model.config.attn_logit_softcapping == 50.0
    with pytest.raises(ValueError, match="SDPA does not compute the attention of Gemma2ForCausal"):
        load_causal(folder, attention_backend="sdpa")
    model, _ = load_causal(write(tmp_path / "llama"), dtype=torch.float32)
    assert model.config._attn_implementation == "sdpa"
