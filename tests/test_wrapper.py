"""LLaDACausalLM built and called as OpenCompass does, on a tiny random checkpoint."""

import json
import logging

import pytest
import torch
from mmengine.config import ConfigDict
from safetensors.torch import load_file, save_file
from tiny import EOS_ID, EOT_TOKEN, MASK_ID, MASK_TOKEN, write_tiny_checkpoint

from opencompass_llada.engines import Generation
from opencompass_llada.networks import CheckpointError
from opencompass_llada.prompting.truncate import PromptTooLongError
from opencompass_llada.sampling import SamplerConfig
from opencompass_llada.wrapper import LLaDACausalLM

SAMPLER = {"block_length": 8, "num_steps": 8}
PROMPTS = ["The capital of France is", "Hi", "One, two, three, four, five,"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny"))


@pytest.fixture(scope="session")
def model(checkpoint):
    return LLaDACausalLM(checkpoint, sampler=SAMPLER)


def test_a_seed_configuration_runs_unchanged(checkpoint):
    seeds = ConfigDict(
        path=checkpoint,
        scaling_config={"scaling_factor": 4},
        diffusion_config={"steps": 16, "block_length": 8},
        seed=2025,
        model_type="ultra",
        model_kwargs={"flash_attention": True},
        drop_middle=True,
        max_seq_len=100,
    )
    seeded = LLaDACausalLM(**seeds)
    rope = seeded.engine.model.resolved_rope
    assert (rope.method, rope.theta_multiplier, rope.rope_theta) == ("ntk", 4.0, 40000.0)
    typed = LLaDACausalLM(
        checkpoint,
        rope_scaling={"type": "ntk", "theta_multiplier": 4},
        sampler={"num_steps": 16, "block_length": 8, "seed": 2025},
    )
    assert seeded.generate(PROMPTS, max_out_len=16) == typed.generate(PROMPTS, max_out_len=16)


def test_the_papers_defaults_are_theirs(checkpoint):
    options = LLaDACausalLM.check_arguments(checkpoint, diffusion_config={})
    config = options.settings.for_length(512)
    assert (config.num_steps, config.block_length, config.temperature) == (128, 32, 0.0)
    assert options.rope_scaling.type == "none"
    scaled = LLaDACausalLM.check_arguments(checkpoint, scaling_config={"scaling_factor": 1})
    assert scaled.rope_scaling.type == "none"


def test_batches_of_ragged_prompts_equal_one_at_a_time(model, checkpoint):
    together = model.generate(PROMPTS, max_out_len=16)
    assert [model.generate([prompt], max_out_len=16)[0] for prompt in PROMPTS] == together
    split = LLaDACausalLM(checkpoint, sampler=SAMPLER, batch_size=2)
    assert split.generate(PROMPTS, max_out_len=16) == together
    assert len(set(together)) == len(PROMPTS)


def test_a_long_data_set_after_a_short_one_gets_its_steps_back(checkpoint):
    model = LLaDACausalLM(checkpoint, diffusion_config={"steps": 32, "block_length": 8})
    passes = []
    for length in (32, 8, 32):
        before = model.engine.totals.num_forward_passes
        model.generate(["x"], max_out_len=length)
        passes.append(model.engine.totals.num_forward_passes - before)
    assert passes == [32, 8, 32]


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "8"])
def test_a_wrong_number_of_tokens_is_refused_and_none_is_the_models_own(model, length):
    """0 once meant the default of 128 tokens, without a word."""
    with pytest.raises(ValueError, match=f"max_out_len={length!r} must be"):
        model.generate(["x"], max_out_len=length)
    assert model.options.generation_length(None) == 128 == SamplerConfig.generation_length


def test_the_masks_text_in_a_prompt_stays_text(model):
    text = f"a{MASK_TOKEN}b{EOT_TOKEN}"
    token_ids = model.encode(text).tolist()
    assert MASK_ID not in token_ids
    literal = model.tokenizer(MASK_TOKEN, split_special_tokens=True)["input_ids"]
    eot = model.tokenizer.convert_tokens_to_ids(EOT_TOKEN)
    start, end = model.encode("a").tolist(), model.encode("b").tolist()
    assert token_ids == [*start, *literal, *end, eot], "only the mask token becomes text"
    assert model.tokenizer.decode(token_ids) == text
    assert model.get_token_len(text) == len(token_ids)
    model.generate([text], max_out_len=8)


def test_answers_end_at_end_tokens_and_stop_strings(model, monkeypatch):
    ids = [*model.encode("yes. no\nmore").tolist(), EOS_ID, *model.encode("after").tolist()]

    class Canned:
        token_ids = ids

    monkeypatch.setattr(model.engine, "generate", lambda *_, **__: [Canned])
    assert model.generate(["q"], max_out_len=8) == ["yes. no\nmore"]
    assert model.generate(["q"], max_out_len=8, stopping_criteria=["\n", "."]) == ["yes"]


