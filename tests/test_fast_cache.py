"""Kept keys and values against an independent implementation, float8, and the settings."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_fast_exact import MODELS, TOKENS, prompts_of

from opencompass_llada.inference import FastNetwork, PassServer
from opencompass_llada.inference.kv_cache import FLOAT8, KeyValueCache, dequantise, quantise
from opencompass_llada.rope.rotation import rotation_table
from opencompass_llada.sampling import CacheOptions, SamplerConfig, sample


class NaiveKept:
    """Prefix and dual cache by lists of tensors: one row, attention written out."""

    def __init__(self, model, kept):
        self.model, self.kept = model, kept
        self.shift = model.logit_shift

    def run(self, ids, first, end, store):
        """Recompute positions first to end; everything else of ``store`` is as it was kept."""
        model = self.model
        cos, sin = rotation_table(model.resolved_rope, len(ids), "cpu")
        rotation = (cos[first:end], sin[first:end])
        x = model.get_input_embeddings()(torch.tensor([ids[first:end]]))
        for layer, block in enumerate(model.blocks):
            q, *new = block.attention_inputs(x, rotation)
            if store[layer] is None:
                store[layer] = new
            k, v = (
                torch.cat([old[:, :, :first], fresh, old[:, :, end:]], dim=2)
                for old, fresh in zip(store[layer], new, strict=True)
            )
            store[layer] = (k, v)
            groups = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            weights = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, dim=-1)
            x = block.add_mlp(block.add_attention(x, weights @ v))
        return model.get_output_embeddings()(model.final_norm(x))[0]

    def generate(self, prompt, blocks, block_length, refresh):
        """One token a step, most confident first."""
        ids = prompt + [TOKENS.mask_token_id] * (blocks * block_length)
        store, since, boundary = [None] * len(self.model.blocks), None, 0
        full = 0
        for block in range(blocks):
            start = len(prompt) + block * block_length
            hidden = list(range(start, start + block_length))
            if refresh == "block":
                since = None
            for _ in range(block_length):
                if since is None or (isinstance(refresh, int) and since >= refresh):
                    store, since, boundary = [None] * len(store), 0, start
                    first, end, full = 0, len(ids), full + 1
                else:
                    first = boundary - self.shift
                    end = start + block_length if self.kept == "dual" else len(ids)
                since += 1
                logits = self.run(ids, first, end, store)
                scores = {
                    p: logits[p - self.shift - first].double().softmax(-1).max().item()
                    for p in hidden
                }
                best = max(hidden, key=lambda p: (scores[p], -p))
                ids[best] = int(logits[best - self.shift - first].argmax())
                hidden.remove(best)
        return ids[len(prompt) :], full


@pytest.mark.parametrize("refresh", ["block", "never", 3])
@pytest.mark.parametrize("kept", ["prompt", "dual"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_policies_equal_an_independent_implementation(name, kept, refresh):
    model = MODELS[name]
    config = SamplerConfig(
        generation_length=12, block_length=4, cache=CacheOptions(type=kept, refresh=refresh)
    )
    prompts = prompts_of((11, 26, 11), seed=7)
    output = sample(PassServer(FastNetwork(model)), prompts, config, TOKENS, device="cpu")
    naive = [NaiveKept(model, kept).generate(list(p), 3, 4, refresh) for p in prompts]
    assert output.token_ids == [ids for ids, _ in naive]
    assert {full for _, full in naive} == {output.num_full_passes}
    assert output.num_forward_passes == 12


def test_policies_differ_from_the_reference_or_the_oracle_shows_nothing():
    prompts = prompts_of((11, 26, 31, 8), seed=7)
    found = {}
    for kept, refresh in itertools.product(("prompt", "dual"), ("block", "never")):
        config = SamplerConfig(
            generation_length=12, block_length=4, cache=CacheOptions(type=kept, refresh=refresh)
        )
        server = PassServer(FastNetwork(MODELS["llada"]))
        found[kept, refresh] = sample(server, prompts, config, TOKENS, device="cpu").token_ids
    exact = SamplerConfig(generation_length=12, block_length=4)
    plain = sample(MODELS["llada"].logits_at, prompts, exact, TOKENS, device="cpu").token_ids
    assert all(ids != plain for ids in found.values())
    assert len({str(ids) for ids in found.values()}) == 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
def test_a_ragged_batch_equals_one_at_a_time(dtype):
    config = SamplerConfig(
        generation_length=12, block_length=4, cache=CacheOptions(type="prompt", dtype=dtype)
    )
    prompts = prompts_of((11, 26, 1, 40, 17), seed=3)
    server = PassServer(FastNetwork(MODELS["llada"]))
    together = sample(server, prompts, config, TOKENS, device="cpu").token_ids
    alone = [sample(server, [p], config, TOKENS, device="cpu").token_ids[0] for p in prompts]
    assert together == alone


def test_a_session_reads_nothing_that_an_earlier_one_kept():
    server = PassServer(FastNetwork(MODELS["llada"]))
    config = SamplerConfig(generation_length=8, block_length=4, cache="prompt")
    (prompt,), others = prompts_of((12,), seed=1), prompts_of((40, 50), seed=2)
    first = sample(server, [prompt], config, TOKENS, device="cpu")
    sample(server, others, config, TOKENS, device="cpu")
    assert sample(server, [prompt], config, TOKENS, device="cpu") == first


def test_float8_errs_by_at_most_a_sixteenth():
    torch.manual_seed(0)
    x = torch.randn(50, 3, 16) * torch.logspace(-3, 3, 50)[:, None, None]
    values, scales = quantise(x)
    assert (values.dtype, scales.dtype) == (FLOAT8, torch.float32)
    error = (dequantise(values, scales, torch.float32) - x).abs()
    assert (error <= x.abs() / 16 + scales[..., None] * 2**-10).all()
    zeros, ones = quantise(torch.zeros(2, 1, 4))
    assert (dequantise(zeros, ones, torch.float32) == 0).all()


def test_float8_takes_half_of_16_bit_and_its_scales():
    def size(dtype):
        cache = KeyValueCache(
            num_layers=2,
            num_slots=64,
            num_heads=2,
            head_dim=128,
            dtype=dtype,
            device=torch.device("cpu"),
        )
        tensors = [t for layer in cache.layers for t in layer if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    assert size(FLOAT8) == size(torch.bfloat16) * (128 + 4) / 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("prompts", "Did you mean 'prompt'"),
        ({"type": "prompt", "refreshh": 3}, "Did you mean 'refresh'"),
        ({"type": "prompt", "refresh": 0}, "use 1 or more"),
        ({"type": "prompt", "refresh": "blocks"}, "Did you mean 'block'"),
        ({"type": "dual", "dtype": "float16"}, "Unknown cache dtype"),
        ({"refresh": "never"}, "has no effect with type='none'"),
        (3, "must be a type's name or a dict"),
    ],
)
def test_wrong_options_name_the_rule(options, message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(cache=options)


def test_options_survive_a_config_as_a_mapping():
    config = SamplerConfig(cache={"type": "dual", "refresh": 4, "dtype": "float8"})
    assert config.cache == CacheOptions(type="dual", refresh=4, dtype="float8")
    filled = CacheOptions(type="prompt", refresh="block", dtype="bfloat16")
    assert SamplerConfig(cache="prompt").cache == filled
    assert not SamplerConfig().cache.enabled
