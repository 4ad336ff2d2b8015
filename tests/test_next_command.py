"""The command that a training run ends with evaluates what it made."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from finetune_runs import LONGER, RECIPE, SHORT, small_recipe
from tiny import write_tiny_checkpoint

from opencompass_llada.finetune.__main__ import main
from opencompass_llada.finetune.next_command import describe_evaluation

pytest.importorskip("opencompass")
from opencompass_llada.runs.model_configs import ModelTable
from opencompass_llada.wrapper import LLaDACausalLM

TINY = {**LONGER, "phases": SHORT, "evaluation": {"retrieval_rows": 0}}


def run(tmp_path, caplog, **changes):
    """Train by the command line; return the commands that it ends with."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**TINY, "output_dir": "out", **changes}))
    with caplog.at_level("INFO"):
        assert main([str(recipe)]) == 0
    last = caplog.records[-1].getMessage()
    return [line for line in last.splitlines() if line.startswith("LLADA_MODELS=")]


def variables(command):
    words = shlex.split(command)
    given = dict(word.split("=", 1) for word in words if word.startswith("LLADA_"))
    return given, [word for word in words if not word.startswith("LLADA_")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_merged_weights_and_adapter_are_named_as_the_table_reads_them(here, caplog):
    pytest.importorskip("peft")
    write_tiny_checkpoint(here / "base", max_sequence_length=64)
    merged, adapter = run(here, caplog, init_from="base", lora={"rank": 2})
    given, words = variables(merged)
    assert given == {
        "LLADA_MODELS": "out/final",
        "LLADA_SCALING": "none",
        "LLADA_LENGTHS": "64,128,256",
    }
    assert words[-2] == "run"
    assert Path(words[-1]).is_file()
    table = ModelTable()
    [name] = table.resolve([given["LLADA_MODELS"]])
    assert (name, table[name].trained_length) == ("final", 128)
    given, _ = variables(adapter)
    assert given["LLADA_MODELS"] == "base+peft=out/final/adapter"
    [name] = table.resolve([given["LLADA_MODELS"]])
    assert table[name].trained_length == 128
    [config] = table.list_configs([name])
    keywords = {k: config[k] for k in ("path", "peft_path", "sampler", "max_out_len")}
    assert keywords["path"] == str(here / "base")
    assert keywords["peft_path"] == str(here / "out" / "final" / "adapter")
    model = LLaDACausalLM(**keywords)
    assert model.engine.model.resolved_rope.longest_context == 128


def test_a_listed_start_gives_its_name_whatever_came_in_between(here, monkeypatch):
    recipe = small_recipe(TINY, init_from="asset:tiny-llada")
    text = describe_evaluation(recipe, Path("checkpoints/first/final"), 512)
    assert "LLADA_MODELS=tiny_llada=checkpoints/first/final " in text
    (here / "first").mkdir()
    (here / "first" / "training.json").write_text('{"recipe": {"init_from": "asset:tiny-llada"}}')
    later = small_recipe(TINY, init_from="first", lora={"rank": 2, "save": "both"})
    merged, adapter = describe_evaluation(later, Path("second/final"), 512).splitlines()[1::2]
    assert variables(merged)[0]["LLADA_MODELS"] == "tiny_llada=second/final"
    spec = variables(adapter)[0]["LLADA_MODELS"]
    assert spec == "tiny_llada=first+peft=second/final/adapter"
    direct = small_recipe(TINY, init_from="asset:tiny-llada", lora={"save": "adapter"})
    [_, only] = describe_evaluation(direct, Path("second/final"), 512).splitlines()
    spec = variables(only)[0]["LLADA_MODELS"]
    assert spec == "tiny_llada+peft=second/final/adapter"
    table = ModelTable()
    [name] = table.resolve([spec])
    assert name.startswith("tiny_llada-")
    assert table[name].weights == "asset:tiny-llada+peft=second/final/adapter"


def test_from_a_checkout_run_py_is_called_and_elsewhere_the_installed_command(
    here, monkeypatch, repository_root
):
    recipe = small_recipe(RECIPE)
    odd = here / "my files" / "final"
    monkeypatch.setattr(shutil, "which", lambda name: sys.executable if name == "python" else None)
    [_, command] = describe_evaluation(recipe, odd, None).splitlines()
    given, words = variables(command)
    assert given["LLADA_MODELS"] == "my files/final"
    assert words[:4] == ["python", "-m", "opencompass_llada.cli", "run"]
    monkeypatch.chdir(repository_root)
    [_, command] = describe_evaluation(recipe, odd, None).splitlines()
    given, words = variables(command)
    assert given["LLADA_MODELS"] == str(odd)
    assert words == ["python", "run.py", "configs/eval_llada_niah.py"]
    assert "splits at commas" in describe_evaluation(recipe, Path("a,b"), None)


def test_twice_the_length_is_left_out_where_it_takes_too_long():
    phases = [{"sequence_length": 131072, "num_steps": 1, "rows_per_step": 1}]
    recipe = small_recipe(TINY, phases=phases, init_from="asset:tiny-llada")
    assert "LLADA_LENGTHS=4096,131072 " in describe_evaluation(recipe, Path("x/final"), 4096)
