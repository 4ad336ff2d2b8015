"""Settings and schedule: what fits, what is refused and what the message tells the user to do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_denoiser import TOKENS, ToyDenoiser

from opencompass_llada.options import build
from opencompass_llada.sampling import STRATEGIES, SamplerConfig, SpecialTokens, cap_steps, sample
from opencompass_llada.sampling.schedule import BlockPlan, reveals_per_step
from opencompass_llada.sampling.unmasking import Strategy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"generation_length": 256, "num_steps": 100},
            r"num_steps=100 must be a multiple of the 8 blocks .*; use 96 or 104$",
        ),
        (
            {"generation_length": 64, "block_length": 8, "num_steps": 7},
            r"num_steps=7 must be at least one for each of the 8 blocks .*; use 8$",
        ),
        (
            {"generation_length": 60, "num_steps": 65},
            r"num_steps=65 must be at most one for each token .* largest useful value is 64$",
        ),
        ({"num_steps": 0}, "num_steps=0 must be at least 1; use 1 or more"),
        ({"num_steps": 2.5}, "num_steps=2.5 must be an integer"),
        ({"generation_length": 0}, "generation_length=0 must be at least 1"),
        ({"generation_length": True}, "generation_length=True must be an integer"),
        ({"block_length": -4}, "block_length=-4 must be at least 1"),
        ({"block_length": "32"}, "block_length='32' must be an integer"),
        ({"temperature": -0.1}, "temperature=-0.1 must be at least 0; use 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan must be a finite number"),
        ({"temperature": "hot"}, "temperature='hot' must be a finite number"),
        ({"cfg_scale": float("inf")}, "cfg_scale=inf must be a finite number"),
        ({"cfg_scale": True}, "cfg_scale=True must be a finite number"),
        ({"seed": -1}, "seed=-1 must be at least 0; use 0 or more"),
        ({"seed": 2**63}, f"seed={2**63} must be at most {2**63 - 1}"),
        ({"remasking": "low_confidense"}, "'low_confidense'. Did you mean 'low_confidence'"),
        ({"suppress_eos_logits": 1}, "suppress_eos_logits=1 must be a boolean; use True or False"),
        (
            {"suppress_eos_eot_confidence": True, "remasking": "random"},
            "suppress_eos_eot_confidence=True has no effect .* use remasking='low_confidence'",
        ),
        ({"blocklength": 8}, "Unknown sampler option 'blocklength'. Did you mean 'block_length'"),
    ],
)
def test_a_bad_value_is_refused_with_a_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(SamplerConfig, options, "sampler")


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 300))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_value_that_a_message_names_fits(
    generation_length: int, block_length: int, num_steps: int
) -> None:
    lengths = {"generation_length": generation_length, "block_length": block_length}
    try:
        SamplerConfig(num_steps=num_steps, **lengths)
    except ValueError as error:
        remedy = str(error).replace(" or ", " ").replace("value is", "use").rsplit("use ", 1)[1]
        for value in remedy.split():
            SamplerConfig(num_steps=int(value), **lengths)


def test_config_is_frozen_and_keyword_only() -> None:
    config = SamplerConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_steps = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        SamplerConfig(128)  # type: ignore[misc]


def test_parse_takes_a_mapping_a_config_or_nothing_and_changes_neither() -> None:
    options = {"generation_length": 64, "num_steps": 32}
    config = build(SamplerConfig, options, "sampler")
    assert config == SamplerConfig(generation_length=64, num_steps=32)
    assert options == {"generation_length": 64, "num_steps": 32}
    assert build(SamplerConfig, config, "sampler") is config
    assert (
        build(SamplerConfig, None, "sampler")
        == build(SamplerConfig, {}, "sampler")
        == SamplerConfig()
    )


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"mask_token_id": -1, "eos_token_id": 2}, "mask_token_id=-1 must be at least 0"),
        ({"mask_token_id": 1, "eos_token_id": None}, "eos_token_id=None must be an integer"),
        ({"mask_token_id": 1, "eos_token_id": 1}, "eos_token_id=1 must differ from mask_token_id"),
        (
            {"mask_token_id": 1, "eos_token_id": 2, "eot_token_id": 1},
            "eot_token_id=1 must differ",
        ),
    ],
)
def test_impossible_special_tokens_are_refused(ids: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecialTokens(**ids)


def test_plan_rounds_up_to_whole_blocks() -> None:
    plan = SamplerConfig(generation_length=70, block_length=32, num_steps=12).plan()
    assert plan == BlockPlan(generation_length=70, block_length=32, num_steps=12)
    assert (plan.padded_length, plan.num_blocks, plan.steps_per_block) == (96, 3, 4)
    assert (plan.num_steps, plan.padded_length - plan.generation_length) == (12, 26)


def test_no_num_steps_is_one_token_a_step() -> None:
    plan = SamplerConfig(generation_length=70, block_length=32).plan()
    assert (plan.num_steps, plan.steps_per_block) == (96, 32)


def test_reveals_put_the_remainder_on_the_first_steps() -> None:
    assert reveals_per_step(5, 3) == (2, 2, 1)
    assert reveals_per_step(32, 8) == (4,) * 8
    assert reveals_per_step(7, 7) == (1,) * 7


@given(st.integers(0, 300), st.integers(1, 300))
@settings(deadline=None, derandomize=True)
def test_reveals_sum_to_the_masks_and_differ_by_one_at_most(num_masked: int, steps: int) -> None:
    reveals = reveals_per_step(num_masked, steps)
    assert len(reveals) == steps
    assert sum(reveals) == num_masked
    assert list(reveals) == sorted(reveals, reverse=True)
    assert max(reveals) - min(reveals) <= 1


@given(st.integers(1, 600), st.integers(1, 300), st.integers(1, 128))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_capped_steps_always_fit_and_are_the_most_that_do(
    budget: int, generation_length: int, block_length: int
) -> None:
    steps = cap_steps(budget, generation_length, block_length)
    plan = SamplerConfig(
        generation_length=generation_length, block_length=block_length, num_steps=steps
    ).plan()
    assert steps <= max(budget, plan.num_blocks)
    more = steps + plan.num_blocks
    assert more > budget or more > plan.padded_length


def test_capped_steps_of_one_call_do_not_reach_the_next() -> None:
    """The papers' wrapper runs 512, 64 and 64 steps here."""
    assert [cap_steps(512, length, 64) for length in (512, 32, 512)] == [512, 64, 512]


