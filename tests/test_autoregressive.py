"""Autoregressive baselines: loading, scaling, greedy decoding, left padding."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import EOS_ID, EOT_ID, MASK_ID
from tiny_causal import published_llama_fields, write_llama_checkpoint
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from opencompass_llada import families
from opencompass_llada.engines import AutoregressiveEngine
from opencompass_llada.families import check_model_type, find_family
from opencompass_llada.likelihood import LikelihoodOptions
from opencompass_llada.networks import CheckpointError, check_causal, load_causal
from opencompass_llada.prompting.encode import load_tokenizer
from opencompass_llada.rope.methods import parse_rope_scaling
from opencompass_llada.wrapper import LLaDACausalLM

PROMPTS = [[72, 101], [5, 6, 7, 8, 9, 10, 11], [200], [72, 101, 102]]
TEXTS = ["The capital of France is", "Hi", "One, two, three, four, five,"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_llama_checkpoint(tmp_path_factory.mktemp("causal") / "tiny-llama"))


def make_engine(checkpoint, ends=(EOS_ID,)):
    model, rope = load_causal(checkpoint, dtype=torch.float32)
    return AutoregressiveEngine(model, end_token_ids=ends, pad_token_id=EOS_ID, rope=rope)


def naive_greedy(model, prompt, num_tokens):
    """Recompute the whole sequence for each token: no cache, no padding, no generate."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_a_ragged_batch_equals_a_naive_loop_on_each_prompt(checkpoint):
    engine = make_engine(checkpoint)
    together = [g.token_ids for g in engine.generate(PROMPTS, max_new_tokens=12)]
    assert together == [naive_greedy(engine.model, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(ids) for ids in together}) == len(PROMPTS)


def test_rows_end_at_their_own_end_token_and_passes_are_counted(checkpoint):
    free = make_engine(checkpoint)
    answers = [g.token_ids for g in free.generate(PROMPTS, max_new_tokens=12)]
    end = answers[0][2]  # what the first row says third ends it there
    engine = make_engine(checkpoint, ends=(EOS_ID, end))
    generations = engine.generate(PROMPTS, max_new_tokens=12)
    for generation, whole in zip(generations, answers, strict=True):
        expected = whole[: whole.index(end) + 1] if end in whole else whole
        assert generation.token_ids == expected
        assert generation.num_forward_passes == len(expected)
    assert len(generations[0].token_ids) <= 3
    longest = max(len(g.token_ids) for g in generations)
    assert engine.totals.num_batch_passes == longest
    assert engine.totals.num_forward_passes == sum(g.num_forward_passes for g in generations)
    assert engine.totals.num_generated_tokens == sum(len(g.token_ids) for g in generations)


def test_a_checkpoints_sampling_options_do_not_change_greedy_decoding(checkpoint, recwarn):
    engine = make_engine(checkpoint)
    plain = engine.generate(PROMPTS[:1], max_new_tokens=8)[0].token_ids
    engine.model.generation_config.update(
        do_sample=True, temperature=0.1, top_p=0.5, top_k=2, repetition_penalty=3.0
    )
    assert engine.generate(PROMPTS[:1], max_new_tokens=8)[0].token_ids == plain
    engine.model.generation_config.update(
        no_repeat_ngram_size=1, suppress_tokens=plain[:1], forced_eos_token_id=7, min_length=99
    )
    assert engine.generate(PROMPTS[:1], max_new_tokens=8)[0].token_ids == plain
    assert not [w for w in recwarn if "do_sample" in str(w.message)]


