"""Recipes: what is refused before anything loads, bases and overrides, shipped recipes."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from finetune_runs import LONGER, RECIPE, SHORT

from opencompass_llada.finetune.recipe import Evaluation, Lora, Phase, Recipe, TextSource
from opencompass_llada.finetune.recipe_file import load_recipe, parse_recipe
from opencompass_llada.tiny_models.suite_rows import SUITE_STYLES

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPES = REPOSITORY / "configs" / "finetune"
TINY = REPOSITORY / "tiny_models"
SHIPPED = sorted([*RECIPES.glob("*.yaml"), *TINY.glob("*.yaml")])


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_recipes_are_valid(file):
    assert load_recipe(file, ["seed=3"]).seed == 3


@pytest.mark.parametrize("group", [Recipe, TextSource, Phase, Lora, Evaluation])
def test_every_key_is_documented(group):
    page = (REPOSITORY / "docs/reference/recipe.md").read_text(encoding="utf-8")
    keys = page.partition("## Recipe keys")[2].partition("## Values and defaults")[0]
    assert all(f"`{field.name}`" in keys for field in dataclasses.fields(group))


def test_the_issues_recipes_are_all_there():
    assert {file.stem for file in SHIPPED} >= {
        *("tiny_pretrain", "tiny_ar_pretrain", "tiny_long"),
        *("ultrallada_8b_64k", "ultrallada_8b_128k", "lora_8b_64k"),
    }


def test_twin_differs_from_tiny_llada_in_its_objective_alone():
    first, twin = (load_recipe(TINY / f"tiny_{n}.yaml") for n in ("pretrain", "ar_pretrain"))
    differing = {name for name in vars(first) if getattr(first, name) != getattr(twin, name)}
    assert differing == {"output_dir", "objective"}


def test_recipes_of_suites_train_the_same_rows_from_what_earlier_recipes_leave():
    first, *others = (load_recipe(TINY / f"tiny_suites_{n}.yaml") for n in ("llada", "ar", "block"))
    earlier = load_recipe(TINY / "tiny_pretrain.yaml")
    assert first.init_from == f"{earlier.output_dir}/final"
    for other in others:
        differing = {name for name in vars(first) if getattr(first, name) != getattr(other, name)}
        assert differing <= {"output_dir", "init_from", "objective", "block_length"}
    for recipe, part in ((first, 0.4), (load_recipe(TINY / "tiny_suites_long.yaml"), 0.49)):
        shares = recipe.retrieval_styles
        new = sum(share for style, share in shares.items() if style in SUITE_STYLES)
        assert set(SUITE_STYLES) <= set(shares)
        assert new / sum(shares.values()) == pytest.approx(part, abs=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learing_rate": 1.0}, ["learing_rate", "learning_rate"]),
        ({"text": []}, ["text", "at least one"]),
        ({"retrieval_share": 2}, ["2", "0 to 1"]),
        ({"min_mask_ratio": 0}, ["0", "above 0"]),
        ({"dtype": "int8"}, ["int8", "bfloat16"]),
        ({"objective": "mask_diffusion"}, ["Did you mean 'masked_diffusion'"]),
        ({"strategy": "adaptiv"}, ["Did you mean 'adaptive'"]),
        ({"phases": [{**SHORT[0], "num_steps": 0}]}, ["num_steps=0"]),
        ({"phases": [{"sequence_length": 128}]}, ["num_steps", "must be given"]),
        ({"text": [{"paths": ["a"], "generated_seed": 1}]}, ["exactly one"]),
        ({"learning_rate": "3e-3"}, ["learning_rate='3e-3'", "3.0e-3"]),
        ({"learning_rate": 0}, ["learning_rate=0", "above 0"]),
        ({"log_every": 0}, ["log_every=0", "from 1"]),
        ({"betas": 0.9}, ["betas=0.9", "two numbers"]),
        ({"text": 5}, ["text=5", "list of mappings"]),
        ({"text": [{"generated_seed": 0, "num_documents": 1}]}, ["embedded haystack"]),
        ({"probe_every": 2.5}, ["probe_every=2.5", "whole number"]),
        ({"model": {"dmodel": 32}}, ["dmodel", "Did you mean 'd_model'"]),
        ({"model": {"vocab_size": 32}}, ["vocab_size"]),
        ({"model": {}}, ["init_from", "model and vocab_size"]),
        ({"init_from": "asset:tiny-llada"}, ["leave model and vocab_size out"]),
        ({"phases": [{**SHORT[0], "sequence_length": 64}]}, ["sequence_length=64", "at least"]),
        ({"retrieval_styles": {"nedlebench": 1}}, ["Did you mean 'needlebench'"]),
        ({"retrieval_styles": {"pairs": 0}}, ["above 0"]),
        ({"compile": "yes"}, ["compile='yes'", "true or false"]),
        ({"ema_decay": 1.0}, ["ema_decay=1.0", "below 1"]),
        ({"lora": {"rank": 0}}, ["rank=0", "from 1"]),
        ({"lora": {"ranks": 8}}, ["Did you mean 'rank'"]),
        ({"rope_scaling": {"type": "ntk", "target_length": 512}}, ["needs init_from"]),
        ({"offload_checkpoints": True}, ["needs activation_checkpointing"]),
        ({"keep_attention": True}, ["needs activation_checkpointing"]),
        (
            {"last_phases": [{**SHORT[0], "continuation_share": 2}]},
            ["continuation_share=2", "0 to 1"],
        ),
        ({"last_phases": 3}, ["last_phases=3", "list"]),
        ({"lora": {"target_modules": "q_proj"}}, ["target_modules='q_proj'", "null: [q_proj]"]),
        ({"evaluation": {"retrieval_lengths": 512}}, ["retrieval_lengths=512", "list: [512]"]),
        (
            {"text": [{"paths": ["a.txt"], "num_documents": 3}]},
            ["num_documents=3 has no effect with paths", "leave it out"],
        ),
        ({"output_dir": ""}, ["output_dir=''", "must name a folder"]),
        (
            {"model": {"d_model": 64, "n_heads": 4, "n_layers": 2, "weight_tying": 1}},
            ["weight_tying=1", "true or false"],
        ),
        ({"sequence_parallel": 3}, ["sequence_length=128", "multiple of sequence_parallel=3"]),
        ({"objective": "autoregressive", "strategy": "eod"}, ["autoregressive", "'windows'"]),
        ({"evaluation": {"lengths": [64]}}, ["text and lengths together"]),
        ({"evaluation": {"draws": 3}}, ["draws=3", "even"]),
        ({"evaluation": 5}, ["mapping"]),
    ],
)
def test_wrong_recipes_are_refused(change, words):
    with pytest.raises(ValueError, match=".") as error:
        parse_recipe({**RECIPE, **change})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unknown_scaling_of_a_checkpoint_is_refused():
    scaling = {"type": "difusion_ntk", "target_length": 512}
    with pytest.raises(ValueError, match="Did you mean 'diffusion_ntk'"):
        parse_recipe({**LONGER, "init_from": "somewhere", "rope_scaling": scaling})


def test_scalings_that_other_loaders_cannot_know_are_refused():
    scaling = {"type": "yarn", "target_length": 512}
    with pytest.raises(ValueError, match="'yarn' changes more than RoPE's base"):
        parse_recipe({**LONGER, "init_from": "somewhere", "rope_scaling": scaling})


SAMPLES = {"text": [{"paths": ["a.jsonl"], "prompt_field": "question"}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({**SAMPLES, "strategy": "windows"}, "strategy='windows' mixes or cuts them"),
        ({**SAMPLES, "strategy": "direct"}, "strategy='direct' mixes or cuts them"),
        ({**SAMPLES, "strategy": "eod"}, "use strategy=adaptive"),
        ({**SAMPLES, "continuation_share": 0.1}, "continuation_share=0.1 is of plain text"),
        ({**SAMPLES, "phases": [{**SHORT[0], "continuation_share": 0.2}]}, "continuation_share"),
        ({**SAMPLES, "random_length_share": 0.1}, "random_length_share=0.1 is of plain text"),
        ({**SAMPLES, "answer_padding": {}}, "exactly one of tokens, multiple_of"),
        ({**SAMPLES, "answer_padding": {"tokens": 1, "batch_of": 2}}, "tokens and batch_of"),
        ({**SAMPLES, "answer_padding": {"tokns": 1}}, "Did you mean 'tokens'"),
        ({**SAMPLES, "answer_padding": {"to_length": 129}}, "at most sequence_length=128"),
        (
            {**SAMPLES, "answer_padding": {"multiple_of": 129}},
            "multiple_of=129 must be at most sequence_length=128",
        ),
        (
            {**SAMPLES, "answer_padding": {"tokens": 128}},
            "tokens=128 must be at most 127, .*sequence_length=128",
        ),
        ({"answer_padding": {"tokens": 1}}, "answer_padding .* no effect without a prompt_field"),
        ({"long_samples": "skip"}, "long_samples .* no effect without a prompt_field"),
        ({"strategy": "direct", "normalize_by": "sample"}, "use strategy=adaptive, or 'row'"),
        ({"random_length_share": 1.5}, "random_length_share=1.5 must be a number from 0 to 1"),
        (
            {"objective": "autoregressive", "strategy": "windows", "random_length_share": 0.1},
            "random_length_share=0.1 does not work with objective='autoregressive'",
        ),
        (
            {**SAMPLES, "objective": "autoregressive", "strategy": "windows"},
            "prompt_field does not work with objective='autoregressive'",
        ),
    ],
)
def test_samples_are_whole_and_apart(change, words):
    with pytest.raises(ValueError, match=words):
        parse_recipe({**RECIPE, "strategy": "adaptive", **change})


def test_samples_are_counted_alike_unless_the_recipe_says_otherwise():
    assert parse_recipe(RECIPE).normalize_by == "row"
    packed = {**RECIPE, "strategy": "adaptive"}
    assert parse_recipe({**packed, **SAMPLES}).normalize_by == "sample"
    assert parse_recipe({**packed, **SAMPLES, "normalize_by": "row"}).normalize_by == "row"


def test_cycles_go_through_all_phases_again():
    recipe = load_recipe(TINY / "tiny_long_first.yaml", ["cycles=3"])
    lengths = [phase.sequence_length for phase in recipe.phases]
    assert lengths == [512, 2048, 8192, 16384] * 4  # last_phases follow once
    assert [phase.continuation_share for phase in recipe.phases] == [None] * 12 + [0.25] * 4
    with pytest.raises(ValueError, match="cycles=0 must be a whole number from 1"):
        load_recipe(TINY / "tiny_long_first.yaml", ["cycles=0"])


def test_each_part_of_tiny_llada_long_begins_where_the_one_before_ended():
    names = ("tiny_long_first", "tiny_long_second", "tiny_long_third", "tiny_long")
    parts = [load_recipe(TINY / f"{name}.yaml") for name in names]
    for before, after in itertools.pairwise(parts):
        assert after.init_from == f"{before.output_dir}/final"
        assert after.rope_scaling == {"type": "none"}  # the base after scaling is in the checkpoint


def test_base_is_taken_over_and_overridden(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\nseed: 5\n")
    (tmp_path / "b.yaml").write_text(f"{RECIPE}\n")
    recipe = load_recipe(tmp_path / "a.yaml", ["lora={}", "lora.rank=3", "warmup_steps=7"])
    assert (recipe.seed, recipe.warmup_steps, recipe.lora.rank) == (5, 7, 3)
    assert recipe.model == RECIPE["model"]


@pytest.mark.parametrize(
    ("files", "overrides", "words"),
    [
        ({}, [], "does not exist"),
        ({"a": "base: c.yaml"}, [], "c.yaml' does not exist"),
        ({"a": "base: b.yaml", "b": "base: a.yaml"}, [], "leads back to itself"),
        ({"a": "[1, 2]"}, [], "mapping of keys"),
        ({"a": "seed: [1"}, [], "no valid YAML"),
        ({"a": f"{RECIPE}"}, ["seed"], "form key=value"),
        ({"a": f"{RECIPE}"}, ["vocab_size.x=3"], "no group of keys"),
    ],
)
def test_wrong_files_say_what_to_do(tmp_path, files, overrides, words):
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    with pytest.raises(ValueError, match=words):
        load_recipe(tmp_path / "a.yaml", overrides)
