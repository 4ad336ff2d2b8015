"""A block-causal checkpoint's blocks: of config.json or `attention_block`, before weights load."""

from __future__ import annotations

import json
import re

import pytest
from tiny import write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_choices import model_config, questions
from tiny_illada import write_tiny_illada
from tiny_sdar import tiny_sdar, write_tiny_sdar

from opencompass_llada.engines import CheckRequest, SamplerSettings
from opencompass_llada.families import find_family
from opencompass_llada.networks import read_model_config
from opencompass_llada.networks.attention_pattern import FULL, Blocks
from opencompass_llada.report.identity import describe_sampler
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.runs.makers import describe_maker, list_differences, read_options
from opencompass_llada.runs.provenance import hash_files, record_model
from opencompass_llada.wrapper import LLaDACausalLM

PROMPTS = ["The capital of France is", "Hi", "One, two, three, four, five,"]


@pytest.fixture(scope="module")
def sdar(tmp_path_factory):
    return str(write_tiny_sdar(tmp_path_factory.mktemp("sdar") / "tiny"))


@pytest.fixture(scope="module")
def llada(tmp_path_factory):
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("llada") / "tiny"))


def settings_of(path, length, **keywords):
    return LLaDACausalLM.check_arguments(path, **keywords).settings.for_length(length)


def test_blocks_and_cache_are_known_before_anything_is_loaded(sdar):
    config = settings_of(sdar, 10)
    assert (config.block_length, config.cache.type, config.num_steps) == (4, "prefix", None)
    assert (config.remasking, config.acceptance.type, config.acceptance.value) == (
        *("maskgit_plus", "threshold", 0.85),
    )
    assert settings_of(sdar, 10, attention_block=8).block_length == 8
    assert settings_of(sdar, 10, sampler={"block_length": 4, "cache": "none"}).cache.type == "none"
    guided = settings_of(sdar, 10, sampler={"cfg_scale": 1.0})
    assert guided.cache.type == "none", "guidance has no cache"


def test_steps_go_by_the_checkpoints_blocks(sdar):
    assert settings_of(sdar, 10, sampler={"num_steps": 6}).plan().steps_per_block == 2
    capped = settings_of(sdar, 10, sampler={"num_steps": 512})
    assert capped.num_steps == 12, "three blocks of 4, one token a step"
    for keywords in ({"max_out_len": 10}, {}):
        sampler = {"num_steps": 8} | ({} if keywords else {"generation_length": 10})
        with pytest.raises(ValueError, match="num_steps=8 must be a multiple of the 3 blocks"):
            LLaDACausalLM.check_arguments(sdar, sampler=sampler, **keywords)
    assert settings_of(sdar, 10, sampler={"num_steps": 8}, attention_block=16).num_steps == 8