@pytest.mark.parametrize("arguments", [(0, 8, 8), (8, 0, 8), (8, 8, -1)])
def test_capping_nonsense_is_an_error(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1; use a positive number"):
        cap_steps(*arguments)


def test_a_strategy_from_outside_is_one_entry_and_ranks_by_its_own_score(monkeypatch):
    seen = []

    def later_tokens_first(probabilities_PV, tokens_P):
        seen.append(probabilities_PV)
        assert torch.allclose(probabilities_PV.sum(-1), torch.ones(len(tokens_P)).double())
        return torch.arange(len(tokens_P), dtype=torch.float64)

    order = []

    class Watched(ToyDenoiser):
        def __call__(self, ids_BL, positions_BP, lengths_B=None):
            order.append((ids_BL[0] == TOKENS.mask_token_id).sum().item())
            masked = ids_BL[0, 2:] == TOKENS.mask_token_id
            assert masked.tolist() == sorted(masked.tolist(), reverse=True), "from the right"
            return super().__call__(ids_BL, positions_BP, lengths_B)

    monkeypatch.setitem(
        STRATEGIES, "rightmost", Strategy(schedule="even", score=later_tokens_first)
    )
    config = SamplerConfig(generation_length=6, block_length=6, remasking="rightmost")
    sample(Watched(), [[1, 2]], config, TOKENS, device="cpu")
    assert (order, len(seen)) == ([6, 5, 4, 3, 2, 1], 6)
    assert not config.draws
    monkeypatch.setitem(
        STRATEGIES, "chance", Strategy(schedule="timesteps", score=None, independent=True)
    )
    chance = SamplerConfig(generation_length=8, remasking="chance", seed=3)
    origin = SamplerConfig(generation_length=8, remasking="origin", seed=3)
    ids = [sample(ToyDenoiser(), [[1, 2]], c, TOKENS, device="cpu") for c in (chance, origin)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "evne", "score": None}, "Did you mean 'even'"),
        ({"schedule": "even", "score": None, "of_token": True}, "give a score"),
        ({"schedule": "even", "score": None, "independent": True}, "schedule='timesteps' alone"),
        ({"schedule": "even"}, "score"),
    ],
)
def test_a_strategy_cannot_be_half_filled(fields, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Strategy(**fields)
