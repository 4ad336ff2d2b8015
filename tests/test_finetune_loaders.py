"""What other loaders need of a written checkpoint: every field of config.json, and small files."""

from __future__ import annotations

import json

import pytest
import torch
from finetune_runs import LONGER, RECIPE, SHORT, small_trainer
from second_loader import second_loader
from tiny import write_tiny_checkpoint
from tiny_sdar import write_tiny_sdar
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from opencompass_llada.assets import FOLDER
from opencompass_llada.finetune.published import PUBLISHED
from opencompass_llada.networks import load_checkpoint

DROPOUTS = ("attention_dropout", "embedding_dropout", "residual_dropout")
SDAR = {"objective": "block_diffusion", "block_length": 4}


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def written(tmp_path, base=RECIPE, **changes):
    """Write a checkpoint before any step."""
    return small_trainer(tmp_path / "out", base, phases=SHORT, **changes).save({})


def started(tmp_path, **fields):
    """Return a checkpoint whose config.json has these fields, without those that are None."""
    path = write_tiny_checkpoint(tmp_path / "model", max_sequence_length=128)
    changed = {**config_of(path), **fields}
    kept = {k: v for k, v in changed.items() if v is not None or k not in fields}
    (path / "config.json").write_text(json.dumps(kept))
    return path


@pytest.mark.parametrize("origin", ["scratch", "published", "without dropouts", "asset"])
def test_another_loader_in_train_mode_drops_nothing(tmp_path, origin):
    """LLaDA's own code drops a tenth of everything where config.json does not say 0."""
    if origin == "scratch":
        folder = written(tmp_path)
    elif origin == "asset":
        folder = FOLDER / "tiny-llada"
    else:
        own = dict.fromkeys(DROPOUTS) if origin == "without dropouts" else {}
        folder = written(tmp_path, LONGER, init_from=str(started(tmp_path, **own)))
    ids = torch.randint(0, 200, (50,))
    still = second_loader(folder, ids)
    trained = second_loader(folder, ids, train=True)
    assert torch.equal(trained, still)
    dropped = second_loader(folder, ids, train=True, changed=dict.fromkeys(DROPOUTS, 0.1))
    assert (dropped - still).abs().max() > 0.01 * still.abs().max(), "dropout must matter"
    ours = load_checkpoint(folder, dtype=torch.float32).train()(ids[None]).logits[0]
    torch.testing.assert_close(ours, still.float(), rtol=1e-3, atol=1e-3)


def test_every_field_of_the_start_is_written_and_what_changed(tmp_path):
    path = started(tmp_path, _name_or_path="/home/me/model", use_cache=True)
    start = config_of(path)
    end = config_of(small_trainer(tmp_path / "out", LONGER, init_from=str(path)).save({}))
    changed = {name for name in {*start, *end} if start.get(name) != end.get(name)}
    assert changed == {
        *("max_sequence_length", "rope_theta", "rope_training", "torch_dtype", "_name_or_path"),
    }
    assert "_name_or_path" not in end


def test_a_start_that_transformers_5_wrote_keeps_its_forms(tmp_path):
    path = write_tiny_sdar(tmp_path / "model", max_position_embeddings=128)
    fields = config_of(path)
    theta = fields.pop("rope_theta")
    del fields["torch_dtype"], fields["rope_scaling"]
    fields |= {
        "dtype": "bfloat16",
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }
    (path / "config.json").write_text(json.dumps(fields))
    end = config_of(small_trainer(tmp_path / "out", LONGER, init_from=str(path), **SDAR).save({}))
    assert end["rope_parameters"]["rope_theta"] == end["rope_theta"] > theta
    assert end["dtype"] == end["torch_dtype"] == "float32"
    for name in ("auto_map", "sliding_window", "attn_implementation", "use_deepep"):
        assert end[name] == fields[name]


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llada", {}), ("sdar", SDAR), ("llama", {"objective": "autoregressive"})],
)
def test_from_scratch_config_json_is_as_published(tmp_path, family, changes):
    fields = config_of(written(tmp_path, **changes))
    if family == "llama":
        assert fields["attention_dropout"] == 0.0
        return
    assert fields == {**fields, **PUBLISHED[family]}
    from tiny import published_fields, tiny_config
    from tiny_sdar import sdar_fields

    published = sdar_fields() if family == "sdar" else published_fields(tiny_config())
    of_its_trainer = {"debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint"}
    of_its_trainer |= {"use_deepep", "attn_implementation", "max_window_layers", "bos_token_id"}
    assert published.keys() - fields.keys() <= {"transformers_version", *of_its_trainer}


