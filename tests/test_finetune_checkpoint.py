"""Checkpoints in the published format: a second loader, RoPE, shards, adapters, round trips."""

from __future__ import annotations

import json
import math

import pytest
import torch
from finetune_runs import LONGER, SHORT, small_trainer
from safetensors.torch import load_file
from second_loader import second_loader
from tiny import write_tiny_checkpoint
from transformers import AutoTokenizer

from opencompass_llada.finetune.saving import write_weights
from opencompass_llada.networks import load_checkpoint
from opencompass_llada.rope.methods import parse_rope_scaling


def post_trained(tmp_path, **changes):
    """Post-train a random network trained at 128 tokens to 512."""
    path = write_tiny_checkpoint(tmp_path / "model", max_sequence_length=128, num_shards=2)
    trainer = small_trainer(tmp_path / "out", LONGER, init_from=str(path), **changes)
    return trainer, trainer.train()


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}], ids=["full", "lora"])
def test_a_post_trained_checkpoint_loads_everywhere_with_its_scaling(tmp_path, lora):
    if lora:
        pytest.importorskip("peft")
    trainer, folder = post_trained(tmp_path, lora=lora, learning_rate=0.05, warmup_steps=0)
    ids = torch.randint(0, 200, (200,))
    expected = trainer.model.eval()(ids[None]).logits[0].detach()
    ours = load_checkpoint(folder, dtype=torch.float32)
    torch.testing.assert_close(ours(ids[None]).logits[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second_loader(folder, ids).float(), expected, rtol=1e-3, atol=1e-3)
    config = json.loads((folder / "config.json").read_text())
    # UltraLLaDA's rule with 2 T in the place of T, head size 16, base 10,000, 128 to 512 tokens.
    critical = 2 * math.ceil(8 * math.log(256 / (2 * math.pi)) / math.log(10000))
    theta = (1024 / (2 * math.pi)) ** (16 / critical)
    assert config["rope_theta"] == pytest.approx(theta)
    assert config["max_sequence_length"] == 512
    assert config["rope_training"]["original_rope_theta"] == 10000.0
    assert config["rope_training"]["theta_multiplier"] == pytest.approx(theta / 10000)
    start = load_checkpoint(tmp_path / "model", dtype=torch.float32)
    moved = {
        name
        for name, value in ours.state_dict().items()
        if not torch.equal(value, start.state_dict()[name])
    }
    frozen = {"model.transformer.wte.weight", "model.transformer.ff_out.weight"}
    assert moved == ours.state_dict().keys() - (frozen if lora else set())


def test_the_wrapper_loads_a_post_trained_checkpoint(tmp_path):
    """Through OpenCompass, with the scaling that was trained and nothing on top."""
    pytest.importorskip("opencompass")
    from opencompass_llada.wrapper import LLaDACausalLM

    trainer, folder = post_trained(tmp_path)
    sampler = {"block_length": 4, "num_steps": 4}
    model = LLaDACausalLM(path=str(folder), sampler=sampler, max_out_len=4, dtype="float32")
    rope = model.engine.model.resolved_rope
    assert (rope.method, rope.longest_context) == ("none", 512)
    torch.testing.assert_close(
        rope.inverse_frequencies_D, trainer.model.resolved_rope.inverse_frequencies_D
    )
    assert len(model.generate(["abc", "d"], max_out_len=4)) == 2


def test_a_trained_scaling_is_not_multiplied_again_but_may_be_extended(tmp_path):
    _, folder = post_trained(tmp_path)
    first = load_checkpoint(folder).resolved_rope
    assert (first.method, first.longest_context) == ("none", 512)
    longer = parse_rope_scaling({"type": "ntk", "target_length": 2048})
    assert load_checkpoint(folder, rope_scaling=longer).resolved_rope.rope_theta > first.rope_theta
    twice = parse_rope_scaling({"type": "ntk", "theta_multiplier": 4})
    with pytest.raises(ValueError, match="multiply the base twice"):
        load_checkpoint(folder, rope_scaling=twice)
    one = parse_rope_scaling({"type": "ntk", "theta_multiplier": 1})
    load_checkpoint(folder, rope_scaling=one)


def test_training_goes_on_from_a_post_trained_checkpoint(tmp_path):
    """Same length, no further scaling: base and its history stay."""
    _, folder = post_trained(tmp_path)
    trainer = small_trainer(tmp_path / "again", LONGER, init_from=str(folder))
    again = trainer.train()
    first, second = (json.loads((f / "config.json").read_text()) for f in (folder, again))
    assert first == second


def test_adapters_start_from_the_checkpoint_itself(tmp_path):
    pytest.importorskip("peft")
    path = write_tiny_checkpoint(tmp_path / "model", max_sequence_length=512)
    trainer = small_trainer(tmp_path / "out", LONGER, init_from=str(path), lora={"rank": 4})
    folder = trainer.save({})
    stored = load_file(folder / "model.safetensors")
    for name, value in load_file(path / "model.safetensors").items():
        assert torch.equal(stored[name], value), name
    trainable = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    kinds = {name.rpartition(".")[0].rpartition(".")[2] for name in trainable}
    assert kinds == {"default", "attn_norm", "ff_norm", "ln_f"}
    assert not any("transformer.ff_out.lora" in name for name in trainable)  # the head has none
    assert len([n for n in trainable if "lora_A" in n]) == 2 * 7


def test_weights_round_trip_bit_for_bit_whole_and_in_shards(tmp_path):
    torch.manual_seed(0)
    tensors = {f"t{n}": torch.randn(10, n + 1).to(torch.bfloat16) for n in range(6)}
    for name, size in (("whole", 10**9), ("shards", 200)):
        folder = tmp_path / name
        folder.mkdir()
        write_weights(folder, iter(tensors.items()), shard_bytes=size)
        files = sorted(folder.glob("*.safetensors"))
        assert (len(files) == 1) == (name == "whole")
        stored = {k: v for file in files for k, v in load_file(file).items()}
        assert stored.keys() == tensors.keys()
        assert all(torch.equal(stored[key], value) for key, value in tensors.items())
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in tensors.values())
    assert "model-00001-of-" in index["weight_map"]["t0"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_checkpoint_round_trips_through_training_without_steps(tmp_path, dtype):
    first = small_trainer(tmp_path / "a", phases=SHORT, dtype=dtype).save({})
    recipe = {**LONGER, "phases": SHORT, "dtype": dtype}
    second = small_trainer(tmp_path / "b", recipe, init_from=str(first)).save({})
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert (
        AutoTokenizer.from_pretrained(second, trust_remote_code=False).eos_token == "<|endoftext|>"
    )
