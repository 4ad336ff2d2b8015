"""Blocks of masks that are appended one at a time, until an end token or the generation length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_sampler import naive_generate
from test_fast_cache import NaiveKept
from test_fast_exact import MODELS, prompts_of
from test_fast_exact import TOKENS as NETWORK_TOKENS
from toy_denoiser import TOKENS, ToyDenoiser

from opencompass_llada.inference import FastNetwork, MemoryPlanError, PassServer
from opencompass_llada.sampling import SamplerConfig, cap_steps, sample

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7], [], [11, 13, 17, 19, 2]]


def run(model: Any, prompts: list[list[int]], tokens: Any = TOKENS, **options: Any) -> Any:
    config = SamplerConfig(variable_length=True, **options)
    seeds = [100 + len(prompt) for prompt in prompts]
    return sample(model, prompts, config, tokens, seeds=seeds, device="cpu")


def computed_tokens(model: ToyDenoiser) -> int:
    """Return the real tokens that all calls so far ran over."""
    return sum(
        ids_BL.numel() if lengths_B is None else int(lengths_B.sum())
        for ids_BL, _, lengths_B in model.calls
    )


@given(
    seed=st.integers(0, 5),
    prompts=st.lists(st.lists(st.integers(0, 23), max_size=12), min_size=1, max_size=4),
    generation_length=st.integers(1, 18),
    block_length=st.integers(1, 9),
    budget=st.integers(1, 24),
    temperature=st.sampled_from([0.0, 0.0, 1.0]),
    cfg_scale=st.sampled_from([0.0, 0.5]),
    remasking=st.sampled_from(["low_confidence", "random"]),
    early_stop=st.booleans(),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_equals_a_naive_loop_token_for_token(
    seed, prompts, generation_length, block_length, budget, early_stop, **options
):
    model = ToyDenoiser(seed=seed, eos_bias=2.0)
    lengths = {
        "generation_length": generation_length,
        "block_length": block_length,
        "num_steps": cap_steps(budget, generation_length, block_length),
    }
    output = run(model, prompts, early_stop=early_stop, **lengths, **options)
    for row, prompt in enumerate(prompts):
        expected, calls = naive_generate(
            model.full_logits,
            prompt,
            mask_id=TOKENS.mask_token_id,
            eos_id=TOKENS.eos_token_id,
            eot_id=TOKENS.eot_token_id or 0,
            variable_length=True,
            seed=100 + len(prompt),
            **lengths,
            **options,
        )
        assert output.token_ids[row] == expected
        assert output.passes_per_prompt[row] <= calls
        assert early_stop or output.passes_per_prompt[row] == calls


def test_a_ragged_batch_equals_one_at_a_time():
    passes = set()
    for early_stop in (False, True):
        model = ToyDenoiser(eos_bias=1.5)
        options = {"generation_length": 16, "block_length": 4, "early_stop": early_stop}
        together = run(model, PROMPTS, **options)
        alone = [run(model, [prompt], **options) for prompt in PROMPTS]
        assert together.token_ids == [output.token_ids[0] for output in alone]
        assert together.passes_per_prompt == [output.num_forward_passes for output in alone]
        assert together.num_forward_passes == max(together.passes_per_prompt)
        passes.update(together.passes_per_prompt)
    assert len(passes) > 2, "rows end in different blocks, or the test shows nothing"


def test_fewer_tokens_are_computed_and_no_pass_sees_a_later_block():
    options = {"generation_length": 16, "block_length": 4}
    whole, growing = ToyDenoiser(eos_bias=-20.0), ToyDenoiser(eos_bias=-20.0)
    fixed = sample(whole, [[1, 2]], SamplerConfig(**options), TOKENS, device="cpu")
    grown = run(growing, [[1, 2]], **options)
    assert fixed.num_forward_passes == grown.num_forward_passes == 16
    assert [ids_BL.shape[1] for ids_BL, _, _ in growing.calls] == [
        2 + 4 * (block + 1) for block in range(4) for _ in range(4)
    ]
    assert (computed_tokens(whole), computed_tokens(growing)) == (16 * 18, 4 * (6 + 10 + 14 + 18))
    assert fixed.token_ids != grown.token_ids, "what was not there yet cannot have been seen"


def test_no_block_is_appended_after_an_end_token():
    model = ToyDenoiser(eos_bias=20.0)
    output = run(model, [[1, 2], [5]], generation_length=400, block_length=4)
    assert output.num_forward_passes == 4
    assert {len(ids) for ids in output.token_ids} == {400}
    assert all(set(ids[1:]) == {TOKENS.eos_token_id} for ids in output.token_ids)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_fast_passes_equal_the_plain_network(name):
    prompts = prompts_of((11, 26, 3), seed=5)
    options = {"generation_length": 12, "block_length": 4, "tokens": NETWORK_TOKENS}
    fast = run(PassServer(FastNetwork(MODELS[name])), prompts, **options)
    assert fast == run(MODELS[name].logits_at, prompts, **options)
    assert fast.num_full_passes == fast.num_forward_passes


@pytest.mark.parametrize("refresh", ["block", 3])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_cached_keys_are_those_of_the_rows_of_the_block(name, refresh):
    """Each block alone, by the naive cache, with all before it as its prompt."""
    model, prompts = MODELS[name], prompts_of((11, 26, 11), seed=7)
    output = run(
        PassServer(FastNetwork(model)), prompts, NETWORK_TOKENS,
        generation_length=12, block_length=4, cache={"type": "prompt", "refresh": refresh},
    )  # fmt: skip
    ends = set(NETWORK_TOKENS.end_token_ids)
    for prompt, found in zip(prompts, output.token_ids, strict=True):
        ids: list[int] = []
        while len(ids) < 12 and not ends & set(ids):
            ids += NaiveKept(model, "prompt").generate(prompt + ids, 1, 4, refresh)[0]
        assert not ends & set(ids), "the tiny network predicts no end here"
        assert found == ids


def test_memory_is_planned_for_the_whole_length_before_any_pass():
    model = MODELS["llada"]
    server = PassServer(FastNetwork(model), memory_budget=10**9)
    options = {"generation_length": 64, "block_length": 8, "num_steps": 8, "cache": "prompt"}
    run(server, prompts_of((40, 7), seed=1), NETWORK_TOKENS, **options)
    assert server.plan.row_lengths == (104, 71)
    small = PassServer(FastNetwork(model), memory_budget=server.plan.weight_bytes + 1000)
    with pytest.raises(MemoryPlanError, match="do not fit"):
        run(small, prompts_of((40, 7), seed=1), NETWORK_TOKENS, **options)


def test_one_rotation_table_serves_all_blocks():
    model = MODELS["grouped"]
    model._table = None
    server = PassServer(FastNetwork(model))
    session = server.open([12], block_length=4, cache_dtype=None, passes=4, final_lengths=[20])
    assert session._rotation[0].shape[0] >= 20
    assert torch.equal(session._positions_T, torch.arange(12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_length": None}, "give block_length, e.g. 32"),
        ({"cache": "dual"}, "use cache='prompt'"),
        ({"cache": {"type": "prompt", "refresh": "never"}}, "use refresh='block'"),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(variable_length=True, **options)


def test_a_block_causal_network_needs_no_such_option():
    with pytest.raises(ValueError, match="use early_stop=True"):
        SamplerConfig(variable_length=True, block_length=4).for_pattern(4)