def test_the_cache_is_used_whatever_config_says(tmp_path):
    path = write_llama_checkpoint(tmp_path / "fine-tuned", use_cache=False)
    engine = make_engine(str(path))
    read = []
    engine.model.register_forward_pre_hook(
        lambda module, given, named: read.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    engine.generate([PROMPTS[1]], max_new_tokens=4)
    assert read == [len(PROMPTS[1]), 1, 1, 1]


def test_an_empty_prompt_is_refused(checkpoint):
    with pytest.raises(ValueError, match="prompt 1 of the batch has no token"):
        make_engine(checkpoint).generate([[1], []], max_new_tokens=2)


@pytest.mark.parametrize("multiplier", [1.0, 4.0])
def test_ntk_equals_transformers_with_the_multiplied_base(checkpoint, multiplier):
    scaling = parse_rope_scaling({"type": "ntk", "theta_multiplier": multiplier})
    model, rope = load_causal(checkpoint, rope_scaling=scaling, dtype=torch.float32)
    fields = published_llama_fields(rope_theta=10000.0 * multiplier)
    oracle = LlamaForCausalLM(LlamaConfig(**fields)).eval()
    oracle.load_state_dict(
        AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False).state_dict()
    )
    ids = torch.arange(100)[None] % 250
    torch.testing.assert_close(model(ids).logits, oracle(ids).logits, rtol=0, atol=1e-5)
    assert (rope.theta_multiplier, rope.rope_theta) == (multiplier, 10000.0 * multiplier)
    unscaled, _ = load_causal(checkpoint, dtype=torch.float32)
    differs = (model(ids).logits - unscaled(ids).logits).abs().max() > 1e-3
    assert bool(differs) == (multiplier != 1.0), "the scaling must matter"


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_other_methods_equal_transformers_own(checkpoint, kind):
    scaling = parse_rope_scaling({"type": kind, "factor": 2.0})
    model, _ = load_causal(checkpoint, rope_scaling=scaling, dtype=torch.float32)
    own = {"rope_type": kind, "factor": 2.0}
    if kind == "yarn":
        own["original_max_position_embeddings"] = 64
    oracle = LlamaForCausalLM(LlamaConfig(**published_llama_fields(rope_scaling=own))).eval()
    oracle.load_state_dict(
        AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False).state_dict()
    )
    ids = torch.arange(90)[None] % 250
    torch.testing.assert_close(model(ids).logits, oracle(ids).logits, rtol=0, atol=1e-5)


def test_the_papers_lambdas_for_llama_3(tmp_path):
    fields = published_llama_fields(
        rope_theta=500000.0, hidden_size=512, max_position_embeddings=8192
    )
    config = LlamaConfig(**fields)
    from opencompass_llada.networks.causal import resolve_causal_rope

    for target, expected in ((16384, 3.53), (32768, 12.5)):
        scaling = parse_rope_scaling({"type": "ntk", "target_length": target})
        multiplier = resolve_causal_rope(config, scaling).theta_multiplier
        assert multiplier == pytest.approx(expected, rel=5e-3)


def test_scalings_that_do_not_fit_are_refused(tmp_path, checkpoint):
    with pytest.raises(ValueError, match="is for bidirectional models"):
        check_causal(
            checkpoint,
            rope_scaling=parse_rope_scaling({"type": "diffusion_ntk", "target_length": 128}),
        )
    own = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    own["original_max_position_embeddings"] = 32
    scaled = write_llama_checkpoint(tmp_path / "llama31", rope_scaling=own)
    check_causal(scaled)
    with pytest.raises(ValueError, match="rope_type='llama3' already"):
        check_causal(
            scaled, rope_scaling=parse_rope_scaling({"type": "ntk", "theta_multiplier": 4})
        )


def test_the_score_is_the_exact_likelihood(checkpoint):
    engine = make_engine(checkpoint)
    prefix, target = [1, 2, 3], [4, 5]
    estimate = engine.scorer.score(prefix, target, LikelihoodOptions())
    logits = engine.model(torch.tensor([prefix + target])).logits[0].double().log_softmax(-1)
    expected = -(logits[2, 4] + logits[3, 5]).item()
    assert estimate.nll == pytest.approx(expected, rel=1e-5)
    assert (estimate.variance, estimate.num_tokens) == (0.0, 2)


def test_the_wrapper_runs_it_and_batches_equal_one_at_a_time(checkpoint):
    model = LLaDACausalLM(checkpoint, rope_scaling={"type": "ntk", "target_length": 256})
    assert isinstance(model.engine, AutoregressiveEngine)
    assert model.engine.rope.longest_context == 256
    together = model.generate(TEXTS, max_out_len=12)
    assert [model.generate([text], max_out_len=12)[0] for text in TEXTS] == together
    assert len(set(together)) == len(TEXTS)
    assert MASK_ID in model.encode("<|mdm_mask|>"), "no mask, so its text is nothing special"


