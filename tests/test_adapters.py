"""LoRA adapters: merged equals unmerged, and what does not fit is refused before weights load."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_model, write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_dream import write_tiny_dream
from transformers import AutoModelForCausalLM

from opencompass_llada.networks import CheckpointError
from opencompass_llada.networks.checkpoint import load_checkpoint
from opencompass_llada.wrapper import LLaDACausalLM

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])
SAMPLER = {"block_length": 8, "num_steps": 8}
WRITERS = {
    "llada": write_tiny_checkpoint,
    "dream": write_tiny_dream,
    "llama": write_llama_checkpoint,
}
TARGETS = {
    "dream": ["q_proj", "v_proj", "o_proj", "gate_proj"],
    "llada": ["q_proj", "v_proj", "attn_out", "ff_proj"],
    "llama": ["q_proj", "v_proj", "o_proj", "gate_proj"],
}


def write_checkpoint(family, folder, seed=0, **overrides):
    return str(WRITERS[family](folder, seed=seed, **overrides))


def load_base(family, path):
    if family != "llama":
        return load_checkpoint(path, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, trust_remote_code=False
    ).eval()


def write_adapter(family, base_path, folder, **options):
    """Train nothing, but give every trained tensor random values, and save as peft does."""
    lora = LoraConfig(r=4, lora_alpha=16, **{"target_modules": TARGETS[family], **options})
    if family == "llama":
        lora.task_type = "CAUSAL_LM"  # as adapters trained with transformers have it
    model = get_peft_model(load_base(family, base_path).requires_grad_(True), lora)
    torch.manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def llada(folders):
    base = write_checkpoint("llada", folders / "llada")
    return base, write_adapter("llada", base, folders / "llada-lora")


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("llada", {}),
        ("llada", {"modules_to_save": ["attn_norm", "ff_norm", "ln_f"]}),
        ("llada", {"modules_to_save": ["wte", "ff_out"]}),
        ("llada", {"use_dora": True, "rank_pattern": {"blocks.0.q_proj": 2}}),
        ("llada", {"target_modules": ["wte", "q_proj"]}),
        ("dream", {"modules_to_save": ["input_layernorm", "norm"]}),
        ("llama", {}),
        ("llama", {"modules_to_save": ["input_layernorm", "norm"]}),
        ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    ],
)
def test_merged_equals_unmerged(family, extra, tmp_path):
    base = write_checkpoint(family, tmp_path / "base")
    adapter = write_adapter(family, base, tmp_path / "lora", **extra)
    oracle = load_base(family, base)
    plain = oracle(IDS).logits
    settings = LoraConfig.from_pretrained(adapter)
    settings.task_type = None
    unmerged = PeftModel.from_pretrained(oracle, adapter, config=settings).eval()(IDS).logits
    options = {"sampler": SAMPLER} if family == "llada" else {}
    model = LLaDACausalLM(base, peft_path=adapter, dtype="float32", **options)
    merged = model.engine.model(IDS).logits
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-5)
    assert (merged - plain).abs().max() > 0.1, "the adapter must matter"
    assert not any("lora" in name for name, _ in model.engine.model.named_modules())
    assert not any(weights.requires_grad for weights in model.engine.model.parameters())
    # The engine's own references see the merged weights too.
    from opencompass_llada.likelihood import LikelihoodOptions

    options = LikelihoodOptions(num_draws=4)
    score = model.engine.scorer.score(IDS[0, :9].tolist(), IDS[0, 9:].tolist(), options).nll
    if family == "llama":
        assert score == pytest.approx(-unmerged[0, 8].log_softmax(-1)[IDS[0, 9]].item(), abs=1e-4)
    assert len(model.generate(["ab"], max_out_len=8)) == 1


def test_the_published_tensor_names_are_the_files(llada):
    base, adapter = llada
    names = load_file(f"{adapter}/adapter_model.safetensors")
    assert "base_model.model.model.transformer.blocks.1.q_proj.lora_A.weight" in names


def test_in_bfloat16_all_weights_stay_bfloat16(llada):
    base, adapter = llada
    model = LLaDACausalLM(base, peft_path=adapter, dtype="bfloat16")
    assert {p.dtype for p in model.engine.model.parameters()} == {torch.bfloat16}
    exact = LLaDACausalLM(base, peft_path=adapter, dtype="float32").engine.model(IDS).logits
    assert (model.engine.model(IDS).logits.float() - exact).abs().max() < 0.1 * exact.abs().max()


def changed(adapter, folder, config=None, tensors=None):
    """Copy an adapter with other fields in its config, or other tensors."""
    shutil.copytree(adapter, folder)
    if config is not None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    if tensors is not None:
        file = folder / "adapter_model.safetensors"
        save_file(tensors(load_file(file)), file)
    return str(folder)


def drop_one(tensors):
    return {k: v for k, v in tensors.items() if "blocks.1.v_proj.lora_B" not in k}


def add_one(tensors):
    return {
        **tensors,
        "base_model.model.model.transformer.blocks.9.q_proj.lora_A.weight": IDS.float(),
    }


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"peft_type": "IA3"}, None, "peft_type='IA3'.*only LORA"),
        ({"init_lora_weights": "pissa_niter_4"}, None, "changes the base weights"),
        ({"target_modules": ["q_proj", "o_proj"]}, None, "the network lacks: o_proj"),
        ({"modules_to_save": ["norm"]}, None, "the network lacks: norm"),
        ({"target_modules": "nothing.*"}, None, "does not fit the network"),
        ({"target_modules": ["q_proj"]}, None, r"extra: .*attn_out\.lora_A"),
        ({"r": 8}, None, r"wrongly shaped: .*lora_A\.weight is \[4, 32\].* asks for \[8, 32\]"),
        (None, drop_one, r"1 missing: .*blocks\.1\.v_proj\.lora_B"),
        (None, add_one, r"1 extra: .*blocks\.9\.q_proj\.lora_A"),
    ],
)
def test_adapters_that_do_not_fit_are_refused_before_weights_load(
    llada, tmp_path, monkeypatch, config, tensors, message
):
    base, adapter = llada
    monkeypatch.setattr("opencompass_llada.networks.checkpoint.load_file", None)
    wrong = changed(adapter, tmp_path / "wrong", config, tensors)
    with pytest.raises(CheckpointError, match=message):
        LLaDACausalLM(base, peft_path=wrong)


@pytest.mark.parametrize("family", ["llada", "llama"])
def test_an_adapter_for_another_shape_is_refused(family, tmp_path, monkeypatch):
    base = write_checkpoint(family, tmp_path / "base")
    width = {"d_model": 64} if family == "llada" else {"hidden_size": 64}
    other = write_checkpoint(family, tmp_path / "other", **width)
    adapter = write_adapter(family, other, tmp_path / "lora")
    monkeypatch.setattr("opencompass_llada.networks.checkpoint.load_file", None)
    monkeypatch.setattr("opencompass_llada.engines.autoregressive.load_causal", None)
    with pytest.raises(CheckpointError, match=r"another shape.*give the checkpoint that it was"):
        LLaDACausalLM(base, peft_path=adapter)


def test_missing_and_unreadable_files_are_named(llada, tmp_path):
    base, adapter = llada
    with pytest.raises(CheckpointError, match="neither an existing folder nor a hub id"):
        LLaDACausalLM(base, peft_path="no/such/adapter")
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json"):
        LLaDACausalLM(base, peft_path=base)
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    (broken / "adapter_model.safetensors").rename(broken / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors"):
        LLaDACausalLM(base, peft_path=str(broken))
    (broken / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        LLaDACausalLM(base, peft_path=str(broken))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"peft_kwargs": {"subfolder": "x"}}, "no effect without peft_path"),
        ({"peft_path": "a", "peft_kwargs": {"subfoldr": "x"}}, "Did you mean 'subfolder'"),
        ({"peft_path": "a", "peft_kwargs": {"is_trainable": True}}, "nothing is trained here"),
    ],
)
def test_wrong_keywords_are_refused_before_any_file_is_opened(keywords, message):
    with pytest.raises(ValueError, match=message):
        LLaDACausalLM("no/such/folder/anywhere", **keywords)


def test_without_peft_the_command_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'opencompass-llada\[peft\]'"):
        LLaDACausalLM("no/such/folder/anywhere", peft_path="a")


def test_a_subfolder_is_found(llada, tmp_path):
    base, adapter = llada
    shutil.copytree(adapter, tmp_path / "run" / "last")
    options = {"peft_path": str(tmp_path / "run"), "peft_kwargs": {"subfolder": "last"}}
    model = LLaDACausalLM(base, dtype="float32", **options)
    same = LLaDACausalLM(base, dtype="float32", peft_path=adapter)
    assert torch.equal(model.engine.model(IDS).logits, same.engine.model(IDS).logits)
    assert not torch.equal(model.engine.model(IDS).logits, tiny_model()(IDS).logits)


def test_the_check_before_a_run_sees_the_adapter(llada, tmp_path):
    from opencompass_llada.runs.checks import check_options

    base, adapter = llada
    model = dict(type=LLaDACausalLM, abbr="m", path=base, peft_path=adapter)
    inferencer = {"type": "opencompass.openicl.icl_inferencer.GenInferencer"}
    cell = dict(type="opencompass.datasets.JsonlDataset", abbr="d", path="x")
    cfg = {"models": [model], "datasets": [cell | {"infer_cfg": {"inferencer": inferencer}}]}
    check_options(cfg, runs_locally=True)
    model["peft_path"] = changed(adapter, tmp_path / "wrong", {"r": 8})
    with pytest.raises(ValueError, match=r"model 'm': .*wrongly shaped"):
        check_options(cfg, runs_locally=True)
