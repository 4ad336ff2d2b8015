"""A tiny random Dream checkpoint through LLaDACausalLM, as OpenCompass builds and calls it."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.config import ConfigDict
from opencompass.utils.build import build_model_from_cfg
from test_dream import qwen2_logits
from tiny_dream import EOS_ID, EOT_ID, MASK_ID, START_ID, START_TOKEN, write_tiny_dream

from opencompass_llada.families import check_model_type
from opencompass_llada.likelihood import LikelihoodOptions
from opencompass_llada.networks import DreamForMaskedDiffusion
from opencompass_llada.wrapper import LLaDACausalLM

PROMPTS = ["The capital of France is", "Hi", "One, two, three, four, five,"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_dream(tmp_path_factory.mktemp("dream") / "tiny-dream")


@pytest.mark.parametrize(
    "sampler",
    [
        {},
        {"remasking": "origin", "num_steps": 8},
        {"remasking": "maskgit_plus", "temperature": 0, "block_length": 8, "num_steps": 8},
        {"remasking": "topk_margin", "remasking_temperature": 0.5},
        {"remasking": "low_confidence", "temperature": 0, "top_p": None},
    ],
    ids=lambda options: options.get("remasking", "default"),
)
def test_ragged_batches_equal_one_at_a_time(checkpoint, sampler):
    kind = "opencompass_llada.wrapper.LLaDACausalLM"
    config = ConfigDict(type=kind, path=str(checkpoint), sampler=sampler, abbr="dream")
    model = build_model_from_cfg(config)
    assert isinstance(model.engine.model, DreamForMaskedDiffusion)
    assert next(model.engine.model.parameters()).dtype is torch.float32
    together = model.generate(PROMPTS, max_out_len=16)
    again = build_model_from_cfg(config)
    assert [again.generate([prompt], max_out_len=16)[0] for prompt in PROMPTS] == together
    assert len(set(together)) == len(PROMPTS)


def test_the_published_sampler_is_the_default_and_options_go_over_it(checkpoint, caplog):
    caplog.set_level("INFO", logger="opencompass_llada")
    path = str(checkpoint)
    config = LLaDACausalLM(path).engine.settings.for_length(60)
    assert (config.remasking, config.temperature, config.top_p) == ("entropy", 0.2, 0.95)
    assert (config.block_length, config.num_steps, config.timestep_eps) == (None, None, None)
    assert config.resolved_schedule == "timesteps"
    assert "Dream's own: {'remasking': 'entropy'" in caplog.text
    # Neither fits LLaDA's defaults: top_p has no effect at temperature 0, 31 steps no two blocks.
    options = {"top_p": 0.5, "num_steps": 31}
    config = LLaDACausalLM(path, sampler=options, max_out_len=60).engine.settings.for_length(60)
    assert (config.top_p, config.num_steps, config.temperature) == (0.5, 31, 0.2)
    with pytest.raises(ValueError, match="top_p=0.95 has no effect"):
        LLaDACausalLM(path, sampler={"remasking": "origin", "temperature": 0})
    published = {"remasking": "origin", "temperature": 0, "top_p": None}
    assert LLaDACausalLM(path, sampler=published).generate(["x"], max_out_len=4)


def test_a_named_family_is_held_to_its_own_defaults(checkpoint):
    path = str(checkpoint)
    with pytest.raises(ValueError, match="top_p=0.5 has no effect at temperature=0"):
        LLaDACausalLM.check_arguments(path, model_type="llada", sampler={"top_p": 0.5})
    LLaDACausalLM.check_arguments(path, model_type="dream", sampler={"top_p": 0.5})
    assert check_model_type("DREAM") == "Dream"
    with pytest.raises(ValueError, match=r"model_type='llada', but config.json of .* says 'Dream'"):
        LLaDACausalLM(path, model_type="llada")


def test_config_json_decides_the_defaults_before_anything_is_loaded(checkpoint):
    options = LLaDACausalLM.check_arguments(str(checkpoint), sampler={"top_p": 0.5})
    config = options.settings.for_length(8)
    assert (config.remasking, config.temperature, config.top_p) == ("entropy", 0.2, 0.5)
    unread = LLaDACausalLM.check_arguments("maker/model", sampler={"top_p": 0.5})
    assert unread.settings.for_length(8) == config, "what fits no other family is Dream's"
    plain = LLaDACausalLM.check_arguments("maker/model").settings.for_length(8)
    assert plain.remasking == "low_confidence"


def test_special_tokens_are_read_and_the_masks_text_stays_text(checkpoint, monkeypatch):
    model = LLaDACausalLM(str(checkpoint))
    tokens = model.special_tokens
    assert (tokens.mask_token_id, tokens.eos_token_id, tokens.eot_token_id) == (
        *(MASK_ID, EOS_ID, EOT_ID),
    )
    ids = model.encode("a<|mask|>b<|im_end|>").tolist()
    literal = model.tokenizer("<|mask|>", split_special_tokens=True)["input_ids"]
    assert ids == [*model.encode("a").tolist(), *literal, *model.encode("b").tolist(), EOT_ID]
    assert len(literal) == len("<|mask|>")
    answer = [*model.encode("yes").tolist(), EOT_ID, *model.encode("after").tolist()]

    class Canned:
        token_ids = answer

    monkeypatch.setattr(model.engine, "generate", lambda *_, **__: [Canned])
    assert model.generate(["q"], max_out_len=8) == ["yes"]


def test_the_tokenizer_is_read_without_its_remote_code(checkpoint):
    """Against the tokenizers library: Qwen2's pattern splits words before bytes merge."""
    model = LLaDACausalLM(str(checkpoint), tokenizer_only=True)
    vocabulary = json.loads((checkpoint / "vocab.json").read_text())
    letters = [vocabulary[char] for char in "o1"]
    space = vocabulary["\u0120"]
    assert model.encode("hello 11<|im_start|>he").tolist() == [
        *(vocabulary["hell"], letters[0], space, letters[1], letters[1]),
        *(START_ID, vocabulary["he"]),
    ]
    text = "h\u00e9llo, world <|im_start|>"
    assert model.tokenizer.decode(model.encode(text)) == text
    composed = model.encode("\u00e9").tolist()
    assert model.encode("e\u0301").tolist() == composed, "text is normalised to NFC"


