"""DiffusionGemma by transformers' own network and generate, behind this package's engine."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import EOS_ID
from tiny_choices import model_config, questions, run
from tiny_diffusion_gemma import CANVAS, write_tiny_diffusion_gemma

from opencompass_llada.engines import CheckRequest, SamplerSettings
from opencompass_llada.families import FAMILIES, diffusion_gemma, find_family, generates_by
from opencompass_llada.networks import CheckpointError
from opencompass_llada.prompting.truncate import cut_at_token_ids
from opencompass_llada.report.identity import find_kind
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.runs.provenance import _describe_cache
from opencompass_llada.sampling import derive_seed
from opencompass_llada.wrapper import LLaDACausalLM

PROMPTS = [[72, 101], [5, 6, 7, 8, 9, 10, 11], [200], [72, 101, 102]]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
        pytest.skip("transformers has it from 5.11 on")
    return str(write_tiny_diffusion_gemma(tmp_path_factory.mktemp("gemma") / "tiny"))


def load(path, **options):
    return LLaDACausalLM(path, dtype="float32", **options)


def ids(model, prompts, length=CANVAS * 2):
    return [g.token_ids for g in model.engine.generate(prompts, max_new_tokens=length)]


def check_request(folder):
    return CheckRequest(
        path=str(folder),
        config=json.loads((folder / "config.json").read_text()),
        rope_scaling=RopeScaling(),
        settings=SamplerSettings(),
    )


def test_an_answer_is_that_of_generate_with_the_prompts_own_seed(path):
    own = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(path, dtype=torch.float32)
    model = load(path, seed=7)
    answers = model.engine.generate(PROMPTS, max_new_tokens=CANVAS * 2 - 3)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        torch.manual_seed(derive_seed(7, prompt))
        output = own.eval().generate(
            torch.tensor([prompt]), max_new_tokens=CANVAS * 2, eos_token_id=[EOS_ID, 257]
        )
        expected = output.sequences[0, len(prompt) :].tolist()
        assert answer.token_ids == expected[: CANVAS * 2 - 3]
        # Two canvases: each is read by the encoder before it, and denoised in 5 steps at most.
        steps = round(CANVAS * 2 / float(output.tokens_per_forward))
        assert answer.num_forward_passes == 2 + steps
    assert len({tuple(answer.token_ids) for answer in answers}) == len(PROMPTS)


def test_batches_and_resuming_do_not_change_an_answer_and_repeats_differ(path):
    together = ids(load(path), PROMPTS)
    assert together == [ids(load(path), [prompt])[0] for prompt in PROMPTS]
    assert together != ids(load(path, seed=1), PROMPTS)
    first, second = ids(load(path), [PROMPTS[0], PROMPTS[0]])
    assert first == together[0] != second
    state = torch.random.get_rng_state()
    ids(load(path), PROMPTS[:1])
    assert torch.equal(state, torch.random.get_rng_state()), "other random numbers are left alone"


def test_an_answer_ends_at_its_end_token(path):
    free = ids(load(path), PROMPTS[:1])[0]
    model = load(path)
    model.engine._ends = [free[3]]
    answer = model.engine.generate(PROMPTS[:1], max_new_tokens=CANVAS * 3)[0]
    place = free.index(free[3])
    assert answer.token_ids == [*free[: place + 1], *[free[3]] * (CANVAS * 3 - place - 1)]
    assert answer.num_forward_passes <= 1 + 5, "the second canvas is not begun"


def test_the_entropy_bound_is_the_samplers_own(path):
    wide = {"type": "entropy_bound", "value": 1000.0}
    other = load(path, sampler={"acceptance": wide, "seed": 3})
    assert ids(other, PROMPTS) != ids(load(path, seed=3), PROMPTS)


def test_it_generates_texts(path):
    model = load(path, max_out_len=CANVAS)
    answers = model.generate(["Hello", "The sky is"])
    assert len(answers) == 2
    assert all(isinstance(answer, str) for answer in answers)
    assert model.special_tokens.mask_token_id is None


def test_answers_are_cut_at_the_first_stop_string(path):
    """Of the model and of the data set; `generate` of transformers is not told of them."""
    whole = load(path).generate(["Hello"], max_out_len=CANVAS * 2)[0]
    first, second = whole[2], whole[5]
    cut = min(whole.index(first), whole.index(second))
    assert 0 < cut < len(whole)
    for words, criteria in (([first, second], None), ([second], [first]), (None, [first, second])):
        model = load(path, stop_words=words)
        answer = model.generate(["Hello"], max_out_len=CANVAS * 2, stopping_criteria=criteria)
        assert answer == [whole[:cut]]


@pytest.mark.parametrize("option", [{"stop_strings": ["\n"]}, {"top_k": 5}])
def test_options_of_other_models_in_its_generation_config_are_refused_before_weights_load(
    tmp_path, path, monkeypatch, option
):
    folder = write_tiny_diffusion_gemma(tmp_path / "other")
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **option}))
    monkeypatch.setattr(diffusion_gemma, "load_causal", lambda *_, **__: pytest.fail("loaded"))
    name = next(iter(option))
    message = rf"generation_config\.json does not fit .*{name}.*stop_words=\[\.\.\.\]"
    with pytest.raises(ValueError, match=message):
        load(str(folder))
    file.unlink()
    family = find_family({"model_type": "diffusion_gemma"}, str(folder), None)
    family.check(check_request(folder))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{bad json", "is not valid JSON"),
        ("", "is not valid JSON"),
        ('["max_denoising_steps", 5]', "holds no JSON object"),
        ("null", "holds no JSON object"),
    ],
)
def test_a_broken_generation_config_is_refused_before_weights_load(
    tmp_path, path, monkeypatch, content, rule
):
    folder = write_tiny_diffusion_gemma(tmp_path / "broken")
    (folder / "generation_config.json").write_text(content)
    monkeypatch.setattr(diffusion_gemma, "load_causal", lambda *_, **__: pytest.fail("loaded"))
    message = rf"broken/generation_config\.json {rule}.*Fetch it again"
    with pytest.raises(CheckpointError, match=message):
        diffusion_gemma.FAMILY.check(check_request(folder))
    with pytest.raises(CheckpointError, match=message):
        load(str(folder))


def test_it_runs_through_opencompass(path, tmp_path):
    run(tmp_path, [{**model_config(path, dtype="float32"), "abbr": "gemma"}], [questions()])
    answers = json.loads((tmp_path / "predictions/gemma/questions.json").read_text())
    model = load(path)
    for answer in list(answers.values())[:2]:
        ids_L = model.tokenizer(answer["origin_prompt"])["input_ids"]
        alone = model.engine.generate([ids_L], max_new_tokens=8)[0]
        assert answer["prediction"] == model._encoder.decode(
            cut_at_token_ids(alone.token_ids, model.special_tokens.end_token_ids)
        )


def test_likelihood_is_refused_with_the_reason(path):
    model = load(path)
    for score in (
        lambda: model.get_ppl(["The sky is blue"]),
        lambda: model.get_loglikelihood(["The sky is blue"], ["blue"]),
        lambda: model.scorer.score_options(["Sky A", "Sky B"]),
    ):
        with pytest.raises(
            NotImplementedError, match="no likelihood here.*data sets that generate"
        ):
            score()


WRONG = {
    "steps": ({"sampler": {"num_steps": 8}}, r"\(num_steps\).*generation_config\.json"),
    "remasking": (
        {"sampler": {"remasking": "entropy", "acceptance": "entropy_bound"}},
        r"options \(remasking\)",
    ),
    "another rule": ({"sampler": {"acceptance": "threshold"}}, r"\(acceptance\)"),
    "bound 0": (
        {"sampler": {"acceptance": {"type": "entropy_bound", "value": 0}}},
        "accepts nothing",
    ),
    "the papers' form": ({"diffusion_config": {"steps": 8}}, r"\(num_steps\)"),
    "scaling": ({"rope_scaling": {"type": "ntk", "target_length": 4096}}, "RoPE of two kinds"),
    "blocks": ({"attention_block": 4}, "attention_block=4"),
    "a mask": ({"mask_token_id": 5}, "mask_token_id=5"),
    "a kernel": ({"attention_backend": "sdpa_cudnn"}, "attention_backend='sdpa_cudnn'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_has_no_meaning_is_refused(path, name):
    keywords, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        load(path, **keywords)


def test_weights_that_lack_a_tensor_are_refused(path, tmp_path):
    folder = write_tiny_diffusion_gemma(tmp_path / "other")
    weights = load_file(folder / "model.safetensors")
    del weights["model.decoder.self_conditioning.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: .*self_conditioning\.up_proj"):
        load(str(folder))


def test_logits_that_are_not_finite_stop_it(path):
    model = load(path)
    model.engine.model.lm_head.weight.data[0] = float("nan")
    with pytest.raises(FloatingPointError):
        ids(model, PROMPTS)


def test_an_empty_prompt_is_refused(path):
    with pytest.raises(ValueError, match="prompt 1 of the batch has no token"):
        ids(load(path), [[5], []])


def test_what_a_run_records(path):
    engine = load(path).engine
    assert engine.generates_by == generates_by("diffusion_gemma") == "uniform_diffusion"
    assert find_kind({"path": path}, None) == "diffusion"
    assert _describe_cache(engine) == "keys and values of all tokens"
    assert next(iter(FAMILIES)) == "llada", (
        "options of an unknown family are checked by our sampler"
    )


def test_an_older_transformers_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion_gemma.transformers, diffusion_gemma._NETWORK, None, raising=False)
    family = find_family({"model_type": "diffusion_gemma"}, str(tmp_path), None)
    request = CheckRequest(
        path=str(tmp_path),
        config={"model_type": "diffusion_gemma"},
        rope_scaling=RopeScaling(),
        settings=SamplerSettings(),
    )
    version = diffusion_gemma.transformers.__version__
    with pytest.raises(ValueError, match=rf"from 5\.11 on, and transformers {version} is inst"):
        family.check(request)