WRONG = {
    "another block": (
        {"sampler": {"block_length": 8}},
        r"block_length=8 differs from the 4 tokens",
    ),
    "not the override": (
        {"sampler": {"block_length": 4}, "attention_block": 8},
        r"block_length=4 differs from the 8 tokens.*attention_block=4",
    ),
    "an approximate cache": ({"sampler": {"cache": "dual"}}, r"cache='dual' approximates.*prefix"),
    "no block": ({"attention_block": 0}, r"attention_block=0 must be a positive integer"),
    "no number": ({"attention_block": "four"}, r"attention_block='four'.*integer"),
    "which is which": (
        {"sampler": {"block_length": 4}, "attention_block": 8},
        "block_length of the sampler is how .* denoised together, attention_block of the model",
    ),
    "the sampler's option as a keyword": (
        {"block_length": 4},
        r"'block_length'\. sampler=dict\(block_length=\.\.\.\) is how .*attention_block=",
    ),
    "config.json's field as a keyword": (
        {"block_size": 4},
        r"'block_size'\. sampler=dict\(block_length=\.\.\.\) is how .*attention_block=",
    ),
    "the keyword as a sampler's option": (
        {"sampler": {"attention_block": 8}},
        r"'attention_block'\. sampler=dict\(block_length=\.\.\.\) is how .*attention_block=",
    ),
    "the keyword in the papers' form": (
        {"diffusion_config": {"attention_block": 8}},
        r"'attention_block'\. sampler=dict\(block_length=\.\.\.\) is how .*attention_block=",
    ),
    "a part that does not divide": (
        {"sampler": {"sub_block_length": 3}},
        "sub_block_length=3 must divide the 4 .*config.json or attention_block gives; use 1",
    ),
    "another option as a keyword": (
        {"temperature": 1.0},
        r"'temperature'\. It is an option of the sampler: sampler=dict\(temperature=",
    ),
    "another keyword as an option": (
        {"sampler": {"max_out_len": 8}},
        "'max_out_len'. It is a keyword of the model, beside sampler",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_the_blocks_is_refused(sdar, name):
    keywords, message = WRONG[name]
    for call in (LLaDACausalLM.check_arguments, LLaDACausalLM):
        with pytest.raises(ValueError, match=message):
            call(sdar, **keywords)


def test_options_made_without_the_config_are_held_to_it_by_check_and_load(sdar):
    config = read_model_config(sdar)
    family = find_family(config, sdar, None)
    for options, message in (
        ({"block_length": 8}, "differs"),
        ({"cache": "prompt"}, "approximate"),
    ):
        request = CheckRequest(
            path=sdar, config=config, rope_scaling=RopeScaling(), settings=SamplerSettings(options)
        )
        with pytest.raises(ValueError, match=message):
            family.check(request)


def test_other_models_have_no_blocks_of_their_own(llada, tmp_path):
    with pytest.raises(ValueError, match=r"attention_block=4 .*all tokens see each other"):
        LLaDACausalLM.check_arguments(llada, attention_block=4)
    with pytest.raises(ValueError, match="cache='prefix' keeps blocks that nothing later changes"):
        LLaDACausalLM.check_arguments(llada, sampler={"cache": "prefix"})
    llama = str(write_llama_checkpoint(tmp_path / "llama"))
    with pytest.raises(ValueError, match="attention_block=4 .* is autoregressive; leave it out"):
        LLaDACausalLM(llama, attention_block=4)


def test_the_override_reaches_the_network_and_is_logged(sdar, caplog):
    caplog.set_level("INFO", logger="opencompass_llada")
    own, other = LLaDACausalLM(sdar), LLaDACausalLM(sdar, attention_block=8)
    assert "attention_block=8 takes the place of the checkpoint's own: Blocks(block_length=4)" in (
        caplog.text
    )
    assert own.engine.model.attention_pattern == Blocks(4)
    assert other.engine.model.attention_pattern == Blocks(8)
    assert other.engine.settings.resolved.block_length == 8
    answers = [model.generate(PROMPTS, max_out_len=12) for model in (own, other)]
    assert answers[0] != answers[1], "the network itself sees other blocks"
    again = LLaDACausalLM(sdar, attention_block=4, sampler={"cache": "none"})
    assert again.generate(PROMPTS, max_out_len=12) == answers[0]


def test_answers_of_another_block_have_another_maker(sdar):
    def maker(scoring=False, **keywords):
        model = model_config(sdar, **keywords)
        dataset = questions()
        if scoring:
            dataset["infer_cfg"]["inferencer"] = {"type": "PPLInferencer"}
        files = hash_files(model, fetch=False)
        return describe_maker(
            model,
            dataset,
            files=files,
            data={},
            dtype=None,
            options=read_options(model, fetch=False),
        )

    own = maker()
    assert own["sampler"]["block_length"] == 4
    assert own["sampler"]["cache"]["type"] == "prefix"
    assert "options.attention_block" in list_differences(own, maker(attention_block=8))
    differing = list_differences(maker(scoring=True), maker(scoring=True, attention_block=8))
    assert differing == ["options.attention_block"], "a likelihood goes by the blocks, too"
    assert "attention_block=8" in describe_sampler({"attention_block": 8})


def test_a_run_records_the_blocks_that_it_ran_with(sdar, tmp_path):
    config = model_config(sdar, attention_block=8)
    record = record_model(tmp_path, LLaDACausalLM(sdar, attention_block=8), config, {})
    assert record["attention_pattern"] == "Blocks(block_length=8)"
    assert record["cache_policy"].startswith("type=prefix")


def test_the_config_alone_states_who_sees_whom():
    assert tiny_sdar(block_size=16).attention_pattern == Blocks(16)
    family = find_family({"model_type": "sdar"}, "p", None)
    assert not hasattr(family, "attention_pattern")
    assert find_family({"model_type": "llama"}, "p", None).read_pattern({}) is None


def test_a_full_networks_settings_stay_as_they_are():
    settings = SamplerSettings({"num_steps": 8})
    assert settings.for_pattern(FULL).for_length(64) == settings.for_length(64)


def test_the_masks_id_where_config_json_has_none(llada, tmp_path):
    """As iLLaDA is used: 'by setting mask_id=5' (ML-GSAI/LLaDA, README)."""
    folder = write_tiny_illada(tmp_path / "illada")
    fields = json.loads((folder / "config.json").read_text())
    del fields["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(fields))
    path = str(folder)
    with pytest.raises(
        ValueError, match=r"config\.json has no mask_token_id.*mask_token_id=\.\.\."
    ):
        LLaDACausalLM(path)
    for keywords in ({"mask_token_id": 5}, {"diffusion_config": {"mask_id": 5}}):
        model = LLaDACausalLM(path, **keywords)
        assert model.special_tokens.mask_token_id == model.engine.model.config.mask_token_id == 5
        assert model.generate(PROMPTS, max_out_len=8)
    with pytest.raises(ValueError, match="mask_token_id=999 must be in 0"):
        LLaDACausalLM(path, mask_token_id=999)
    with pytest.raises(ValueError, match=r"mask_token_id=5 .*checkpoint's is 258; leave it out"):
        LLaDACausalLM(llada, mask_token_id=5)
    with pytest.raises(ValueError, match="both given"):
        LLaDACausalLM(path, mask_token_id=5, diffusion_config={"mask_id": 5})


def test_blocks_longer_than_all_training_are_refused_before_weights_load(sdar):
    """A block is denoised whole: an answer of 8 tokens would take thousands of passes."""
    with pytest.raises(ValueError, match="attention_block=65 is more than the 64 tokens .*use"):
        LLaDACausalLM(sdar, attention_block=65)
    assert LLaDACausalLM(sdar, attention_block=64).engine.model.attention_pattern == Blocks(64)


IDS = {
    "a list of ends": (
        {"eos_token_id": [258, 256]},
        r"config\.json: eos_token_id=\[258, 256\] must be one integer.*the end of text's.*"
        r"a list of generation_config\.json adds, is known without it: <\|im_end\|>",
    ),
    "a text": ({"eos_token_id": "256"}, r"config\.json: eos_token_id='256' must be one integer"),
    "a negative mask": (
        {"mask_token_id": -1},
        r"config\.json: mask_token_id=-1 must be one integer, a whole number from 0.*tokenizer",
    ),
    "a list of masks": (
        {"mask_token_id": [261]},
        r"config\.json: mask_token_id=\[261\] must be one",
    ),
}


@pytest.mark.parametrize("name", IDS)
def test_a_wrong_id_in_config_json_is_named_with_rule_and_remedy(tmp_path, name):
    fields, message = IDS[name]
    folder = write_tiny_sdar(tmp_path / "sdar")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    for keywords in ({}, {"tokenizer_only": True}):
        with pytest.raises(ValueError, match=message):
            LLaDACausalLM(str(folder), **keywords)


@pytest.mark.parametrize("value", [-1, [261], "261", 2.5, True])
def test_a_wrong_id_as_keyword_is_named_with_rule_and_remedy(sdar, value):
    remedy = "must be one integer, a whole number from 0: .*leave it out for config.json's"
    for keywords, name in (
        ({"mask_token_id": value}, "mask_token_id"),
        ({"diffusion_config": {"mask_id": value}}, "diffusion_config['mask_id']"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} ") + remedy):
            LLaDACausalLM.check_arguments(sdar, **keywords)


@pytest.mark.parametrize("where", ["keyword", "sampler", "generation_kwargs", "published"])
def test_end_tokens_are_the_checkpoints_own(sdar, where):
    given = {"eos_token_id": [258, 256]}
    keywords = given if where == "keyword" else {where: given}
    if where == "published":  # SDAR's name
        keywords = {"sampler": {"stopping_criteria_idx": [258, 256]}}
    message = "generate, which are not taken here.*leave them out"
    if where != "generation_kwargs":
        message = r"'\. Answers end where the checkpoint's files say.*stop_words="
    with pytest.raises(ValueError, match=message):
        LLaDACausalLM.check_arguments(sdar, **keywords)
