"""Dream's sampling rules: token for token with a naive sampler, and their distributions."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_dream_sampler import naive_dream_generate
from torch import Tensor
from toy_denoiser import TOKENS, ToyDenoiser

from opencompass_llada.options import build
from opencompass_llada.sampling import STRATEGIES, SamplerConfig, SpecialTokens, sample
from opencompass_llada.sampling.prediction import keep_likely, make_generators, perturb
from opencompass_llada.sampling.schedule import (
    SCHEDULES,
    plan_steps,
    reveals_at_timesteps,
    timestep_shares,
)

ALGS = ["origin", "maskgit_plus", "topk_margin", "entropy"]
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7], [11, 13, 17, 19, 2]]
MASK = TOKENS.mask_token_id


def assert_equals_naive(model: ToyDenoiser, prompts: list[list[int]], config: SamplerConfig) -> Any:
    seeds = [100 + row for row in range(len(prompts))]
    output = sample(model, prompts, config, TOKENS, seeds=seeds, device="cpu")
    passes = []
    for prompt, seed, ids in zip(prompts, seeds, output.token_ids, strict=True):
        expected, calls = naive_dream_generate(
            model.full_logits,
            prompt,
            generation_length=config.generation_length,
            num_steps=config.plan().num_steps,
            mask_id=MASK,
            alg=config.remasking,
            block_length=config.block_length,
            eps=1e-3 if config.timestep_eps is None else config.timestep_eps,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            alg_temp=config.remasking_temperature,
            seed=seed,
        )
        assert ids == expected, (prompt, config)
        passes.append(calls)
    assert output.num_forward_passes >= max(passes)
    if config.remasking != "origin":
        assert set(passes) == {output.num_forward_passes}
    return output


@pytest.mark.parametrize("alg", ALGS)
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.5])
def test_equals_naive_for_each_alg(alg: str, temperature: float) -> None:
    filters: list[dict[str, Any]] = [{}]
    if alg != "origin" or temperature > 0:  # else filters are refused: they have no effect
        filters += [{"top_p": 0.95}, {"top_k": 3}, {"top_p": 0.7, "top_k": 2}]
    lengths = [(8, 8, None), (9, 4, None), (8, 6, 4)]
    for (generation_length, num_steps, block_length), kept in itertools.product(lengths, filters):
        config = SamplerConfig(
            generation_length=generation_length,
            block_length=block_length,
            num_steps=num_steps,
            temperature=temperature,
            remasking=alg,
            **kept,
        )
        assert_equals_naive(ToyDenoiser(), PROMPTS, config)


@st.composite
def dream_cases(draw: st.DrawFn) -> tuple[int, list[list[int]], SamplerConfig]:
    alg, temperature = draw(st.sampled_from(ALGS)), draw(st.sampled_from([0.0, 0.2, 1.0]))
    length = draw(st.integers(1, 14))
    filtered = alg != "origin" or temperature > 0
    config = SamplerConfig(
        generation_length=length,
        block_length=None,
        num_steps=draw(st.integers(1, 18)),
        temperature=temperature,
        remasking=alg,
        top_p=draw(st.sampled_from([None, 0.5, 0.95])) if filtered else None,
        top_k=draw(st.sampled_from([None, 2, 40])) if filtered else None,
        timestep_eps=draw(st.sampled_from([None, 0.05, 0.3])),
        remasking_temperature=draw(st.sampled_from([0.0, 0.4])) if alg != "origin" else 0.0,
    )
    prompt = st.lists(st.integers(0, 23), min_size=0, max_size=12)
    return draw(st.integers(0, 5)), draw(st.lists(prompt, min_size=1, max_size=3)), config


@given(dream_cases())
@settings(max_examples=120, deadline=None, derandomize=True)
def test_equals_naive_for_any_settings_and_ragged_prompts(
    case: tuple[int, list[list[int]], SamplerConfig],
) -> None:
    model_seed, prompts, config = case
    assert_equals_naive(ToyDenoiser(seed=model_seed), prompts, config)


def test_the_settings_make_a_difference() -> None:
    """Guard against a vacuous grid: each option changes some result of the toy model."""
    base = {"generation_length": 16, "block_length": None, "num_steps": 8, "remasking": "entropy"}
    changes = [
        {"remasking": "maskgit_plus"},
        {"remasking": "topk_margin"},
        {"remasking": "origin"},
        {"schedule": "even"},
        {"timestep_eps": 0.5},
        {"block_length": 8},
        {"top_k": 2},
        {"top_p": 0.5},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.5},
        {"temperature": 1.0, "top_k": 2},
        {"remasking_temperature": 0.5},
    ]
    outputs = [
        sample(ToyDenoiser(), PROMPTS, SamplerConfig(**{**base, **change}), TOKENS, device="cpu")
        for change in [{}, *changes]
    ]
    for first, second in itertools.combinations(outputs, 2):
        assert first.token_ids != second.token_ids


@pytest.mark.parametrize("alg", ALGS)
def test_a_ragged_batch_equals_one_at_a_time(alg: str) -> None:
    config = SamplerConfig(
        generation_length=11, block_length=None, num_steps=6, temperature=0.8, top_p=0.9,
        remasking=alg,
    )  # fmt: skip
    prompts = [*PROMPTS, [], [MASK, 2, MASK]]
    model = ToyDenoiser()
    alone = [sample(model, [p], config, TOKENS, device="cpu").token_ids[0] for p in prompts]
    assert sample(model, prompts, config, TOKENS, device="cpu").token_ids == alone


def test_without_temperature_and_filters_maskgit_plus_is_low_confidence() -> None:
    options = {"generation_length": 12, "block_length": 6, "num_steps": 6}
    ours = SamplerConfig(remasking="maskgit_plus", schedule="even", **options)
    outputs = [
        sample(ToyDenoiser(), PROMPTS, config, TOKENS, device="cpu")
        for config in (ours, SamplerConfig(**options))
    ]
    assert outputs[0] == outputs[1]


def test_timesteps_are_those_of_the_published_rule() -> None:
    assert timestep_shares(2, 0.1) == (pytest.approx(0.45), 1.0)
    assert reveals_at_timesteps(4, timestep_shares(4, 1e-3)) == (0, 1, 1, 2)
    assert reveals_at_timesteps(32, timestep_shares(8, 1e-3)) == (3, *[4] * 6, 5)
    # float32, as there: in exact arithmetic the first step falls short of a token.
    assert reveals_at_timesteps(512, timestep_shares(512, 1e-5))[:3] == (1, 0, 1)
    config = SamplerConfig(generation_length=8, block_length=4, num_steps=4, remasking="entropy")
    assert [step.num_scheduled for step in plan_steps(config.plan())] == [1, 3]


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.5])
def test_scheduled_reveals_add_up_for_every_number_of_steps(eps: float) -> None:
    for num_masked, num_steps in itertools.product([1, 7, 32, 64], [1, 2, 7, 64, 200]):
        shares = timestep_shares(num_steps, eps)
        reveals = reveals_at_timesteps(num_masked, shares)
        assert sum(reveals) == num_masked
        assert min(reveals) >= 0
        assert len(reveals) == num_steps
        assert shares[-1] == 1.0


def within(observed: float, expected: float, num_draws: int) -> bool:
    """Tell whether a frequency is within 4 standard errors."""
    return abs(observed - expected) <= 4 * math.sqrt(expected * (1 - expected) / num_draws) + 1e-12


def test_top_p_and_top_k_keep_what_the_docstring_says() -> None:
    logits = torch.tensor([[0.5, 0.05, 0.3, 0.15]]).log()

    def kept(**options: Any) -> list[int]:
        options = {"temperature": 1.0, "top_p": None, "top_k": None, **options}
        return keep_likely(logits, **options)[0].isfinite().nonzero()[:, 0].tolist()

    assert kept(top_p=0.7) == [0, 2]
    assert kept(top_p=0.4) == [0]
    assert kept(top_p=0.7, temperature=0.1) == [0]
    assert kept(top_k=3) == [0, 2, 3]
    assert kept(top_p=0.7, top_k=1) == [0]
    assert kept(top_k=9) == [0, 1, 2, 3]
    assert keep_likely(logits, temperature=1.0, top_p=None, top_k=None) is logits


def test_positions_are_drawn_by_softmax_without_replacement() -> None:
    scores, num_draws = torch.tensor([0.1, 0.9, 0.5]), 20_000
    weights = (scores / 0.5).softmax(-1).tolist()
    (generator,) = make_generators([3], torch.device("cpu"))
    orders = Counter(
        tuple(perturb(scores.double(), 0.5, 3, generator).topk(2).indices.tolist())
        for _ in range(num_draws)
    )
    for first, second in itertools.permutations(range(3), 2):
        expected = weights[first] * weights[second] / (1 - weights[first])
        assert within(orders[first, second] / num_draws, expected, num_draws)


class TwoTokens:
    """A denoiser over tokens 0, 1 and mask 2 whose logits depend on the other position."""

    table = torch.tensor([[1.0, 0.2], [-0.7, 0.9], [0.4, -0.3]])  # by the neighbour's token

    def __call__(self, ids: Tensor, positions: Tensor, lengths: Tensor | None) -> Tensor:
        values = self.table[ids.gather(1, 1 - positions)]
        return torch.cat([values, torch.full((*positions.shape, 1), -torch.inf)], dim=-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_origin_has_the_distribution_of_its_rule(temperature: float) -> None:
    """Against exact enumeration over two positions, two steps and both tokens."""
    num_rows, eps = 8_000, 0.2
    config = SamplerConfig(
        generation_length=2, block_length=None, num_steps=2, temperature=temperature,
        remasking="origin", timestep_eps=eps,
    )  # fmt: skip
    tokens = SpecialTokens(mask_token_id=2, eos_token_id=0)
    drawn = sample(
        TwoTokens(), [[]] * num_rows, config, tokens, seeds=list(range(num_rows)), device="cpu"
    ).token_ids
    counts = Counter(map(tuple, drawn))
    chances = (TwoTokens.table / temperature).softmax(-1)
    share = 1 - (1 + eps) / 2  # the second time is halfway from 1 to eps
    for a, b in itertools.product(range(2), repeat=2):
        together = (share**2 + (1 - share) ** 2) * chances[2, a] * chances[2, b]
        apart = (
            share * (1 - share) * (chances[2, a] * chances[a, b] + chances[2, b] * chances[b, a])
        )
        expected = float(together + apart)
        assert within(counts[a, b] / num_rows, expected, num_rows), (a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remasking": "entropi"}, "Did you mean 'entropy'"),
        ({"schedule": "timestep"}, "Unknown schedule 'timestep'. Did you mean 'timesteps'"),
        ({"top_p": 1.0, "temperature": 1.0}, "top_p=1.0 must be above 0 and below 1; use None"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p=0.0 must be above 0"),
        ({"top_k": 0, "temperature": 1.0}, "top_k=0 must be at least 1"),
        ({"timestep_eps": 1.0, "remasking": "origin"}, "timestep_eps=1.0 must be at least 0"),
        ({"remasking_temperature": -1}, "remasking_temperature=-1 must be at least 0"),
        ({"remasking_temperature": 0.1, "remasking": "origin"}, "has no effect .*'origin'"),
        ({"remasking_temperature": 0.1, "remasking": "random"}, "has no effect .*'random'"),
        ({"top_p": 0.9}, "top_p=0.9 has no effect at temperature=0 .*'low_confidence'"),
        ({"top_k": 5, "remasking": "origin"}, "top_k=5 has no effect at temperature=0"),
        ({"timestep_eps": 0.1}, "timestep_eps=0.1 has no effect with schedule='even'"),
        ({"remasking": "origin", "schedule": "even"}, "gives no probabilities.*'random'"),
        (
            {"remasking": "entropy", "suppress_eos_eot_confidence": True},
            "suppress_eos_eot_confidence=True has no effect .*'entropy'",
        ),
    ],
)
def test_bad_values_and_options_without_effect_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(SamplerConfig, options, "sampler")


@pytest.mark.parametrize(
    ("remasking", "schedule"),
    [pair for pair in itertools.product(STRATEGIES, SCHEDULES) if pair != ("origin", "even")],
)
def test_every_strategy_finishes_under_every_schedule(remasking: str, schedule: str) -> None:
    model = ToyDenoiser(mask_bias=-1e9)
    config = SamplerConfig(
        generation_length=12, block_length=4, num_steps=9, remasking=remasking, schedule=schedule
    )
    output = sample(model, PROMPTS, config, TOKENS, device="cpu")
    assert all(len(ids) == 12 and MASK not in ids for ids in output.token_ids)


def test_suppressed_confidence_of_maskgit_plus_survives_a_nucleus_of_end_tokens() -> None:
    config = SamplerConfig(
        generation_length=8, block_length=None, temperature=0.3, top_k=1,
        remasking="maskgit_plus", suppress_eos_eot_confidence=True,
    )  # fmt: skip
    output = sample(ToyDenoiser(eos_bias=4.0), PROMPTS, config, TOKENS, device="cpu")
    assert all(len(ids) == 8 for ids in output.token_ids)
