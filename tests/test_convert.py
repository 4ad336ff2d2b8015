"""pytorch_model.bin, DCP and FSDP folders become checkpoints that load as the original does."""

import json
import os
import pickle
import warnings
from collections import OrderedDict

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from tiny import write_tiny_checkpoint

from opencompass_llada.cli import main
from opencompass_llada.networks.checkpoint import load_checkpoint
from opencompass_llada.runs import convert as converting
from opencompass_llada.runs.convert import convert
from opencompass_llada.weight_files import CheckpointError, list_weight_files


@pytest.fixture
def checkpoint(tmp_path):
    return write_tiny_checkpoint(tmp_path / "original")


@pytest.fixture
def tensors(checkpoint):
    return load_file(checkpoint / "model.safetensors")


def strip_weights(folder):
    (folder / "model.safetensors").unlink()
    return folder


def save_distributed(state, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)


def is_equal(folder, tensors):
    stored = {}
    for file in list_weight_files(folder):
        stored |= load_file(file)
    return stored.keys() == tensors.keys() and all(
        torch.equal(stored[name], own) for name, own in tensors.items()
    )


def test_a_bin_file_becomes_safetensors_that_load(checkpoint, tensors, tmp_path, capsys):
    torch.save(OrderedDict(tensors), strip_weights(checkpoint) / "pytorch_model.bin")
    (checkpoint / "trainer_state.json").write_text("{}")
    assert main(["convert", str(checkpoint), str(tmp_path / "new")]) == 0
    assert f"{len(tensors)} tensors" in capsys.readouterr().out
    assert is_equal(tmp_path / "new", tensors)
    load_checkpoint(tmp_path / "new", dtype=torch.float32)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert "config.json" in names
    assert "tokenizer.json" in names
    assert not {name for name in names if name.endswith(".bin") or "trainer" in name}
    assert not list(tmp_path.glob(".*")), "no temporary folder is left"


