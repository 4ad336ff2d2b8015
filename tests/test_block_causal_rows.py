"""A tiny block-causal model in the table of models: every plan's defaults fit its blocks."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_sdar import write_tiny_sdar

from opencompass_llada.assets import resolve_path
from opencompass_llada.runs.every_data_set import plan_data_sets
from opencompass_llada.runs.model_table import KNOWN_MODELS, TINY_GENERATION
from opencompass_llada.runs.planning import list_models, plan_run
from opencompass_llada.wrapper import LLaDACausalLM

HOST_KEYS = ("type", "abbr", "run_cfg")
NAME = "tiny_blocks_of_four"
#: Four tokens a step, as the other tiny models, in the checkpoint's own blocks of 4.
GENERATION = {
    benchmark: {key: value for key, value in own.items() if key != "block_length"}
    for benchmark, own in TINY_GENERATION.items()
}
#: Plans by benchmark, with what is asked for besides the embedded data.
PLANS = [
    ("niah", {}),
    ("niah", {"generation_length": 30}),
    ("ruler", {}),
    ("ruler", {"generation_length": 30}),
    ("longbench", {}),
    ("short", {}),
    ("short", {"generation_length": 30}),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random SDAR that reads text as tiny-llada does."""
    folder = tmp_path_factory.mktemp("rows") / "blocks"
    ids = {"vocab_size": 2048, "mask_token_id": 2, "eos_token_id": 0, "bos_token_id": None}
    write_tiny_sdar(folder, **ids, max_position_embeddings=512)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(resolve_path("asset:tiny-llada")) / name, folder)
    return folder


@pytest.fixture(autouse=True)
def row(checkpoint, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("LLADA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", str(tmp_path / "cache"))
    facts = replace(
        KNOWN_MODELS["tiny_llada"],
        **{"title": "tiny blocks", "path": str(checkpoint), "family": "sdar"},
        **{"block_length": 4, "scalings": (), "generation": GENERATION},
    )
    monkeypatch.setitem(KNOWN_MODELS, NAME, facts)
    return facts


def keywords_of(model):
    return {key: value for key, value in model.items() if key not in HOST_KEYS}


def pairs_of(run):
    groups = run.combinations or [{"models": run.models, "datasets": run.datasets}]
    return [(m, d) for group in groups for m in group["models"] for d in group["datasets"]]


def plans_of(model, cells):
    """Return how each of a model's answers is cut into blocks and steps."""
    options = LLaDACausalLM.check_arguments(**keywords_of(model))
    lengths = {cell["infer_cfg"]["inferencer"].get("max_out_len") for cell in cells}
    lengths = {options.generation_length(length) for length in lengths}
    return {length: options.settings.for_length(length).plan() for length in sorted(lengths)}


@pytest.mark.parametrize(("benchmark", "asked"), PLANS)
def test_the_defaults_of_every_plan_fit(benchmark, asked):
    run = plan_run(benchmark, {"models": [NAME], "data": "embedded", **asked}, 0)
    pairs = pairs_of(run)
    assert pairs
    for model, cell in pairs:
        [plan] = plans_of(model, [cell]).values()
        assert plan.block_length == 4


def test_rulers_answers_take_one_token_a_step_and_what_is_asked_for_is_taken():
    settings = {"models": [NAME, "tiny_llada"], "data": "embedded", "tasks": ["vt", "fwe"]}
    run = plan_run("ruler", settings, 0)
    own, other = run.models
    assert own["sampler"] == {"num_steps": None}
    assert other["sampler"] == {"num_steps": 12, "block_length": 16}
    plans = plans_of(own, run.datasets)
    assert {length: plan.num_steps for length, plan in plans.items()} == {30: 32, 48: 48}
    run = plan_run("ruler", {**settings, "steps": 24}, 0)
    assert [model["sampler"]["num_steps"] for model in run.models] == [24, 24]
    [own] = list_models(NAME)
    assert own["sampler"] == {"num_steps": None}


@pytest.mark.parametrize("benchmark", ["niah", "ruler", "longbench"])
@pytest.mark.parametrize("name", [NAME, "tiny_llada"])
def test_a_rows_own_steps_are_taken_whatever_the_benchmarks_default(benchmark, name):
    """The abbr says them; a row without steps takes those of the benchmark."""
    rows = [{"model": name, "scaling": "none", "num_steps": count} for count in (24, None)]
    settings = {"models": [name], "data": "embedded"}
    for asked in ({}, {"steps": 48}):
        run = plan_run(benchmark, {**settings, **asked}, 0, rows=rows)
        own, default = run.models
        assert own["abbr"].partition("_prompt")[0] == f"{name.replace('_', '-')}_steps24"
        assert own["sampler"]["num_steps"] == 24
        [usual] = plan_run(benchmark, {**settings, **asked}, 0).models
        assert default == usual


def test_needles_keep_a_models_steps_at_its_own_length_only(monkeypatch, row):
    """Whether that length is asked for or not; other models' are another."""
    longer = {**GENERATION, "niah": {"max_out_len": 32, "num_steps": 8}}
    other = "tiny_blocks_of_four_longer"
    monkeypatch.setitem(KNOWN_MODELS, other, replace(row, title="longer", generation=longer))

    def steps(**asked):
        names = [NAME, other, "tiny_llada"]
        run = plan_run("niah", {"models": names, "data": "embedded", **asked}, 0)
        found = {model["abbr"]: model["sampler"]["num_steps"] for model in run.models}
        return [found[name.replace("_", "-")] for name in names]

    assert steps() == [4, 8, 4]
    assert steps(generation_length=16) == [4, None, 4]
    assert steps(generation_length=32) == [None, 8, 4]
    assert steps(generation_length=30) == [None, None, 4]
    assert steps(generation_length=16, steps=8) == [8, 8, 8]
    monkeypatch.setenv("LLADA_GENERATION_LENGTH", "16")
    assert steps() == [4, None, 4]
    [shipped] = plan_run("niah", {"models": ["tiny_block"], "data": "embedded"}, 0).models
    assert shipped["sampler"] == {"num_steps": 4}


def test_the_row_generates_an_answer_of_thirty_tokens():
    settings = {"models": [NAME], "data": "embedded", "tasks": ["vt"], "lengths": [1024]}
    [model] = plan_run("ruler", settings, 0).models
    loaded = LLaDACausalLM(**keywords_of(model))
    assert len(loaded.generate(["VAR A = 1. VAR B = A."], max_out_len=30)) == 1
    assert 8 <= loaded.engine.totals.num_forward_passes <= 36


def test_every_data_set_leaves_the_blocks_to_the_checkpoint():
    run = plan_data_sets(
        {
            **{"models": [NAME, "tiny_llada"], "datasets": ["ruler_embedded", "niah_embedded"]},
            **{"samples": 1, "prompt_limit": 512, "generation_length": 14, "steps": 7},
        }
    )
    own, other = run.models
    assert other["sampler"] == {"block_length": 14, "num_steps": 7}
    for length, plan in plans_of(own, run.datasets).items():
        assert (plan.block_length, plan.num_steps) == (4, -(-length // 4) * 4)
