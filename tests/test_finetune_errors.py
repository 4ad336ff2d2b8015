"""What a user can get wrong: a clear error before training, and earlier checkpoints intact."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import sys

import pytest
import torch
from finetune_runs import LONGER, RECIPE, SHORT, small_recipe, small_trainer
from safetensors.torch import load_file, save_file
from tiny import tiny_tokenizer, write_tiny_checkpoint

from opencompass_llada.files import host_name
from opencompass_llada.finetune import saving
from opencompass_llada.finetune.__main__ import main
from opencompass_llada.finetune.checkpoints import SaveError
from opencompass_llada.finetune.parallel import read_ranks
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.recipe_file import load_recipe
from opencompass_llada.finetune.resources import (
    NetworkShape,
    check_memory,
    claim_output,
    plan_memory,
)
from opencompass_llada.finetune.text import read_documents
from opencompass_llada.networks import load_checkpoint
from opencompass_llada.networks.config import NetworkDimensions

LLADA_8B = NetworkDimensions(
    width=4096,
    num_heads=32,
    num_groups=32,
    num_layers=32,
    mlp_width=12288,
    vocabulary=126464,
    norm_eps=1e-5,
    head_dim=128,
    rotated_dim=128,
    has_qkv_bias=False,
    has_qk_norm=False,
    ties_embeddings=False,
)


def jsonl(folder, *rows, name="a.jsonl"):
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_sources_that_cannot_be_read_say_what_to_do(tmp_path):
    for source, words in (
        (TextSource(paths=(str(tmp_path / "*.txt"),)), "no file matches"),
        (TextSource(paths=(jsonl(tmp_path, {"body": "x"}),)), "text_field"),
        (TextSource(paths=(jsonl(tmp_path, {"text": 3}, name="b.jsonl"),)), "is no text"),
        (TextSource(dataset=str(tmp_path / "nothing")), "could not be loaded"),
        (TextSource(paths=(str(tmp_path),)), "is a folder; name its files"),
        (TextSource(paths=(__file__,)), "ends in '.py'"),
    ):
        with pytest.raises(ValueError, match=words):
            list(read_documents(source))
    (tmp_path / "c.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="Parquet"):
        list(read_documents(TextSource(paths=(str(tmp_path / "c.parquet"),))))


def test_line_separators_inside_a_json_string_stay_in_it(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b\x85c"}\n\n{"text": "d"}', "utf-8")
    source = TextSource(paths=(str(tmp_path / "a.jsonl"),))
    assert [document.text for document in read_documents(source)] == ["a\u2028b\x85c", "d"]
    (tmp_path / "a.jsonl").write_text('{"text": "d"}\n{"text": ')
    with pytest.raises(ValueError, match="line 2 of .*a.jsonl"):
        list(read_documents(source))


@pytest.mark.parametrize("content", [[], [{"text": ""}]])
def test_empty_text_is_refused(tmp_path, content):
    recipe = {"text": [{"paths": [jsonl(tmp_path, *content)]}]}
    with pytest.raises(ValueError, match="no document"):
        small_trainer(tmp_path / "out", **recipe)


def test_a_document_longer_than_the_cap_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"document \d+ has \d+ tokens.*max_document_tokens=50"):
        small_trainer(tmp_path / "out", max_document_tokens=50)


def checkpoint(folder, **changes):
    return str(write_tiny_checkpoint(folder / "model", max_sequence_length=128, **changes))


def without_end(folder):
    path = checkpoint(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / "model" / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(path)
    return path


def test_a_tokenizer_without_end_of_document(tmp_path):
    path = without_end(tmp_path)
    with pytest.raises(ValueError, match="no eos_token"):
        small_trainer(tmp_path / "a", LONGER, init_from=path, strategy="eod")
    with pytest.raises(ValueError, match="retrieval_share=0"):
        small_trainer(tmp_path / "b", LONGER, init_from=path, retrieval_share=0.5)
    trainer = small_trainer(tmp_path / "c", LONGER, init_from=path, strategy="adaptive")
    assert not trainer.data._rows[512].texts[0].has_end


def test_a_target_below_the_trained_length(tmp_path):
    path = checkpoint(tmp_path)
    phases = [{"sequence_length": 64, "num_steps": 1, "rows_per_step": 1}]
    scaling = {"type": "diffusion_ntk", "target_length": 256}
    with pytest.raises(ValueError, match="64 is below the checkpoint's trained length 128"):
        small_trainer(tmp_path / "a", LONGER, init_from=path, phases=phases, rope_scaling=scaling)
    with pytest.raises(ValueError, match="target_length=64 is below"):
        small_trainer(
            tmp_path / "b",
            LONGER,
            init_from=path,
            phases=phases,
            rope_scaling={**scaling, "target_length": 64},
        )
    with pytest.raises(ValueError, match="longer than the 256 tokens"):
        small_trainer(tmp_path / "c", LONGER, init_from=path, rope_scaling=scaling)


def test_adapters_on_a_missing_module(tmp_path):
    lora = {"rank": 2, "target_modules": ["q_prj"]}
    with pytest.raises(ValueError, match="Did you mean 'q_proj'"):
        small_trainer(tmp_path / "a", LONGER, init_from=checkpoint(tmp_path), lora=lora)


def test_a_checkpoint_of_another_family(tmp_path):
    path = checkpoint(tmp_path)
    file = tmp_path / "model" / "config.json"
    file.write_text(file.read_text().replace('"llada"', '"bert"'))
    with pytest.raises(ValueError, match="model_type='bert'"):
        small_trainer(tmp_path / "a", LONGER, init_from=path)


def test_another_recipe_or_foreign_files_in_the_output_folder(tmp_path, capsys):
    small_trainer(tmp_path / "out", phases=SHORT).train()
    with pytest.raises(ValueError, match="run of another recipe .seed: 0 -> 1"):
        small_trainer(tmp_path / "out", phases=SHORT, seed=1)
    with pytest.raises(ValueError, match="resume=false"):
        small_trainer(tmp_path / "out", phases=SHORT, resume=False)
    (tmp_path / "thesis.txt").write_text("years of work")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "output_dir": str(tmp_path)}))
    with pytest.raises(SystemExit) as stop:
        main([str(recipe)])
    assert stop.value.code == 2
    assert "holds files" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_run_that_began_with_an_earlier_default_says_how_to_go_on(tmp_path):
    """An index of a version whose min_mask_ratio was 0.1 and that lacked newer keys."""
    held_out = {"text": {"generated_seed": 9, "num_documents": 2}, "lengths": [64]}
    changes = {"phases": SHORT, "evaluation": {**held_out, "retrieval_rows": 0}}
    small_trainer(tmp_path / "out", **changes, min_mask_ratio=0.1).train()
    file = tmp_path / "out" / "checkpoints.json"
    index = json.loads(file.read_text())
    del index["best_draws"], index["recipe"]["evaluation"]["final_draws"]
    del index["recipe"]["normalize_by"], index["recipe"]["answer_padding"]
    file.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="add min_mask_ratio: 0.1 to the recipe to go on"):
        small_trainer(tmp_path / "out", **changes)
    again = small_trainer(tmp_path / "out", **changes, min_mask_ratio=0.1)
    assert again.step == 4
    with pytest.raises(ValueError, match=r"min_mask_ratio: 0.1 -> 0.2\). Name another folder"):
        small_trainer(tmp_path / "out", **changes, min_mask_ratio=0.2)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    trainer = small_trainer(tmp_path / "out", phases=SHORT)
    folder = trainer.save({})
    before = (folder / "model.safetensors").read_bytes()

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    trainer.step = 2
    for target in (folder, None):  # the same step again, and another
        if target is not None:
            trainer.step = 0
        with pytest.raises(SaveError, match="No space left.*Earlier checkpoints"):
            trainer.save({})
        assert (folder / "model.safetensors").read_bytes() == before
        load_checkpoint(folder)
        trainer.step = 2
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["checkpoints.json", folder.name]
    monkeypatch.undo()
    assert small_trainer(tmp_path / "out", phases=SHORT).step == 0


def test_processes_and_rows_must_divide(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="rows_per_step=4 must be a multiple of 3"):
        read_ranks(small_recipe(phases=SHORT))
    with pytest.raises(ValueError, match="sequence_parallel=2 must divide the 3 processes"):
        read_ranks(small_recipe(phases=SHORT, sequence_parallel=2))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="micro_rows=3"):
        read_ranks(small_recipe(phases=SHORT, micro_rows=3))


def test_memory_plan_refuses_and_names_settings_that_fit(repository_root):
    folder = repository_root / "configs" / "finetune"
    recipe = load_recipe(folder / "lora_8b_64k.yaml", ["mlp_tile=null", "loss_chunk=32768"])
    shape = NetworkShape(LLADA_8B, adapter_rank=64)
    with pytest.raises(ValueError, match="Nearest settings that fit: loss_chunk=4096") as error:
        check_memory(recipe, shape, 1, 75e9, on_cuda=True)
    words = str(error.value).partition("that fit: ")[2].partition(" (")[0]
    fixed = load_recipe(
        folder / "lora_8b_64k.yaml", ["mlp_tile=null", "loss_chunk=32768", *words.split()]
    )
    assert check_memory(fixed, shape, 1, 75e9, on_cuda=True).total <= 75e9
    full = load_recipe(folder / "ultrallada_8b_64k.yaml", ["sequence_parallel=1"])
    with pytest.raises(ValueError, match="use lora"):
        check_memory(full, NetworkShape(LLADA_8B), 1, 80e9, on_cuda=True)


def test_memory_plan_counts_parameters_exactly(tmp_path):
    trainer = small_trainer(tmp_path, phases=SHORT)
    counted = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert trainer.shape.num_parameters == counted
    plan = plan_memory(trainer.recipe, trainer.shape, 1, on_cuda=False)
    assert plan.weights == plan.gradients == 4 * counted
    assert plan.optimizer == 8 * counted
    with pytest.raises(ValueError, match="more than the 0.0 GB"):
        small_trainer(tmp_path / "b", phases=SHORT, memory_limit=1e-5)


def test_missing_peft_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install peft"):
        small_trainer(tmp_path / "a", LONGER, init_from=checkpoint(tmp_path), lora={"rank": 2})


def test_the_machine_is_checked_before_anything_loads(tmp_path, monkeypatch):
    nothing = {**LONGER, "init_from": str(tmp_path / "no-checkpoint")}
    with pytest.raises(ValueError, match="no file matches path"):
        small_trainer(tmp_path / "a", nothing, text=[{"paths": [str(tmp_path / "*.txt")]}])
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        small_trainer(tmp_path / "a", nothing, tensorboard=True)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ValueError, match=r"output_dir='.*a' cannot be written.*Name another"):
        small_trainer(tmp_path / "a", nothing)


def test_a_state_with_a_file_missing_says_how_to_go_on(tmp_path):
    trainer = small_trainer(tmp_path / "a", phases=SHORT)
    trainer.train()
    (file,) = (trainer.index.last / "state").glob("*.distcp")
    file.unlink()
    with pytest.raises(ValueError, match=r"state' *, cannot be read .*start anew.*init_from="):
        small_trainer(tmp_path / "a", phases=SHORT)


def saved(folder):
    """Return a trainer's folder of a state at step 0, and a function that goes on from it."""
    changes = {"phases": SHORT, "ema_decay": 0.9}
    trainer = small_trainer(folder, **changes)
    trainer.index.write()
    return trainer.save({}) / "state", lambda: small_trainer(folder, **changes)


