"""The memory plan: its figures against counted bytes, and what it says when a run does not fit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_fast_exact import MODELS, TOKENS, prompts_of
from tiny_experts import llada2_fields

from opencompass_llada.engines import SamplerSettings, masked_diffusion
from opencompass_llada.inference import (
    FastNetwork,
    MemoryPlan,
    MemoryPlanError,
    NetworkSize,
    PassOptions,
    PassServer,
    PrefillOptions,
    card_budget,
    check_plan,
)
from opencompass_llada.inference.kv_cache import FLOAT8, KeyValueCache
from opencompass_llada.inference.memory import EXPERT_CHUNK, longest_row
from opencompass_llada.networks import (
    LLaDA2MoeConfig,
    LLaDA2MoeForMaskedDiffusion,
    LLaDAConfig,
    LLaDAForMaskedDiffusion,
    SDARConfig,
    SDARForMaskedDiffusion,
)
from opencompass_llada.sampling import SamplerConfig, SpecialTokens, sample

H100 = int(0.94 * 81559 * 2**20)


@pytest.fixture(scope="module")
def llada_8b():
    with torch.device("meta"):
        network = LLaDAForMaskedDiffusion(LLaDAConfig())
    return NetworkSize.of(network, torch.bfloat16)


def plan(size, *lengths, cache=None, block_length=32, guided=False):
    return MemoryPlan(
        size=size,
        row_lengths=lengths,
        block_length=block_length,
        cache_dtype=cache,
        mlp_chunk=16384,
        guided=guided,
    )


def test_published_figures_of_the_8b_model(llada_8b):
    # training.md's table: 16.03 GB of weights, 64 GiB of bf16 keys and values at 128K.
    assert plan(llada_8b, 131072).weight_bytes / 1e9 == pytest.approx(16.03, abs=0.01)
    assert plan(llada_8b, 131072, cache="bfloat16").cache_bytes == 64 * 2**30
    float8 = plan(llada_8b, 131072, cache="float8").cache_bytes
    assert float8 == 64 * 2**30 * (128 + 4) // 256


def test_128k_fits_an_80_gb_card_in_float8_and_not_in_bfloat16(llada_8b):
    check_plan(plan(llada_8b, 131104, cache="float8"), H100)
    with pytest.raises(MemoryPlanError, match=r"Nearest plan.*cache=dict\(dtype='float8'\)"):
        check_plan(plan(llada_8b, 131104, cache="bfloat16"), H100)


def test_the_nearest_plan_is_one_that_fits(llada_8b):
    with pytest.raises(MemoryPlanError, match="batch_size=3"):
        check_plan(plan(llada_8b, *[32800] * 5, cache="float8"), 49 * 10**9)
    with pytest.raises(MemoryPlanError, match=r"type='none'.*at most 214016 tokens"):
        check_plan(plan(llada_8b, 600_000, cache="bfloat16"), 26_800_000_000)
    with pytest.raises(MemoryPlanError, match="Not even one row .*; use a larger card$"):
        check_plan(plan(llada_8b, 600), 10**9)  # each process would hold all weights


def test_more_cards_are_named_where_they_split_what_one_cannot_hold(llada_8b, llada2_mini):
    asked = plan(llada_8b, 600_000, cache="float8")
    with pytest.raises(MemoryPlanError, match=r"; or sequence_parallel=4, which .* 4 GPUs\.$"):
        check_plan(asked, H100)
    check_plan(replace(asked, ranks=4), H100)
    with pytest.raises(MemoryPlanError, match=r"sequence_parallel=4, which"):
        check_plan(replace(asked, ranks=2), H100)
    grouped = replace(llada_8b, shape=replace(llada_8b.shape, num_groups=1))
    for size, chunk in ((grouped, None), (llada2_mini, 4096)):
        with pytest.raises(MemoryPlanError, match="Nearest plan") as fault:
            check_plan(replace(asked, size=size, prefix_chunk=chunk), size.weight_bytes * 3 // 2)
        assert "sequence_parallel" not in str(fault.value)


def test_a_smaller_chunk_is_taken_before_anything_is_refused(llada_8b):
    asked = plan(llada_8b, 32800)
    fitted = check_plan(asked, asked.peak_bytes - 10**8)
    assert fitted.mlp_chunk == 4096
    assert fitted.row_lengths == asked.row_lengths


def test_what_full_passes_round_is_counted_for_the_longest_row_that_is_not_exact(llada_8b):
    prefill = PrefillOptions(type="float8", shortest=4096)

    def added(*lengths):
        exact = replace(plan(llada_8b, *lengths), mlp_chunk=1)  # attention takes the most
        return replace(exact, prefill=prefill).activation_bytes - exact.activation_bytes

    assert added(2000, 4095) == 0
    # Queries, keys and values of LLaDA-8B's 32 heads of 128, a byte each.
    assert added(4096, 2000) == 4096 * 128 * 96
    assert added(2000, 8192, 4096) == 8192 * 128 * 96, "rows are computed one after another"


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
def test_planned_bytes_of_a_cache_are_those_it_takes(dtype):
    size = NetworkSize.of(MODELS["grouped"], torch.float32)
    cache = KeyValueCache(
        num_layers=size.shape.num_layers,
        num_slots=2048,
        num_heads=size.shape.num_groups,
        head_dim=size.shape.head_dim,
        dtype=FLOAT8 if dtype == "float8" else torch.float32,
        device=torch.device("cpu"),
    )
    tensors = [t for layer in cache.layers for t in layer if t is not None]
    taken = sum(t.numel() * t.element_size() for t in tensors)
    assert plan(size, 1000, 900, cache=dtype).cache_bytes == taken


def test_a_run_that_does_not_fit_is_refused_before_any_pass():
    model = MODELS["llada"]
    size = NetworkSize.of(model, torch.float32)
    budget = plan(size, 1032, cache="float8").peak_bytes
    server = PassServer(FastNetwork(model), memory_budget=budget)
    config = SamplerConfig(generation_length=32, cache="prompt")
    (prompt,) = prompts_of((1000,), seed=0)
    with pytest.raises(MemoryPlanError, match="dtype='float8'"):
        sample(server, [prompt], config, TOKENS, device="cpu")


def test_the_plan_is_logged_once_for_each_size(caplog):
    caplog.set_level("INFO", logger="opencompass_llada")
    server = PassServer(FastNetwork(MODELS["llada"]), memory_budget=10**9)
    config = SamplerConfig(generation_length=4, block_length=4, num_steps=1, cache="prompt")
    for length in (10, 11, 1100):
        sample(server, prompts_of((length,), seed=0), config, TOKENS, device="cpu")
    plans = [r.getMessage() for r in caplog.records if "Memory plan" in r.getMessage()]
    assert len(plans) == 2
    assert "bfloat16 cached" in plans[0]


def test_what_other_processes_hold_is_not_at_hand(monkeypatch):
    card = torch.device("cuda", 0)
    total, others = 80 * 10**9, 30 * 10**9
    for own in (0, 16 * 10**9):  # before weights are loaded and after
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda device, own=own: (total - others - own, total)
        )
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device, own=own: own)
        assert card_budget(card) == int(0.94 * (total - others))
    assert card_budget(torch.device("cpu")) is None


def test_guidance_counts_three_tensors_of_logits(llada_8b):
    rows = (64,) * 16
    tensor = 16 * 512 * 126464 * 2
    softmax = 2 * 512 * 126464 * 8
    alone, guided = (plan(llada_8b, *rows, block_length=512, guided=g) for g in (False, True))
    assert alone.logit_bytes == tensor + softmax
    assert guided.logit_bytes == 3 * tensor
    long = [plan(llada_8b, 32800, guided=g) for g in (False, True)]
    assert long[0].peak_bytes + 32 * 126464 * 2 == long[1].peak_bytes


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_the_sampler_says_whether_it_guides(scale):
    server = PassServer(FastNetwork(MODELS["llada"]))
    config = SamplerConfig(generation_length=4, block_length=4, num_steps=1, cfg_scale=scale)
    sample(server, prompts_of((10,), seed=0), config, TOKENS, device="cpu")
    assert server.plan.guided == (scale > 0)


@pytest.fixture(scope="module")
def sdar_8b():
    with torch.device("meta"):
        network = SDARForMaskedDiffusion(SDARConfig())
    return NetworkSize.of(network, torch.bfloat16)


def prefix_plan(size, *lengths, cache="bfloat16", block_length=4, chunk=8192):
    return replace(plan(size, *lengths, cache=cache, block_length=block_length), prefix_chunk=chunk)


def test_activations_of_a_prefix_are_those_of_a_chunk(sdar_8b):
    """Which do not grow with the rows, but for the rotation's table."""
    short, long = (prefix_plan(sdar_8b, length) for length in (8192, 131072))
    table = 2 * 4 * 128
    assert long.activation_bytes - short.activation_bytes == table * (131072 - 8192)
    whole = plan(sdar_8b, 131072, cache="bfloat16", block_length=4)
    assert long.activation_bytes < whole.activation_bytes / 4
    assert long.pass_tokens == 8192
    assert whole.pass_tokens == 131072
    # A longer row takes what its keys and values take.
    keys_and_values = 2 * 36 * 8 * 128 * 2
    assert long.cache_bytes - short.cache_bytes == keys_and_values * (131072 - 8192)