def test_the_twin_loads_in_train_mode_without_dropout(tmp_path):
    folder = written(tmp_path, objective="autoregressive")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    ids = torch.randint(0, 200, (1, 50))
    assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)


def test_the_twin_goes_on_from_its_checkpoint(tmp_path):
    changes = {"objective": "autoregressive", "init_from": "asset:tiny-ar", "phases": SHORT}
    changes["strategy"] = "windows"
    trainer = small_trainer(tmp_path / "out", LONGER, **changes)
    start = AutoModelForCausalLM.from_pretrained(FOLDER / "tiny-ar", trust_remote_code=False)
    given = dict(start.float().named_parameters())
    assert len(given) == 57
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, given[name]), name
    fields, own = config_of(trainer.save({})), config_of(FOLDER / "tiny-ar")
    assert {name for name in {*fields, *own} if fields.get(name) != own.get(name)} == {
        "torch_dtype"
    }
    changes["phases"] = [{**SHORT[0], "sequence_length": 1024}]
    with pytest.raises(ValueError, match="1024 is longer than the 512 tokens"):
        small_trainer(tmp_path / "long", LONGER, **changes)
    with pytest.raises(ValueError, match="no small Llama"):
        small_trainer(tmp_path / "wrong", LONGER, **{**changes, "init_from": "asset:tiny-llada"})


@pytest.mark.parametrize("name", ["tiny-llada", "tiny-llada-long", "tiny-block"])
def test_shipped_models_have_every_published_field(name):
    fields = config_of(FOLDER / name)
    assert fields == {**fields, **PUBLISHED[fields["model_type"]]}


def test_small_files_of_the_start_are_copied_and_code_is_not_run(tmp_path):
    path = started(tmp_path)
    files = {
        "modeling_llada.py": "raise SystemExit('remote code was run')\n",
        "configuration_llada.py": "raise SystemExit('remote code was run')\n",
        "generation_config.json": '{"eos_token_id": 256}',
        "special_tokens_map.json": '{"eos_token": "<|endoftext|>"}',
        "chat_template.jinja": "{{ messages }}",
    }
    others = {"trainer_state.json": "{}", "README.md": "of another model", "notes.txt": "mine"}
    for name, text in {**files, **others}.items():
        (path / name).write_text(text)
    trainer = small_trainer(tmp_path / "out", LONGER, phases=SHORT, init_from=str(path))
    for name in files:
        (path / name).unlink()  # what counts is what was there when the run began
    folder = trainer.save({})
    for name, text in files.items():
        assert (folder / name).read_text() == text
    assert not {file.name for file in folder.iterdir()} & others.keys()
    assert (folder / "tokenizer.json").read_bytes() == (path / "tokenizer.json").read_bytes()
    # The one file that is not always as it was: transformers 4 has no class TokenizersBackend.
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoTokenizer.from_pretrained(folder, trust_remote_code=False).eos_token
    load_checkpoint(folder)


def test_sdars_format_loads_in_transformers_qwen3_without_dropout(tmp_path):
    """SDAR is Qwen3 under another mask; transformers' own reads the written fields and tensors."""
    folder = written(tmp_path, **SDAR)
    fields = config_of(folder) | {"model_type": "qwen3", "attn_implementation": "eager"}
    del fields["rope_scaling"]
    config = Qwen3Config.from_dict(fields)
    model = Qwen3ForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    ids, block = torch.randint(0, 200, (1, 50)), torch.arange(50) // 4
    unseen = block[None, :] > block[:, None]
    mask = torch.zeros(50, 50).masked_fill(unseen, -torch.inf)[None, None]
    with torch.no_grad():
        theirs = model.train()(ids, attention_mask=mask).logits
    ours = load_checkpoint(folder, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
