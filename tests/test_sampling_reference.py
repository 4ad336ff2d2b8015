"""The sampler equals a deliberately naive one, token for token, over a grid of settings."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_sampler import naive_generate
from torch import Tensor
from toy_denoiser import TOKENS, VOCABULARY, ToyDenoiser

from opencompass_llada.sampling import SamplerConfig, cap_steps, sample

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7], [11, 13, 17, 19, 2]]
NAMES = {"suppress_eos_logits": "never_eos", "suppress_eos_eot_confidence": "eos_last"}


def naive_ids(
    model: ToyDenoiser, prompt: list[int], config: SamplerConfig, seed: int
) -> tuple[list[int], int]:
    fields = {
        NAMES.get(name, name): getattr(config, name)
        for name in (
            "generation_length",
            "block_length",
            "temperature",
            "cfg_scale",
            "remasking",
            *NAMES,
        )
    }
    return naive_generate(
        model.full_logits,
        prompt,
        num_steps=config.plan().num_steps,
        mask_id=TOKENS.mask_token_id,
        eos_id=TOKENS.eos_token_id,
        eot_id=TOKENS.eot_token_id or 0,
        seed=seed,
        **fields,
    )


def assert_equals_naive(model: ToyDenoiser, prompts: list[list[int]], config: SamplerConfig) -> Any:
    seeds = [100 + row for row in range(len(prompts))]
    output = sample(model, prompts, config, TOKENS, seeds=seeds, device="cpu")
    for prompt, seed, ids in zip(prompts, seeds, output.token_ids, strict=True):
        expected, calls = naive_ids(model, prompt, config, seed)
        assert ids == expected, (prompt, config)
        assert output.num_forward_passes == calls
    return output


STRATEGIES = [
    {"remasking": "low_confidence"},
    {"remasking": "random"},
    {"suppress_eos_logits": True},
    {"suppress_eos_logits": True, "remasking": "random"},
    {"suppress_eos_eot_confidence": True},
    {"suppress_eos_eot_confidence": True, "suppress_eos_logits": True},
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda options: "+".join(options))
@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.5])
@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_equals_naive_over_lengths_blocks_and_steps(
    strategy: dict[str, Any], temperature: float, cfg_scale: float
) -> None:
    model = ToyDenoiser()
    lengths = [(8, 8, 8), (8, 4, 4), (7, 4, 2), (9, 4, 6), (3, 5, 3), (6, 1, 6)]
    for generation_length, block_length, num_steps in lengths:
        config = SamplerConfig(
            generation_length=generation_length,
            block_length=block_length,
            num_steps=num_steps,
            temperature=temperature,
            cfg_scale=cfg_scale,
            **strategy,
        )
        assert_equals_naive(model, PROMPTS, config)


@st.composite
def sampler_cases(draw: st.DrawFn) -> tuple[int, list[list[int]], SamplerConfig]:
    block_length = draw(st.integers(1, 9))
    generation_length = draw(st.integers(1, 18))
    budget = draw(st.integers(1, 24))
    remasking = draw(st.sampled_from(["low_confidence", "random"]))
    config = SamplerConfig(
        generation_length=generation_length,
        block_length=block_length,
        num_steps=cap_steps(budget, generation_length, block_length),
        temperature=draw(st.sampled_from([0.0, 0.0, 0.2, 1.0])),
        cfg_scale=draw(st.sampled_from([0.0, 0.0, 0.5, 3.0])),
        remasking=remasking,
        suppress_eos_logits=draw(st.booleans()),
        suppress_eos_eot_confidence=remasking == "low_confidence" and draw(st.booleans()),
    )
    prompt = st.lists(st.integers(0, 23), min_size=0, max_size=12)
    return draw(st.integers(0, 5)), draw(st.lists(prompt, min_size=1, max_size=4)), config


@given(sampler_cases())
@settings(max_examples=120, deadline=None, derandomize=True)
def test_equals_naive_for_any_settings_and_ragged_prompts(
    case: tuple[int, list[list[int]], SamplerConfig],
) -> None:
    model_seed, prompts, config = case
    assert_equals_naive(ToyDenoiser(seed=model_seed), prompts, config)


def test_the_settings_make_a_difference() -> None:
    """Guard against a vacuous grid: each option changes some result of the toy model."""
    base = {"generation_length": 16, "block_length": 8, "num_steps": 8}
    changes = [
        {"block_length": 16},
        {"num_steps": 4},
        {"temperature": 1.0},
        {"cfg_scale": 2.0},
        {"remasking": "random"},
        {"suppress_eos_logits": True},
        {"suppress_eos_eot_confidence": True},
    ]
    outputs = [
        sample(
            ToyDenoiser(eos_bias=2.0),
            PROMPTS,
            SamplerConfig(**{**base, **change}),
            TOKENS,
            device="cpu",
        ).token_ids
        for change in [{}, *changes]
    ]
    for first, second in itertools.combinations(outputs, 2):
        assert first != second


@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("end_token", [TOKENS.eos_token_id, TOKENS.eot_token_id])
def test_suppressed_confidence_reveals_eos_and_eot_last_at_any_temperature(
    temperature: float, end_token: int
) -> None:
    """Even positions are sure to end the text, odd ones are fairly sure of token 3."""
    orders: dict[bool, list[int]] = {}
    for suppress in (False, True):
        asked: list[set[int]] = []

        def logits(
            ids: Tensor, positions: Tensor, lengths: Tensor | None, asked: list[set[int]] = asked
        ) -> Tensor:
            asked.append(set(positions[0].tolist()))
            even = (positions % 2 == 0)[..., None]
            surely_ends = torch.nn.functional.one_hot(torch.tensor(end_token), VOCABULARY) * 10.0
            likely_3 = torch.nn.functional.one_hot(torch.tensor(3), VOCABULARY) * 4.0
            return torch.where(even, surely_ends, likely_3)

        config = SamplerConfig(
            generation_length=8,
            block_length=8,
            temperature=temperature,
            suppress_eos_eot_confidence=suppress,
        )
        output = sample(logits, [[]], config, TOKENS, seeds=[1], device="cpu")
        assert output.token_ids == [[end_token, 3] * 4]
        steps = itertools.pairwise([*asked, set()])
        orders[suppress] = [(before - after).pop() for before, after in steps]
    assert orders == {False: [0, 2, 4, 6, 1, 3, 5, 7], True: [1, 3, 5, 7, 0, 2, 4, 6]}


def test_suppressed_logits_never_give_eos_but_may_give_eot() -> None:
    model = ToyDenoiser(eos_bias=2.5)
    config = SamplerConfig(generation_length=32, temperature=1.0, suppress_eos_logits=True)
    ids = sum(sample(model, PROMPTS, config, TOKENS, device="cpu").token_ids, [])
    assert TOKENS.eos_token_id not in ids
    assert TOKENS.eot_token_id in ids


def test_a_predicted_mask_id_counts_as_revealed() -> None:
    model = ToyDenoiser(mask_bias=6.0)
    config = SamplerConfig(generation_length=12, block_length=4, num_steps=6)
    output = assert_equals_naive(model, PROMPTS, config)
    assert TOKENS.mask_token_id in sum(output.token_ids, [])
    assert [call[1].shape[1] for call in model.calls] == [4, 2] * 3


def test_an_llada_network_equals_naive() -> None:
    tiny = pytest.importorskip("tiny", reason="the native LLaDA network is not there")
    model = tiny.tiny_model(seed=3)
    special = {"mask_id": tiny.MASK_ID, "eos_id": tiny.EOS_ID, "eot_id": tiny.EOT_ID}
    tokens = type(TOKENS)(
        mask_token_id=tiny.MASK_ID, eos_token_id=tiny.EOS_ID, eot_token_id=tiny.EOT_ID
    )

    def full_logits(ids: list[int]) -> list[list[float]]:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].double().tolist()

    for options in [{}, {"temperature": 0.7}, {"cfg_scale": 1.0}, {"remasking": "random"}]:
        config = SamplerConfig(generation_length=8, block_length=4, num_steps=4, **options)
        prompts = [list(b"Where is it?"), list(b"A much longer prompt, and then: where?")]
        output = sample(model.logits_at, prompts, config, tokens, seeds=[1, 2], device="cpu")
        for prompt, seed, ids in zip(prompts, [1, 2], output.token_ids, strict=True):
            expected, _ = naive_generate(
                full_logits,
                prompt,
                generation_length=8,
                block_length=4,
                num_steps=4,
                seed=seed,
                **special,
                **options,
            )
            assert ids == expected, options