class RunsACommand:
    """Runs a command where it is unpickled."""

    def __init__(self, file):
        self.command = f"touch {file}"

    def __reduce__(self):
        """Pickle as a call."""
        return os.system, (self.command,)


def test_a_planted_state_runs_nothing(tmp_path):
    """In the list of tensors, and in a value beside them; with the digest mended, too."""
    state, go_on = saved(tmp_path / "a")
    planted, facts = state / ".metadata", json.loads((state / "facts.json").read_text())
    del facts["digest"]
    before = planted.read_bytes()
    planted.write_bytes(pickle.dumps(RunsACommand(tmp_path / "ran")))
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode() + planted.read_bytes())
    facts["digest"] = digest.hexdigest()
    (state / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"(posix|nt).system does not belong into a training"):
        go_on()
    planted.write_bytes(before)
    del facts["digest"]
    (state / "facts.json").write_text(json.dumps(facts))
    go_on()
    real = torch.save

    def plant(value, file, **options):
        real(RunsACommand(tmp_path / "ran") if isinstance(value, float) else value, file, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", plant)
        trainer = go_on()
        trainer.save({})
    with pytest.raises(ValueError, match="cannot be read .UnpicklingError"):
        go_on()
    assert not (tmp_path / "ran").exists()


def test_any_damage_of_a_state_is_an_error(tmp_path):
    state, go_on = saved(tmp_path / "a")
    assert go_on().step == 0
    rng = random.Random(0)
    for file in sorted(state.iterdir()):
        before = file.read_bytes()
        flipped = bytearray(before)
        flipped[rng.randrange(len(before) // 4, len(before) // 2)] ^= 4
        for content in (b"", before[: len(before) // 2], bytes(flipped), b"\xff" * 99, None):
            file.unlink()
            if content is not None:
                file.write_bytes(content)
            with pytest.raises(ValueError, match=r"state' *, cannot be read .*start anew"):
                go_on()
            file.write_bytes(before)
    assert go_on().step == 0


def test_a_full_disk_in_a_state_leaves_nothing_and_is_a_save_error(tmp_path, monkeypatch):
    """What torch raises then is no Exception."""
    trainer = small_trainer(tmp_path / "out", phases=SHORT)
    trainer.index.write()
    trainer.save({})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    trainer.step = 2
    for owner, name in ((torch, "save"), (type(tmp_path), "write_text"), (os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(SaveError, match="could not be written .*No space left"):
                trainer.save({})
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["checkpoints.json", "step-000000"], name
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SaveError, match="checkpoints.json could not be written"):
        trainer.index.write()
    with pytest.raises(SaveError, match="metrics.jsonl could not be written"):
        trainer.train()
    monkeypatch.undo()
    small_trainer(tmp_path / "out", phases=SHORT).train()


def test_a_torn_log_and_left_overs_heal(tmp_path):
    trainer = small_trainer(tmp_path / "out", phases=SHORT, log_every=1, probe_every=2)
    trainer.train()
    log = tmp_path / "out" / "logs" / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole[: len(whole) // 2])
    last = trainer.index.last
    last.rename(tmp_path / "out" / f".{last.name}.old")  # killed between the two moves
    for name in (f".{last.name}.part", ".final.part", ".final.old"):
        (tmp_path / "out" / name).mkdir()
    dead = 4194305  # above the largest process id
    log.with_name(f".metrics.jsonl~{host_name()}~{dead}~0123abcd.part").write_text("{")
    again = small_trainer(tmp_path / "out", phases=SHORT, log_every=1, probe_every=2)
    assert again.step == 4
    again.train()
    assert log.read_text() == whole
    assert not list((tmp_path / "out").rglob(".*.part")) + list((tmp_path / "out").glob(".*"))


def test_a_second_training_in_a_folder_is_refused(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "output_dir": str(tmp_path / "out"), "phases": SHORT}))
    with claim_output(load_recipe(recipe)):
        with pytest.raises(SystemExit) as stop:
            main([str(recipe)])
        assert stop.value.code == 2
        assert f"in use: process {os.getpid()} on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()  # made for the lock alone
    assert main([str(recipe)]) == 0
    assert not (tmp_path / "out" / ".lock").exists()


def test_going_on_with_other_text_or_another_start_is_refused(tmp_path):
    base = tmp_path / "base"
    text = jsonl(tmp_path, *({"text": f"Line {n} of the text. " * 30} for n in range(9)))
    held_out = jsonl(tmp_path, {"text": "Held out. " * 99}, name="held.jsonl")
    evaluation = {"text": {"paths": [held_out]}, "lengths": [64], "num_texts": 2, "draws": 4}

    def trainer(**changes):
        path = str(base / "model")
        options = {"init_from": path, "text": [{"paths": [text]}], "evaluation": evaluation}
        return small_trainer(tmp_path / "out", LONGER, **options, lora={"rank": 2}, **changes)

    pytest.importorskip("peft")
    checkpoint(base)
    first = trainer()
    first.index.write()
    before = first.index.made_from
    trainer()  # nothing was trained: anything may change
    first.save({})
    record = json.loads((first.index.last / "training.json").read_text())
    assert record["made_from"] == before == trainer().index.made_from
    for file, content, words in (
        (text, {"text": "Other text. " * 99}, r"text source 1 .a.jsonl is changed"),
        (held_out, {"text": "Also held. " * 99}, r"evaluation's text .held.jsonl is changed"),
    ):
        with open(file, "rb") as stream:
            kept = stream.read()
        jsonl(tmp_path, content, name=os.path.basename(file))
        with pytest.raises(ValueError, match=f"{words}.*never saw it. Restore it"):
            trainer()
        with open(file, "wb") as stream:
            stream.write(kept.replace(b'{"text"', b'{  "text"'))  # another file, the same text
        assert trainer().step == 0
    file = base / "model" / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="other content than there is now: init_from. The"):
        trainer()


def test_a_start_that_is_not_finite_is_refused(tmp_path):
    path = checkpoint(tmp_path)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.transformer.ln_f.weight"][0] = float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="a NaN or an infinity in model.transformer.ln_f.weight"):
        small_trainer(tmp_path / "out", LONGER, init_from=path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"steps": ["1"]}', '{"steps": [4, 2]}', '{"recipe": 3}']
)
def test_a_damaged_index_is_an_error(tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoints.json").write_text(content)
    with pytest.raises(ValueError, match="checkpoints.json cannot be read .*Restore it"):
        small_trainer(tmp_path / "out", phases=SHORT)


def test_missing_tensorboard_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        small_trainer(tmp_path / "a", phases=SHORT, tensorboard=True).train()


def test_prompts_are_never_predicted(tmp_path):
    rows = [{"q": "What is it? " * 3, "text": "It is a lantern. " * 4} for _ in range(8)]
    text = [{"paths": [jsonl(tmp_path, *rows)], "prompt_field": "q"}]
    trainer = small_trainer(
        tmp_path / "out", text=text, strategy="adaptive", retrieval_share=0.0, phases=SHORT
    )
    answer = trainer.tokens.encode("lantern")[-1]
    asked = trainer.tokens.encode("What")[-1]
    for _, batches in trainer._steps():
        ids, scale = batches[0]["input_ids"], batches[0]["scale"]
        assert (scale[ids == answer] > 0).all()
        assert not (scale[ids == asked] > 0).any()
        assert (ids == asked).any()
        assert torch.isfinite(trainer.network(batches[0]))