def test_the_scaling_advised_beyond_the_trained_length_is_one_that_it_takes(checkpoint, caplog):
    model = LLaDACausalLM(checkpoint, dtype="float32", device="cpu")
    with caplog.at_level("WARNING", logger="opencompass_llada"):
        model.generate(["x" * (model.engine.rope.longest_context + 1)], max_out_len=1)
    assert "rope_scaling=dict(type='ntk'" in caplog.text


def test_a_tokenizer_that_appends_its_end_changes_no_answer_and_no_score(tmp_path):
    folder = write_llama_checkpoint(tmp_path)
    plain = LLaDACausalLM(str(folder))
    expected = plain.generate(TEXTS, max_out_len=8), list(plain.get_ppl(TEXTS))
    file = folder / "tokenizer.json"
    fields = json.loads(file.read_text())
    end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [EOS_ID], "tokens": ["<|endoftext|>"]}
        },
    }
    file.write_text(json.dumps(fields))
    model = LLaDACausalLM(str(folder))
    assert (model.generate(TEXTS, max_out_len=8), list(model.get_ppl(TEXTS))) == expected
    assert EOS_ID not in model.encode(TEXTS[0])


def test_end_tokens_come_from_all_places(tmp_path):
    folder = write_llama_checkpoint(tmp_path / "chat")
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] = [EOS_ID, 7]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model = LLaDACausalLM(str(folder))
    assert set(model.engine.end_token_ids) == {EOS_ID, 7, EOT_ID}


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("value", [[EOS_ID, -1], [EOS_ID, "7"], {"a": 1}, 2.5])
def test_a_wrong_end_token_is_named_with_its_file(tmp_path, file, value):
    folder = write_llama_checkpoint(tmp_path / "chat")
    settings = json.loads((folder / file).read_text())
    config = {**json.loads((folder / "config.json").read_text()), "eos_token_id": EOS_ID}
    if file == "config.json":
        config["eos_token_id"] = value
    else:
        (folder / file).write_text(json.dumps({**settings, "eos_token_id": value}))
    wrong = re.escape(repr(value[1] if isinstance(value, list) else value))
    family = find_family(config, str(folder), None)
    message = rf"^{re.escape(file)}: eos_token_id={wrong} must be one integer.*; correct it"
    with pytest.raises(ValueError, match=message):
        family.special_tokens(str(folder), config, load_tokenizer(folder, {}))


@pytest.mark.parametrize("content", ["{", "[]", "5"])
def test_a_damaged_generation_config_is_named(tmp_path, content):
    folder = write_llama_checkpoint(tmp_path / "chat")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"generation_config\.json (is not|holds no)"):
        LLaDACausalLM(str(folder))


def test_sampler_options_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"\(num_steps\).*autoregressive: it decodes greedily"):
        LLaDACausalLM(checkpoint, sampler={"num_steps": 4}, seed=3)
    LLaDACausalLM(checkpoint, seed=3)


def test_missing_and_misshapen_tensors_are_named(tmp_path):
    folder = write_llama_checkpoint(tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: model\.layers\.1\.mlp\.up_proj"):
        load_causal(folder)
    tensors[name] = tensors[name][:, :5].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 wrongly shaped: .*up_proj"):
        load_causal(folder)


def test_a_family_is_found_by_its_file():
    files = list(Path(families.__file__).parent.glob("[!_]*.py"))
    assert len(families.FAMILIES) == len(files) > 1
    assert all(name == family.name for name, family in families.FAMILIES.items())


def test_families_are_told_apart_by_config_json(checkpoint):
    llama = find_family({"model_type": "llama"}, "p", None)
    assert llama.generates_by == "autoregressive"
    assert find_family({"model_type": "llada"}, "p", "ultra").name == "llada"
    for name in ("llama", "autoregressive", "llama3", "LLaMA"):
        assert find_family({"model_type": "llama"}, "p", name) is llama
    with pytest.raises(
        ValueError, match=r"model_type='llada', but config.json of 'p' says 'llama'"
    ):
        find_family({"model_type": "llama"}, "p", "llada")
    with pytest.raises(ValueError, match="model_type='t5'.*no family that is supported"):
        find_family({"model_type": "t5"}, "p", None)
    with pytest.raises(ValueError, match="Did you mean 'llada'"):
        check_model_type("lada")
