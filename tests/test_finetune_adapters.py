"""Adapters that training writes: over their base they are the merged checkpoint, RoPE included."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from finetune_runs import LONGER, RECIPE, small_recipe, small_trainer
from safetensors.torch import load_file
from second_loader import load_second, second_loader
from tiny import write_tiny_checkpoint
from tiny_illada import write_tiny_illada
from tiny_sdar import write_tiny_sdar

from opencompass_llada.networks import CheckpointError
from opencompass_llada.networks.adapted_config import read_adapted_config
from opencompass_llada.networks.adapters import AdapterSource

pytest.importorskip("peft")
pytest.importorskip("opencompass")
from opencompass_llada.wrapper import LLaDACausalLM

IDS = torch.randint(6, 200, (300,), generator=torch.Generator().manual_seed(1))
LORA = {"rank": 4, "alpha": 8}
RATES = {"learning_rate": 0.05, "warmup_steps": 0, "evaluation": {"retrieval_rows": 0}}
FAMILIES = {
    "llada": (write_tiny_checkpoint, {"max_sequence_length": 128}, {}),
    "illada": (write_tiny_illada, {"max_sequence_length": 128}, {}),
    "sdar": (
        write_tiny_sdar,
        {"max_position_embeddings": 128},
        {"objective": "block_diffusion", "block_length": 8},
    ),
}


def trained(folder, family="llada", **lora):
    """Post-train with adapters from 128 to 512 tokens; return base and result."""
    write, sizes, recipe = FAMILIES[family]
    base = write(folder / "base", **sizes)
    changes = {**RATES, **recipe, "init_from": str(base), "lora": {**LORA, **lora}}
    return base, small_trainer(folder / "out", LONGER, **changes).train()


@pytest.fixture(scope="module")
def llada(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("adapters"))


def wrapped(path, adapter=None, **options):
    sampler = {"sampler": {"block_length": 8, "num_steps": 8}}
    more = {} if adapter is None else {"peft_path": str(adapter)}
    return LLaDACausalLM(str(path), dtype="float32", **sampler, **more, **options)


def logits(model):
    return model.engine.model(IDS[None]).logits[0]


@pytest.mark.parametrize(
    ("family", "train"),
    [
        ("llada", ["norms"]),
        ("llada", []),
        ("llada", ["norms", "embeddings", "head"]),
        ("illada", ["norms", "embeddings"]),
        ("sdar", ["norms", "head"]),
    ],
)
def test_an_adapter_over_its_base_is_the_merged_checkpoint(tmp_path, family, train):
    base, final = trained(tmp_path, family, train=train)
    merged, over = wrapped(final), wrapped(base, final / "adapter")
    torch.testing.assert_close(logits(over), logits(merged), rtol=0, atol=1e-5)
    own_blocks = {"attention_block": 8} if family == "sdar" else {}  # 4 in the base
    plain = logits(wrapped(base, **own_blocks))
    assert (logits(over) - plain).abs().max() > 0.1, "the adapter must matter"
    first, second = (model.engine.model.resolved_rope for model in (merged, over))
    assert first.longest_context == second.longest_context == 512
    assert first.rope_theta == second.rope_theta
    ours, theirs = (model.engine.model.attention_pattern for model in (merged, over))
    assert ours == theirs
    assert len(over.generate(["ab"], max_out_len=8)) == 1


@pytest.mark.parametrize("train", [["norms"], ["norms", "embeddings", "head"]])
def test_an_adapter_in_peft_over_a_second_loader(tmp_path, train):
    from peft import PeftModel

    base, final = trained(tmp_path, train=train)
    adapter = final / "adapter"
    theta = json.loads((adapter / "config.json").read_text())["rope_theta"]
    expected = second_loader(final, IDS)
    torch.testing.assert_close(logits(wrapped(final)).double(), expected, rtol=1e-4, atol=1e-4)
    network = load_second(base, {"rope_theta": theta})
    unmerged = PeftModel.from_pretrained(network, str(adapter)).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(unmerged(IDS), expected, rtol=0, atol=1e-5)
        unscaled = PeftModel.from_pretrained(load_second(base), str(adapter)).double().eval()
        assert (unscaled(IDS) - expected).abs().max() > 0.1, "RoPE's base must matter"


@pytest.mark.parametrize(
    ("family", "train", "moved"),
    [
        ("llada", [], set()),
        ("llada", ["norms"], {"attn_norm", "ff_norm", "ln_f"}),
        ("llada", ["embeddings"], {"wte"}),
        ("llada", ["head"], {"transformer.ff_out"}),
        ("illada", ["embeddings"], {"wte"}),
    ],
)
def test_what_is_trained_whole_is_what_the_recipe_says(tmp_path, family, train, moved):
    base, final = trained(tmp_path, family, train=train)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, final))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    whole = {name for name in before if any(f".{m}." in f".{name}" for m in moved)}
    layers = {name for name in before if "blocks" in name and "norm" not in name}
    assert changed == whole | layers
    config = json.loads((final / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] is None if not train else config["modules_to_save"]
    assert config["base_model_name_or_path"] == str(base)
    stored = load_file(final / "adapter" / "adapter_model.safetensors")
    assert len(stored) == len(whole) + 2 * len(layers)


def test_the_two_files_of_peft_alone_are_loaded_with_their_rope(llada, tmp_path):
    base, final = llada
    shutil.copytree(final / "adapter", tmp_path / "pushed")
    (tmp_path / "pushed" / "config.json").unlink()
    model = wrapped(base, tmp_path / "pushed")
    torch.testing.assert_close(logits(model), logits(wrapped(final)), rtol=0, atol=1e-5)


def test_a_further_scaling_counts_from_what_the_adapter_was_trained_for(llada):
    base, final = llada
    longer = {"rope_scaling": {"type": "diffusion_ntk", "target_length": 1024}}
    over, merged = wrapped(base, final / "adapter", **longer), wrapped(final, **longer)
    torch.testing.assert_close(logits(over), logits(merged), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="multiply the base twice"):
        wrapped(base, final / "adapter", rope_scaling={"type": "ntk", "theta_multiplier": 2.0})


def changed_copy(folder, source, **fields):
    shutil.copytree(source, folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_theta": 20000.0}, "over a RoPE base of .* or 10000, .*rope_theta is 20000"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps=1e-05, and the checkpoint has 1e-06"),
    ],
)
def test_over_another_checkpoint_it_is_refused(llada, tmp_path, fields, message):
    base, final = llada
    other = changed_copy(tmp_path / "other", base, **fields)
    with pytest.raises(CheckpointError, match=message):
        wrapped(other, final / "adapter")


def test_over_the_weights_that_hold_it_already_it_is_refused(llada):
    _, final = llada
    with pytest.raises(CheckpointError, match="hold this adapter already"):
        wrapped(final, final / "adapter")


def test_over_a_network_of_transformers_another_rope_is_refused(llada, tmp_path):
    from tiny_causal import write_llama_checkpoint

    _, final = llada
    base = write_llama_checkpoint(tmp_path / "llama")
    adapter = changed_copy(tmp_path / "lora", final / "adapter", model_type="llama")
    with pytest.raises(CheckpointError, match="declares another RoPE"):
        read_adapted_config(base, None, AdapterSource(path=str(adapter)))
    with pytest.raises(CheckpointError, match="trained over model_type='llada'"):
        read_adapted_config(base, None, AdapterSource(path=str(final / "adapter")))


def test_the_check_before_a_run_knows_the_adapters_length(llada):
    """target_length=512 lengthens the base of 128 tokens and not the adapter of 512."""
    from opencompass_llada.runs.checks import check_options

    base, final = llada
    scaling = {"type": "diffusion_ntk", "target_length": 256}
    model = dict(type=LLaDACausalLM, abbr="m", path=str(base), rope_scaling=scaling)
    inferencer = {"type": "opencompass.openicl.icl_inferencer.GenInferencer"}
    cell = dict(type="opencompass.datasets.JsonlDataset", abbr="d", path="x")
    cfg = {"models": [model], "datasets": [cell | {"infer_cfg": {"inferencer": inferencer}}]}
    check_options(cfg, runs_locally=True)
    model["peft_path"] = str(final / "adapter")
    with pytest.raises(ValueError, match="target_length=256"):
        check_options(cfg, runs_locally=True)


def test_an_adapter_alone_takes_no_room_for_merged_weights(tmp_path):
    base, final = trained(tmp_path, save="adapter")
    assert {file.name for file in final.iterdir()} == {"adapter", "training.json"}
    step = tmp_path / "out" / "step-000002"
    assert {file.name for file in step.iterdir()} == {"adapter", "training.json", "state"}
    over = logits(wrapped(base, final / "adapter"))
    with pytest.raises(CheckpointError, match="peft_path"):
        wrapped(final)
    # The same command with another `save` trains nothing and writes the merged weights.
    changes = {**RATES, "init_from": str(base), "lora": {**LORA, "save": "merged"}}
    again = small_trainer(tmp_path / "out", LONGER, **changes)
    assert again.step == 2
    merged = again.train()
    assert not (merged / "adapter").exists()
    torch.testing.assert_close(logits(wrapped(merged)), over, rtol=0, atol=1e-5)


def test_what_does_not_go_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="lora.save='adapter' .* needs init_from"):
        small_recipe(RECIPE, lora={"save": "adapter"})
    with pytest.raises(ValueError, match="train"):
        small_recipe(RECIPE, lora={"train": ["heads"]})
    base = write_tiny_illada(tmp_path / "base", max_sequence_length=128)
    with pytest.raises(ValueError, match="the head is the token embedding"):
        small_trainer(tmp_path / "out", LONGER, init_from=str(base), lora={"train": ["head"]})


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its recipe knows neither ``train`` nor ``save``."""
    trained(tmp_path)
    file = tmp_path / "out" / "checkpoints.json"
    index = json.loads(file.read_text())
    del index["recipe"]["lora"]["train"], index["recipe"]["lora"]["save"]
    file.write_text(json.dumps(index))
    changes = {**RATES, "init_from": str(tmp_path / "base")}
    assert small_trainer(tmp_path / "out", LONGER, lora=LORA, **changes).step == 2
    with pytest.raises(ValueError, match="another recipe .lora: "):
        small_trainer(tmp_path / "out", LONGER, lora={**LORA, "train": []}, **changes)
