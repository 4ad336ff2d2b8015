"""The engine: settings per length, seeds per prompt, counts."""

import pytest
import torch
from tiny import EOS_ID, EOT_ID, MASK_ID, tiny_model

from opencompass_llada.engines import MaskedDiffusionEngine, SamplerSettings, length_buckets
from opencompass_llada.sampling import SamplerConfig, SpecialTokens

TOKENS = SpecialTokens(mask_token_id=MASK_ID, eos_token_id=EOS_ID, eot_token_id=EOT_ID)
PROMPTS = [[72, 101], [5, 6, 7, 8, 9, 10, 11], [200], [72, 101, 102]]


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=3)


def make_engine(model, **options):
    return MaskedDiffusionEngine(model, SamplerSettings(options), TOKENS)


def generate(engine, prompts, length=12):
    return [g.token_ids for g in engine.generate(prompts, max_new_tokens=length)]


RANDOM = {"block_length": 4, "num_steps": 6, "temperature": 0.8, "remasking": "random", "seed": 7}
GREEDY = {"block_length": 4, "num_steps": 6}


@pytest.mark.parametrize("options", [GREEDY, RANDOM, {**GREEDY, "cfg_scale": 1.0}])
def test_a_ragged_batch_equals_one_at_a_time(model, options):
    together = generate(make_engine(model, **options), PROMPTS)
    alone = [generate(make_engine(model, **options), [prompt])[0] for prompt in PROMPTS]
    assert together == alone
    assert len({tuple(ids) for ids in together}) == len(PROMPTS), "prompts must matter"


def test_order_and_split_of_batches_do_not_change_answers(model):
    whole = generate(make_engine(model, **RANDOM), PROMPTS)
    engine = make_engine(model, **RANDOM)
    backwards = [generate(engine, [prompt])[0] for prompt in reversed(PROMPTS)]
    assert backwards[::-1] == whole


def test_repeats_of_one_prompt_are_different_samples_and_repeatable(model):
    first = generate(make_engine(model, **RANDOM), [PROMPTS[0]] * 3)
    assert len({tuple(ids) for ids in first}) == 3
    engine = make_engine(model, **RANDOM)
    assert [generate(engine, [PROMPTS[0]])[0] for _ in range(3)] == first


def test_the_seed_matters(model):
    assert generate(make_engine(model, **RANDOM), PROMPTS) != generate(
        make_engine(model, **{**RANDOM, "seed": 8}), PROMPTS
    )


def test_steps_are_capped_for_a_call_and_not_for_ever():
    settings = SamplerSettings({"block_length": 8, "num_steps": 64})
    assert [settings.for_length(n).num_steps for n in (64, 16, 5, 64)] == [64, 16, 8, 64]


def test_steps_that_do_not_fit_are_refused_and_named():
    settings = SamplerSettings({"block_length": 8, "num_steps": 10})
    with pytest.raises(ValueError, match=r"num_steps=10.*8 or 12"):
        settings.for_length(32)
    with pytest.raises(ValueError, match=r"num_steps=10.*8 or 12"):
        SamplerSettings({"block_length": 8, "num_steps": 10, "generation_length": 32})


def test_options_are_checked_without_a_length():
    with pytest.raises(ValueError, match="Did you mean 'temperature'"):
        SamplerSettings({"temprature": 1.0})
    with pytest.raises(ValueError, match="num_steps='many'"):
        SamplerSettings({"num_steps": "many"})
    with pytest.raises(ValueError, match="remasking"):
        SamplerSettings({"remasking": "lowest", "num_steps": 512})


def test_settings_take_a_config_and_leave_mappings_alone():
    config = SamplerConfig(generation_length=16, block_length=8, num_steps=4, seed=5)
    settings = SamplerSettings(config)
    assert settings.for_length(16) == config
    assert (settings.default_length, settings.seed) == (16, 5)
    options = {"num_steps": 64, "block_length": 8}
    SamplerSettings(options).for_length(8)
    assert options == {"num_steps": 64, "block_length": 8}


def test_counts_add_up(model):
    engine = make_engine(model, **GREEDY)
    generations = engine.generate(PROMPTS, max_new_tokens=12)
    engine.generate(PROMPTS[:1], max_new_tokens=4)
    assert [g.num_forward_passes for g in generations] == [6] * 4
    totals = engine.totals
    assert (totals.num_prompts, totals.num_generated_tokens) == (5, 52)
    assert (totals.num_forward_passes, totals.num_batch_passes) == (6 * 4 + 4, 6 + 4)
    assert totals.seconds >= sum(g.seconds for g in generations) > 0
    assert "5 prompts, 52 generated tokens" in totals.describe()


def test_a_mask_in_a_prompt_is_refused(model):
    with pytest.raises(ValueError, match=f"mask id {MASK_ID}"):
        make_engine(model).generate([[1, MASK_ID]], max_new_tokens=4)


def test_nothing_is_left_requiring_gradients(model):
    generate(make_engine(model), PROMPTS[:1], 4)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert torch.is_grad_enabled()


def test_batches_hold_like_lengths_and_every_prompt_once():
    assert length_buckets([5, 90, 6, 80], 3) == [[0, 2], [3, 1]]
    lengths = [7, 0, 7, 100, 3, 7, 1, 0, 15, 16]
    batches = length_buckets(lengths, 3)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        found = [max(lengths[place], 1) for place in batch]
        assert len(batch) <= 3
        assert max(found) <= 2 * min(found)
    equal = [place for batch in batches for place in batch if lengths[place] == 7]
    assert equal == [0, 2, 5], "equal prompts keep their order, by which their seeds are counted"