def test_active_blocks_of_many_rows_are_more_than_a_chunk(sdar_8b):
    assert prefix_plan(sdar_8b, *[1000] * 16, block_length=32, chunk=256).pass_tokens == 16 * 64
    assert prefix_plan(sdar_8b, 100, block_length=32).pass_tokens == 100
    uncached = prefix_plan(sdar_8b, 131072, cache=None)
    assert uncached.activation_bytes == plan(sdar_8b, 131072, block_length=4).activation_bytes


def test_a_prefix_in_float8_counts_a_layer_made_16_bit_again(sdar_8b):
    half, whole = (
        prefix_plan(sdar_8b, 131072, cache=cache).activation_bytes
        for cache in ("float8", "bfloat16")
    )
    assert half - whole == 131072 * 8 * 128 * 12


def tiny_blocks():
    """A network with blocks of 3."""
    fields = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    config = SDARConfig(
        **fields, num_key_value_heads=1, intermediate_size=32, vocab_size=300, block_size=3,
        mask_token_id=299, eos_token_id=298,
    )  # fmt: skip
    return SDARForMaskedDiffusion(config).eval()


@pytest.mark.parametrize("cache", ["prefix", "none"])
def test_the_sampler_plans_a_block_causal_networks_chunks(cache):
    server = PassServer(FastNetwork(tiny_blocks()))
    tokens = SpecialTokens(mask_token_id=299, eos_token_id=298)
    asked = SamplerConfig(generation_length=4, block_length=None, cache=cache)
    sample(server, prompts_of((10,), seed=0), asked, tokens, device="cpu")
    assert server.plan.prefix_chunk == 8190, "whole blocks"
    assert server.plan.block_length == 3
    assert server.plan.pass_tokens == 15


