"""Which files are loaded, what they may hold, and what happens to numbers that are none."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import EOS_ID, write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_dream import write_tiny_dream

from opencompass_llada.engines import AutoregressiveEngine
from opencompass_llada.likelihood import LikelihoodOptions
from opencompass_llada.networks import CheckpointError, check_causal, load_causal, load_checkpoint
from opencompass_llada.networks.checkpoint import open_checkpoint
from opencompass_llada.runs.hashes import hash_checkpoint
from opencompass_llada.weight_files import INDEX_NAME, SINGLE_NAME, list_weight_files

WRITERS = {
    "llama": write_llama_checkpoint,
    "llada": write_tiny_checkpoint,
    "dream": write_tiny_dream,
}


def load(folder, dtype=torch.float32):
    if json.loads((folder / "config.json").read_text())["model_type"] == "llama":
        return load_causal(folder, dtype=dtype)[0]
    return load_checkpoint(folder, dtype=dtype)


def check(folder):
    if json.loads((folder / "config.json").read_text())["model_type"] == "llama":
        return check_causal(folder)
    return open_checkpoint(folder)


def rewrite(folder, change, file=SINGLE_NAME):
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


def up_projection(folder):
    names = sorted(load_file(folder / SINGLE_NAME))
    return next(name for name in names if "up_proj" in name)


@pytest.fixture(params=WRITERS)
def folder(request, tmp_path):
    return WRITERS[request.param](tmp_path / "checkpoint")


def test_files_beside_the_weights_change_nothing(folder, tmp_path, caplog):
    expected, hashed = load(folder).state_dict(), hash_checkpoint(folder)
    other = type(folder)(tmp_path / "other")
    shutil.copytree(folder, other)
    rewrite(other, lambda tensors: [t.add_(1) for t in tensors.values()])
    names = ["model_ema.safetensors", "optimizer_copy.safetensors", "a.safetensors"]
    names += ["._model.safetensors", "model-00001-of-00002.safetensors", "z.safetensors"]
    for name in names[:-1]:
        shutil.copy(other / SINGLE_NAME, folder / name)
    (folder / names[-1]).write_bytes(b"torn")
    with caplog.at_level("INFO"):
        found = load(folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert list_weight_files(folder) == [folder / SINGLE_NAME]
    assert hash_checkpoint(folder) == hashed, "the hash covers what is loaded"
    assert "model_ema.safetensors" in caplog.text
    assert "._model" not in caplog.text


def test_the_files_of_the_index_are_loaded_and_hashed(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "a", num_shards=2)
    hashed = hash_checkpoint(folder)
    expected = load(folder).state_dict()
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "other.safetensors")
    assert hash_checkpoint(folder) == hashed
    assert [path.name for path in list_weight_files(folder)] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert all(torch.equal(value, expected[k]) for k, value in load(folder).state_dict().items())
    rewrite(
        folder,
        lambda tensors: next(iter(tensors.values())).add_(1),
        "model-00002-of-00002.safetensors",
    )
    assert hash_checkpoint(folder) != hashed


def test_an_index_and_a_single_file_are_refused(folder):
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    shutil.copy(folder / SINGLE_NAME, folder / "model-00001-of-00001.safetensors")
    (folder / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="nothing says which weights are meant"):
        check(folder)
    assert hash_checkpoint(folder) == ""
    index["weight_map"] = {"a": SINGLE_NAME}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    load(folder)


def test_adapters_and_pickled_weights_of_other_loaders_have_a_hash(tmp_path):
    found = set()
    for name in ("adapter_model.safetensors", "pytorch_model.bin"):
        for content in (b"one", b"two"):
            (tmp_path / name).write_bytes(content)
            found.add(hash_checkpoint(tmp_path))
        (tmp_path / "adapter_config.json").write_text("{}")
        found.add(hash_checkpoint(tmp_path))
        (tmp_path / name).unlink()
        (tmp_path / "adapter_config.json").unlink()
    assert len(found) == 6
    assert hash_checkpoint(tmp_path) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "weight_map"),
        ("[]", "weight_map"),
        ("{}", "weight_map"),
        ('{"weight_map": {}}', "empty"),
        ('{"weight_map": {"a": 1}}', r"names other files \(1\)"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "no file name beside it"),
        ('{"weight_map": {"a": "/model.safetensors"}}', "no file name beside it"),
        ('{"weight_map": {"a": "._model.safetensors"}}', "no file name beside it"),
    ],
)
def test_a_damaged_index_is_named(tmp_path, text, words):
    folder = write_tiny_checkpoint(tmp_path)
    (folder / INDEX_NAME).write_text(text)
    with pytest.raises(CheckpointError, match=words) as error:
        check(folder)
    assert INDEX_NAME in str(error.value)


def test_files_of_no_known_name_are_not_guessed_at(folder):
    (folder / SINGLE_NAME).rename(folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor .*weights"):
        check(folder)
    (folder / "weights.safetensors").rename(folder / "._model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors file"):
        check(folder)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    folder = write_tiny_checkpoint(tmp_path, num_shards=2)
    first, second = list_weight_files(folder)
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(CheckpointError, match="tensors stand in two files"):
        check(folder)


def test_extra_tensors_are_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.layers.0.scale": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"1 extra: model\.layers\.0\.scale"):
        load(folder)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.int64]
)
def test_weights_that_are_no_plain_floats_are_refused_before_loading(folder, dtype):
    name = up_projection(folder)
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(CheckpointError, match="are stored in types that are no plain") as error:
        check(folder)
    assert name in str(error.value)


def test_a_declared_quantisation_is_refused(tmp_path):
    folder = write_llama_checkpoint(tmp_path, quantization_config={"quant_method": "fp8"})
    with pytest.raises(CheckpointError, match="quantization_config"):
        check(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_are_not_finite_are_named(folder, value):
    name = up_projection(folder)
    rewrite(folder, lambda tensors: tensors[name][0].fill_(value))
    with pytest.raises(CheckpointError, match="there is a NaN or an infinity in") as error:
        load(folder, torch.float16 if value == 1e6 else torch.float32)
    assert name in str(error.value)
    if value == 1e6:
        load(folder, torch.bfloat16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_autoregressive_model_without_finite_logits_raises(tmp_path, value):
    model, _ = load_causal(write_llama_checkpoint(tmp_path), dtype=torch.float32)
    engine = AutoregressiveEngine(model, end_token_ids=(EOS_ID,), pad_token_id=EOS_ID)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = value
    with pytest.raises(FloatingPointError, match="not finite.*bfloat16 or float32"):
        engine.generate([[1, 2, 3], [4]], max_new_tokens=4)
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.scorer.score([1, 2], [3], LikelihoodOptions())
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.scorer.score_next([1, 2], [3, 4])


def test_one_logit_that_is_not_finite_is_enough(tmp_path):
    model, _ = load_causal(write_llama_checkpoint(tmp_path), dtype=torch.float32)
    engine = AutoregressiveEngine(model, end_token_ids=(EOS_ID,), pad_token_id=EOS_ID)
    for value in (float("nan"), float("inf"), float("-inf")):
        with torch.no_grad():
            model.lm_head.weight[7].fill_(value)
        with pytest.raises(FloatingPointError, match="not finite"):
            engine.generate([[1, 2, 3]], max_new_tokens=4)