def test_stop_words_of_the_model_are_used(checkpoint, model):
    answer = model.generate(PROMPTS[:1], max_out_len=16)[0]
    stop = answer[3]
    stopped = LLaDACausalLM(checkpoint, sampler=SAMPLER, stop_words=[stop])
    assert stopped.generate(PROMPTS[:1], max_out_len=16) == [answer.split(stop)[0]]


def prompts_seen(model, monkeypatch, text, **call):
    seen = []

    def remember(prompts, **_):
        seen.extend(prompts)
        return [Generation(token_ids=[], num_forward_passes=0, seconds=0.0) for _ in prompts]

    monkeypatch.setattr(model.engine, "generate", remember)
    model.generate([text], **call)
    return model.decode(torch.tensor(seen[0]))


@pytest.mark.parametrize(
    ("policy", "kept"), [("middle", "abcdhijk"), ("left", "defghijk"), ("right", "abcdefgh")]
)
def test_truncation_leaves_room_for_the_generation(checkpoint, monkeypatch, policy, kept):
    model = LLaDACausalLM(checkpoint, sampler=SAMPLER, truncation=policy, max_seq_len=16)
    assert prompts_seen(model, monkeypatch, "abcdefghijk", max_out_len=8) == kept


def test_drop_middle_bounds_the_prompt_alone_as_in_the_papers(checkpoint, monkeypatch):
    model = LLaDACausalLM(checkpoint, sampler=SAMPLER, drop_middle=True, max_seq_len=4)
    assert prompts_seen(model, monkeypatch, "abcdefghijk", max_out_len=8) == "abjk"


def test_too_long_a_prompt_is_an_error_by_default(checkpoint):
    model = LLaDACausalLM(checkpoint, sampler=SAMPLER, max_seq_len=12)
    with pytest.raises(PromptTooLongError, match=r"5 tokens.*limit is 4.*max_seq_len by 1 or more"):
        model.generate(["abcde"], max_out_len=8)
    with pytest.raises(ValueError, match="no room for a prompt beside 12"):
        model.generate(["abcde"], max_out_len=12)


def _warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_going_beyond_the_rope_scaling_is_said_once(checkpoint, caplog):
    model = LLaDACausalLM(checkpoint, sampler=SAMPLER)
    with caplog.at_level(logging.WARNING, logger="opencompass_llada"):
        model.generate(["x" * 56], max_out_len=8)
        assert not _warnings(caplog)
        model.generate(["x" * 57, "x" * 90], max_out_len=8)
        model.generate(["x" * 60], max_out_len=8)
    messages = _warnings(caplog)
    assert len(messages) == 1
    assert "65 tokens, more than the 64" in messages[0]
    assert "type='diffusion_ntk', target_length=65" in messages[0]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"diffusion_confg": {}}, "Did you mean 'diffusion_config'"),
        ({"diffusion_config": {"stps": 4}}, "Did you mean 'steps'"),
        ({"sampler": {"blok_length": 4}}, "Did you mean 'block_length'"),
        ({"scaling_config": {"scaling_facto": 4}}, "Did you mean 'scaling_factor'"),
        ({"scaling_config": {"scaling_factor": -1}}, "positive number"),
        ({"rope_scaling": {"type": "ntkk", "target_length": 128}}, "ntk"),
        ({"truncation": "midle", "max_seq_len": 8}, "Did you mean 'middle'"),
        ({"truncation": "left"}, "needs max_seq_len"),
        ({"drop_middle": True}, "needs max_seq_len"),
        ({"scaling_config": {"scaling_factor": 4}, "rope_scaling": {"type": "none"}}, "keep one"),
        ({"diffusion_config": {"steps": 4}, "sampler": {"num_steps": 4}}, "keep one"),
        ({"drop_middle": True, "truncation": "left", "max_seq_len": 9}, "keep one"),
        ({"model_kwargs": {"torch_dtype": "torch.float16"}, "dtype": "float16"}, "keep one"),
        ({"seed": 1, "sampler": {"seed": 2}}, "keep one"),
        ({"sampler": {"num_steps": 7, "block_length": 8}, "max_out_len": 16}, "use 6 or 8"),
        ({"model_type": "lada"}, "Did you mean 'llada'"),
        ({"generation_kwargs": {"do_sample": True}}, "sampler=dict"),
        ({"model_kwargs": {"torch_dtyp": "float16"}}, "Did you mean 'torch_dtype'"),
        ({"stop_words": [""]}, "non-empty string"),
        ({"max_seq_len": 0}, "max_seq_len=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"dtype": "bfloat61"}, "Did you mean 'bfloat16'"),
        ({"device": "gpu0"}, "no device"),
        ({"model_kwargs": {"device_map": {"": 0}}}, "no device"),
        ({"attention_backend": "sdpa_flsh"}, "Did you mean 'sdpa_flash'"),
    ],
)
def test_wrong_arguments_are_refused_before_any_file_is_opened(keywords, message):
    with pytest.raises(ValueError, match=message):
        LLaDACausalLM("no/such/folder/anywhere", **keywords)