def test_the_plan_before_weights_load_counts_chunks_too(monkeypatch):
    plans = []
    monkeypatch.setattr(masked_diffusion, "card_budget", lambda device: 10**9)
    monkeypatch.setattr(
        masked_diffusion, "check_plan", lambda plan, budget: plans.append(plan) or plan
    )
    asked = {"context_length": 100_000, "dtype": torch.bfloat16, "passes": PassOptions()}
    request = SimpleNamespace(device=None, sequence_parallel=1, **asked)
    network = tiny_blocks()
    settings = SamplerSettings({"generation_length": 6}).for_pattern(network.attention_pattern)
    masked_diffusion._plan_memory(request, network, settings)
    assert plans[0].pass_tokens == 8190


# Smaller chunks.


@pytest.fixture(scope="module")
def llada2_mini():
    """Sizes of the published network; its weights' number is that of test_experts.py."""
    fields = llada2_fields(
        num_hidden_layers=20, hidden_size=2048, intermediate_size=5120, moe_intermediate_size=512,
        num_experts=256, num_experts_per_tok=8, num_attention_heads=16, num_key_value_heads=4,
        head_dim=128, vocab_size=157184, n_group=8, topk_group=4,
    )  # fmt: skip
    del fields["auto_map"]
    with torch.device("meta"):
        network = LLaDA2MoeForMaskedDiffusion(LLaDA2MoeConfig.from_dict(fields))
    size = NetworkSize.of(network, torch.bfloat16)
    assert size.weight_bytes == 2 * 16_255_638_528
    return size


def expert_plan(size, *lengths, cache="bfloat16", chunk=EXPERT_CHUNK):
    asked = prefix_plan(size, *lengths, cache=cache, block_length=32, chunk=chunk)
    return replace(asked, mlp_chunk=chunk)