def test_shards_stay_shards_of_limited_size(checkpoint, tensors, tmp_path, monkeypatch):
    strip_weights(checkpoint)
    names = sorted(tensors)
    files = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, own in files.items():
        torch.save({name: tensors[name] for name in own}, checkpoint / file)
    weight_map = {name: file for file, own in files.items() for name in own}
    index = checkpoint / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    monkeypatch.setattr(converting, "SHARD_BYTES", sum(t.nbytes for t in tensors.values()) // 3)
    convert(checkpoint, tmp_path / "new")
    assert len(list((tmp_path / "new").glob("*.safetensors"))) > 2
    assert is_equal(tmp_path / "new", tensors)
    (checkpoint / "pytorch_model-2.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-2\.bin.*incomplete"):
        convert(checkpoint, tmp_path / "other")


def test_a_bin_file_with_the_same_weight_twice(checkpoint, tensors, tmp_path):
    strip_weights(checkpoint)
    first = next(iter(tensors))
    torch.save({**tensors, "tied.weight": tensors[first]}, checkpoint / "pytorch_model.bin")
    convert(checkpoint, tmp_path / "new")
    assert is_equal(tmp_path / "new", tensors)


@pytest.mark.parametrize("kind", ["bin", "distributed"])
def test_a_tied_head_that_was_gathered_as_a_tensor_of_its_own(tmp_path, kind):
    """As training writes it that gathers every name by itself."""
    checkpoint = write_tiny_checkpoint(tmp_path / "original", weight_tying=True)
    tensors = load_file(checkpoint / "model.safetensors")
    head = {"model.transformer.ff_out.weight": tensors["model.transformer.wte.weight"].clone()}
    for number, copy in enumerate((head, {name: own + 1 for name, own in head.items()})):
        source, new = tmp_path / f"in{number}", tmp_path / f"new{number}"
        if kind == "bin":
            source.mkdir()
            torch.save({**tensors, **copy}, source / "pytorch_model.bin")
        else:
            save_distributed({**tensors, **copy}, source)
        if copy is head:
            convert(source, new, str(checkpoint))
            assert is_equal(new, tensors)
        else:
            with pytest.raises(CheckpointError, match=r"1 extra: model\.transformer\.ff_out"):
                convert(source, new, str(checkpoint))


@pytest.mark.parametrize("place", [".", "pytorch_model_fsdp_0"])
@pytest.mark.parametrize("prefix", ["", "model.", "module._fsdp_wrapped_module."])
def test_a_distributed_checkpoint(checkpoint, tensors, tmp_path, place, prefix):
    state = {prefix + name: tensor for name, tensor in tensors.items()}
    # What training leaves beside weights.
    state |= {"optimizer.state.exp_avg": torch.ones(3), "step": 7}
    save_distributed(state, tmp_path / "training" / place)
    convert(tmp_path / "training", tmp_path / "new", str(checkpoint))
    assert is_equal(tmp_path / "new", tensors)
    load_checkpoint(tmp_path / "new", dtype=torch.float32)


def test_accelerate_nests_weights_under_model(checkpoint, tensors, tmp_path):
    save_distributed({"model": tensors}, tmp_path / "training" / "pytorch_model_fsdp_0")
    save_distributed({"optimizer": {"a": torch.ones(2)}}, tmp_path / "training" / "optimizer_0")
    convert(tmp_path / "training", tmp_path / "new", str(checkpoint))
    assert is_equal(tmp_path / "new", tensors)


def test_an_unknown_family_is_cut_at_its_landmarks(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    own = {"model.embed_tokens.weight": torch.ones(4, 2), "lm_head.weight": torch.zeros(4, 2)}
    save_distributed({"model": own, "optim": {"x": torch.ones(1)}}, tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "new")
    assert is_equal(tmp_path / "new", own)


class Harmful:
    """Pickled, it calls something when it is loaded."""

    def __reduce__(self):  # noqa: D105
        return os.mkdir, (os.environ["HARM"],)


def test_no_pickled_code_runs(checkpoint, tensors, tmp_path, monkeypatch):
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    strip_weights(checkpoint)
    torch.save({**tensors, "x": Harmful()}, checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="could run any code"):
        convert(checkpoint, tmp_path / "new")
    (checkpoint / "pytorch_model.bin").unlink()
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match=r"\.metadata cannot be used"):
        convert(checkpoint, tmp_path / "new")
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "new").exists()
    pickle.loads(pickle.dumps(Harmful()))
    assert (tmp_path / "harm").exists(), "loaded by pickle it does its harm"


def test_what_does_not_fit_is_refused_and_nothing_is_left(checkpoint, tensors, tmp_path):
    strip_weights(checkpoint)
    last = list(tensors)[-1]
    torch.save({n: t for n, t in tensors.items() if n != last}, checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"1 missing: {last}"):
        convert(checkpoint, tmp_path / "new")
    (checkpoint / "pytorch_model.bin").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match=r"cannot be read|holds more than"):
        convert(checkpoint, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original"]


def test_a_missing_file_of_a_distributed_checkpoint(checkpoint, tensors, tmp_path):
    save_distributed(dict(tensors), tmp_path / "in")
    for file in (tmp_path / "in").glob("*.distcp"):
        file.unlink()
    with pytest.raises(CheckpointError, match="missing or damaged"):
        convert(tmp_path / "in", tmp_path / "new", str(checkpoint))
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*"))


def test_places_that_are_wrong(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(CheckpointError, match="exists; give another folder"):
        convert(checkpoint, tmp_path)
    with pytest.raises(CheckpointError, match="holds safetensors already"):
        convert(checkpoint, tmp_path / "new")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no pytorch_model\.bin"):
        convert(tmp_path / "empty", tmp_path / "new")
    torch.save({"a": torch.ones(1)}, tmp_path / "empty" / "pytorch_model.bin")
    (tmp_path / "empty" / "deeper").mkdir()
    with pytest.raises(CheckpointError, match="--config-from"):
        convert(tmp_path / "empty", tmp_path / "new")


def test_the_wrapper_names_the_command(checkpoint, tensors):
    torch.save(tensors, strip_weights(checkpoint) / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"but pytorch_model\.bin\. Convert it: opencompass-"):
        load_checkpoint(checkpoint)
