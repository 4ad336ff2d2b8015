"""The fast passes give the reference sampler's ids, token for token, in float32 on the CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS_ID, EOT_ID, MASK_ID, tiny_model
from tiny_dream import tiny_dream

from opencompass_llada.inference import FastNetwork, PassServer
from opencompass_llada.sampling import CacheOptions, SamplerConfig, SpecialTokens, sample

TOKENS = SpecialTokens(mask_token_id=MASK_ID, eos_token_id=EOS_ID, eot_token_id=EOT_ID)
MODELS = {
    "llada": tiny_model(n_layers=3),
    "grouped": tiny_model(n_layers=2, n_kv_heads=1, seed=1),
    "dream": tiny_dream(),
}


def reference(model, prompts, config):
    """The plain forward pass of the network, one prompt at a time."""
    one_at_a_time = [sample(model.logits_at, [p], config, TOKENS, device="cpu") for p in prompts]
    return [output.token_ids[0] for output in one_at_a_time]


def prompts_of(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 250, (n,), generator=generator).tolist() for n in lengths]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    blocks=st.integers(1, 3),
    block_length=st.integers(1, 5),
    steps=st.integers(1, 5),
    options=st.sampled_from(
        [{}, {"temperature": 0.7}, {"remasking": "random"}, {"cfg_scale": 0.5}]
    ),
    chunk=st.sampled_from([3, 16384]),
    pack=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_exact_tier_equals_the_reference_over_a_grid_of_shapes(
    name, lengths, blocks, block_length, steps, options, chunk, pack, seed
):
    model = MODELS[name]
    config = SamplerConfig(
        generation_length=blocks * block_length,
        block_length=block_length,
        num_steps=blocks * min(steps, block_length),
        **options,
    )
    prompts = prompts_of(lengths, seed)
    server = PassServer(FastNetwork(model, mlp_chunk=chunk, pack_weights=pack))
    output = sample(server, prompts, config, TOKENS, device="cpu")
    assert output.token_ids == reference(model, prompts, config)
    assert output.num_full_passes == output.num_forward_passes


@pytest.mark.parametrize("kind", ["prompt", "dual"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_cache_refreshed_at_every_step_is_exact(kind, name):
    config = SamplerConfig(
        generation_length=12, block_length=4, cache=CacheOptions(type=kind, refresh=1)
    )
    prompts = prompts_of((9, 30, 17), seed=5)
    server = PassServer(FastNetwork(MODELS[name]))
    output = sample(server, prompts, config, TOKENS, device="cpu")
    exact = SamplerConfig(generation_length=12, block_length=4)
    assert output.token_ids == reference(MODELS[name], prompts, exact)
    assert output.num_full_passes == 12


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_partial_pass_after_a_full_one_gives_the_full_ones_logits(name):
    model = MODELS[name]
    ids = torch.tensor(prompts_of((40, 40, 40), seed=2))
    lengths = (40, 23, 31)
    positions = torch.tensor([[15, 14], [13, 9], [10, 12]])
    expected = model.logits_at(ids, positions, torch.tensor(lengths))
    assert expected.std() > 0.5, "flat logits would make the comparison vacuous"
    session = PassServer(FastNetwork(model)).open(
        lengths, block_length=2, cache_dtype="bfloat16", passes=1
    )
    full = session.full_pass(ids, positions, keep=True)
    torch.testing.assert_close(full, expected, rtol=1e-4, atol=1e-4)
    starts = [12, 8, 8]
    for num_tokens, num_wanted in ((6, None), (9, 6)):
        part = session.partial_pass(ids, starts, num_tokens, positions, num_wanted)
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)


def test_packing_leaves_the_plain_network_and_takes_no_second_copy():
    model = tiny_model(seed=3)
    ids = torch.tensor(prompts_of((20,), seed=1))
    before = model(ids).logits
    network = FastNetwork(model, pack_weights=True)
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-5, atol=1e-5)
    parts = network.layers[0].parts
    stores = {m.weight.untyped_storage().data_ptr() for m in (parts.query, parts.key, parts.value)}
    assert len(stores) == 1
    again = FastNetwork(model, pack_weights=True).layers[0].parts.query.weight
    assert again.untyped_storage().data_ptr() in stores


def test_the_model_must_keep_to_be_asked_to():
    config = SamplerConfig(generation_length=4, cache="prompt")
    with pytest.raises(ValueError, match="needs a model that keeps keys and values"):
        sample(MODELS["llada"].logits_at, [[1, 2]], config, TOKENS, device="cpu")
    with pytest.raises(ValueError, match="cfg_scale=1.0 runs every step with and without"):
        SamplerConfig(cfg_scale=1.0, cache="dual")
    server = PassServer(FastNetwork(MODELS["llada"]))
    with pytest.raises(ValueError, match="use cache='none' for empty prompts"):
        sample(server, [[1], []], config, TOKENS, device="cpu")