def test_a_config_json_without_mask_is_refused(checkpoint, tmp_path):
    folder = write_tiny_dream(tmp_path)
    fields = json.loads((folder / "config.json").read_text())
    del fields["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="no mask_token_id, .* Dream's authors publish"):
        LLaDACausalLM(str(folder))


def test_the_likelihood_goes_by_realigned_logits(checkpoint):
    engine = LLaDACausalLM(str(checkpoint)).engine
    estimate = engine.scorer.score([1, 2, 3], [4], LikelihoodOptions())
    logits = qwen2_logits(checkpoint, [1, 2, 3, MASK_ID])[2].double()
    assert estimate.nll == pytest.approx(-logits.log_softmax(-1)[4].item(), rel=1e-5)


def test_bos_before_a_prompt_as_the_papers_wrapper_has_it(checkpoint, monkeypatch):
    """Once, also where the tokenizer or the prompt has it already."""
    options = {"tokenizer_kwargs": {"bos_token": START_TOKEN}}
    model = LLaDACausalLM(str(checkpoint), add_bos=True, **options)
    seen = []
    generate = model.engine.generate

    def watch(prompts, **keywords):
        seen.extend(list(prompt) for prompt in prompts)
        return generate(prompts, **keywords)

    monkeypatch.setattr(model.engine, "generate", watch)
    model.generate(["Hi", START_TOKEN + "Hi"], max_out_len=4)
    assert seen == [[START_ID, *model.tokenizer("Hi")["input_ids"]]] * 2
    with pytest.raises(ValueError, match="names no bos_token"):
        LLaDACausalLM(str(checkpoint), add_bos=True)
    with pytest.raises(ValueError, match="has no effect with chat"):
        LLaDACausalLM.check_arguments(str(checkpoint), add_bos=True, chat=True)
    with pytest.raises(ValueError, match="add_bos='yes' must be a boolean; use True or False"):
        LLaDACausalLM.check_arguments(str(checkpoint), add_bos="yes")


def test_the_warning_of_long_prompts_names_no_scaling_that_is_not_there(checkpoint, caplog):
    for scaling, words in (
        ({"type": "none"}, "more than the 2048 that the model was trained on"),
        ({"type": "ntk", "target_length": 4096}, "4096 that the RoPE scaling was computed for"),
    ):
        model = LLaDACausalLM(str(checkpoint), rope_scaling=scaling)
        caplog.clear()
        caplog.set_level("WARNING", logger="opencompass_llada")
        model._warn_if_too_long(5000)
        assert words in caplog.text