def test_what_has_no_default_is_not_to_be_left_out():
    with pytest.raises(ValueError, match="path=5 must be a text; give one, it has no default"):
        LLaDACausalLM(5)


def test_a_wrong_variable_is_refused_before_the_weights_load(checkpoint, monkeypatch):
    monkeypatch.setenv("OPENCOMPASS_LLADA_PROGRESS", "onn")
    monkeypatch.setattr("opencompass_llada.engines.masked_diffusion.load_checkpoint", None)
    with pytest.raises(ValueError, match="Did you mean 'on'"):
        LLaDACausalLM(checkpoint)


def test_arguments_that_only_the_machine_can_refuse(checkpoint):
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device is visible"):
            LLaDACausalLM(checkpoint, device="cuda")


def test_wrong_checkpoints_are_refused(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="neither an existing folder nor a hub id"):
        LLaDACausalLM("no/such/folder/anywhere")
    other = write_tiny_checkpoint(tmp_path / "other")
    fields = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**fields, "model_type": "mdlm"}))
    with pytest.raises(ValueError, match=r"'mdlm'.*no family that is supported: llada"):
        LLaDACausalLM(str(other))
    with pytest.raises(ValueError, match=r"model_type='llama', but config.json of .* says 'llada'"):
        LLaDACausalLM(checkpoint, model_type="llama")
    with pytest.raises(ValueError, match="checkpoint.s is 258; leave it out"):
        LLaDACausalLM(checkpoint, diffusion_config={"mask_id": 126336})


def test_a_path_below_the_home_folder_is_found(tmp_path, monkeypatch):
    write_tiny_checkpoint(tmp_path / "tiny")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LLaDACausalLM("~/tiny", sampler=SAMPLER).get_token_len("abc") == 3


def test_a_keyword_is_listed_once(checkpoint):
    with pytest.raises(ValueError, match="Valid:") as caught:
        LLaDACausalLM.check_arguments(checkpoint, stopwords=[])
    names = str(caught.value).partition("Valid: ")[2].rstrip(".").split(", ")
    assert len(names) == len(set(names))


def test_missing_tensors_and_missing_tokenizers_are_named(tmp_path):
    broken = write_tiny_checkpoint(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.transformer.blocks.1.q_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"blocks\.1\.q_proj\.weight"):
        LLaDACausalLM(str(broken))
    (broken / "tokenizer.json").unlink()
    (broken / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="tokenizer_path"):
        LLaDACausalLM(str(broken))


@pytest.mark.parametrize(
    ("keywords", "dtype"),
    [
        ({}, torch.float32),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"model_kwargs": {"torch_dtype": "torch.float16"}}, torch.float16),
        ({"model_kwargs": {"dtype": torch.bfloat16}}, torch.bfloat16),
    ],
)
def test_the_dtype_asked_for_is_the_dtype_used(checkpoint, keywords, dtype):
    model = LLaDACausalLM(checkpoint, device="cpu", **keywords)
    assert {parameter.dtype for parameter in model.engine.model.parameters()} == {dtype}


def test_the_tokenizer_alone_counts_tokens_and_refuses_to_generate(checkpoint):
    model = LLaDACausalLM(checkpoint, tokenizer_only=True)
    assert model.get_token_len("abc") == 3
    with pytest.raises(RuntimeError, match="tokenizer_only"):
        model.generate(["abc"], max_out_len=8)


def test_several_processes_for_one_model_are_refused(checkpoint, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match="num_procs=1"):
        LLaDACausalLM(checkpoint)


def test_what_opencompass_reads_is_there(model):
    assert model.is_api is False
    assert model.generation_kwargs == {}
    assert model.sync_rank is False
    assert model.generate_from_template(["ab"], max_out_len=8) == model.generate(["ab"], 8)
    assert model.get_token_len_from_template(["ab", "abc"], mode="gen") == [2, 3]
    assert model.decode(model.encode("ab")) == "ab"


def test_a_chat_template_wraps_the_prompt(checkpoint):
    template = {
        "round": [
            {"role": "HUMAN", "begin": "<u>", "end": "</u>"},
            {"role": "BOT", "begin": "<b>", "end": "</b>", "generate": True},
        ]
    }
    model = LLaDACausalLM(checkpoint, sampler=SAMPLER, meta_template=template)
    from opencompass.utils.prompt import PromptList

    prompt = PromptList(
        [
            {"section": "round", "pos": "begin"},
            {"role": "HUMAN", "prompt": "hi"},
            {"role": "BOT", "prompt": ""},
            {"section": "round", "pos": "end"},
        ]
    )
    assert str(model.parse_template(prompt, mode="gen")) == "<u>hi</u><b>"