def chunks_of(plan):
    return plan.mlp_chunk, plan.prefix_chunk


def test_chunks_are_smaller_before_the_cache_is_given_up(llada2_mini):
    asked = expert_plan(llada2_mini, 32800)
    fitted = check_plan(asked, 34_600_000_000)
    assert fitted == replace(asked, mlp_chunk=8192, prefix_chunk=8192)
    said = "bfloat16 cached, MLP in chunks of 8192, prefix in chunks of 8192: about 34.5 GB"
    assert said in fitted.describe()


@pytest.mark.parametrize("chunk", [EXPERT_CHUNK, 16384, 8192, 4096, 1024])
def test_with_experts_both_chunks_are_as_large_as_fits(llada2_mini, chunk):
    asked = expert_plan(llada2_mini, 131104)
    fitting = expert_plan(llada2_mini, 131104, chunk=chunk)
    assert check_plan(asked, fitting.peak_bytes) == fitting
    rows = replace(asked, cache_dtype=None, prefix_chunk=None, row_lengths=(40_000,))
    fitted = check_plan(rows, replace(rows, mlp_chunk=chunk).peak_bytes)
    assert fitted.prefix_chunk is None
    assert fitted.mlp_chunk >= chunk


def test_a_dense_prefix_is_cut_after_the_mlp(sdar_8b):
    """As before, where 4,096 or 1,024 tokens of the MLP were enough."""
    wide = replace(sdar_8b, shape=replace(sdar_8b.shape, mlp_width=60_000))
    asked = prefix_plan(wide, 131104)
    steps = [(16384, 8192), (4096, 8192), (1024, 8192), (1024, 4096), (1024, 1024)]
    peaks = [replace(asked, mlp_chunk=m, prefix_chunk=p).peak_bytes for m, p in steps]
    assert len(set(peaks)) == len(steps), "each step is smaller"
    assert [chunks_of(check_plan(asked, peak)) for peak in peaks] == steps
    with pytest.raises(MemoryPlanError, match=r"Nearest plan.*dtype='float8'"):
        check_plan(asked, peaks[-1] - 1)


@pytest.mark.parametrize(
    ("block_length", "asked", "least"),
    # Two blocks are denoised at once, so that fewer tokens of a prefix would save nothing.
    [(48, 8160, 1008), (2048, 8192, 4096), (3000, 6000, 6000), (10_000, 10_000, 10_000), (4, 8, 8)],
)
def test_a_prefix_chunk_is_whole_blocks_and_none_above_what_was_asked(
    sdar_8b, block_length, asked, least
):
    size = replace(sdar_8b, shape=replace(sdar_8b.shape, vocabulary=1000))  # few logits
    plan = prefix_plan(size, 40_000, block_length=block_length, chunk=asked)
    smallest = replace(plan, mlp_chunk=1024, prefix_chunk=least)
    assert check_plan(plan, smallest.peak_bytes).prefix_chunk == least
    with pytest.raises(MemoryPlanError):
        check_plan(plan, smallest.peak_bytes - 1)


def test_the_nearest_plan_has_chunks_that_fit(llada2_mini):
    """And is told with the memory that it will take."""
    asked = expert_plan(llada2_mini, 32800)
    with pytest.raises(MemoryPlanError) as fault:
        check_plan(asked, 33_750_000_000)
    assert "Nearest plan that does: cache=dict(dtype='float8') (33.7 GB)." in str(fault.value)
    fitted = check_plan(replace(asked, cache_dtype="float8"), 33_750_000_000)
    assert chunks_of(fitted) == (4096, 4096)
    assert "chunks of 32768, prefix in chunks of 32768: about 36.1 GB" in str(fault.value)


def test_the_longest_row_is_one_that_is_taken(llada2_mini):
    asked = expert_plan(llada2_mini, 131104)
    budget = expert_plan(llada2_mini, 65536, chunk=1024).peak_bytes
    assert longest_row(asked, budget) == 65536
    assert longest_row(asked, budget - 1) == 65536 - 1024


def test_where_nothing_is_cached_no_prefix_is_told(sdar_8b):
    assert "prefix" not in prefix_plan(sdar_8b, 100, cache=None).describe()
    assert "prefix" not in plan(sdar_8b, 100, cache="bfloat16").describe()
