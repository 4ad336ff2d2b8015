"""Float8 products, float8 attention and sparse full passes, by their plain forms on the CPU."""

from __future__ import annotations

import functools
import gc
import importlib.util
import logging
import math
import os
import subprocess
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from test_fast_exact import TOKENS, prompts_of
from tiny import tiny_model, write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_dream import tiny_dream
from tiny_experts import llada2_fields, tiny_llada2
from tiny_sdar import tiny_sdar

from opencompass_llada.inference import (
    FastNetwork,
    MemoryPlan,
    NetworkSize,
    PassOptions,
    PassServer,
    PrefillOptions,
    float8,
    quantise_network,
)
from opencompass_llada.inference.elementwise import PlainElementwise
from opencompass_llada.inference.float8 import Float8Linear
from opencompass_llada.inference.prefill import (
    KEY_TILE,
    QUERY_TILE,
    attend_float8,
    attend_plainly,
    choose_tiles,
    describe,
    prefill_bytes,
    sparse_share,
)
from opencompass_llada.inference.tilings import SMALL_PRODUCT
from opencompass_llada.networks import (
    LLaDA2MoeConfig,
    LLaDA2MoeForMaskedDiffusion,
    LLaDAConfig,
    LLaDAForMaskedDiffusion,
)
from opencompass_llada.runs.checks import check_options
from opencompass_llada.runs.makers import list_differences
from opencompass_llada.sampling import CacheOptions, SamplerConfig, sample
from opencompass_llada.wrapper import LLaDACausalLM

DATA_SET = {
    "abbr": "vt",
    "type": "opencompass_llada.benchmarks.ruler.dataset.RulerDataset",
    "task": "vt",
    "length": 512,
}
SIZES = {"d_model": 64, "n_heads": 2, "mlp_hidden_size": 96, "n_layers": 2}
SPARSE = PrefillOptions(type="sparse", keep=0.5, dense_tail=64, near=1, shortest=1)


def heads(*numbers, length=1000, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, number, size, generator=generator) for number in numbers]


def exact_attention(q, k, v, mask=None):
    rows = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(*rows, attn_mask=mask, enable_gqa=True)
    return out[0].transpose(0, 1)


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_float8_attention_is_near_the_exact_one_whatever_the_keys_mean_is():
    q, k, v = heads(4, 2, 2)
    exact = exact_attention(q, k, v)
    assert 0.01 < error(attend_float8(q, k, v), exact) < 0.07
    # A mean of the keys moves all scores of a query alike.
    moved = attend_float8(q, k + 5.0, v)
    torch.testing.assert_close(moved, attend_float8(q, k, v), rtol=1e-3, atol=1e-3)


def test_listed_tiles_are_those_that_are_seen():
    q, k, v = heads(4, 2, 2)
    queries, count = sparse_share(SPARSE, 1000)
    assert (queries, count) == (7 * QUERY_TILE, 8)
    tiles = choose_tiles(q[:queries], k, count, SPARSE)
    assert tiles.shape == (4, 7, 8)
    assert (tiles.diff(dim=-1) > 0).all(), "ascending, none twice"
    seen = torch.zeros(4, queries, 16, dtype=torch.bool)
    seen.scatter_(2, tiles.long().repeat_interleave(QUERY_TILE, dim=1), True)
    mask = seen.repeat_interleave(KEY_TILE, dim=-1)[..., :1000]
    assert 0.4 < mask.float().mean() < 0.6
    exact = exact_attention(q[:queries], k, v, mask)
    found = attend_float8(q[:queries], k, v, tiles)
    assert error(found, exact) < 0.07
    assert error(found, exact_attention(q[:queries], k, v)) > 0.3, "the mask matters"
    whole = attend_float8(q, k, v, tiles)
    # Another number of queries has other scales.
    assert error(whole[queries:], exact_attention(q[queries:], k, v)) < 0.07, "the rest sees all"
    assert error(whole[:queries], exact) < 0.07
    every = torch.arange(16, dtype=torch.int32).expand(4, 7, 16)
    assert torch.equal(attend_plainly(q[:queries], k, v, every), attend_plainly(q, k, v)[:queries])


def test_tiles_that_matter_and_those_at_fixed_places_are_chosen():
    q, k, _ = (x * 0.1 for x in heads(1, 1, 1, length=40 * KEY_TILE))
    options = PrefillOptions(type="sparse", keep=0.3, dense_tail=64, near=1, shortest=1)
    queries, count = sparse_share(options, len(q))
    direction = torch.ones(32)
    q[3 * QUERY_TILE : 4 * QUERY_TILE] += direction  # a tile of queries that asks for one of keys
    k[20 * KEY_TILE : 21 * KEY_TILE] += direction
    tiles = choose_tiles(q[:queries], k, count, options)[0]
    assert 20 in tiles[3]
    for place, own in enumerate(tiles.tolist()):
        always = {0, 38, 39, *range(max(0, 2 * place - 1), min(40, 2 * place + 3))}
        assert always <= set(own), place


@pytest.mark.parametrize("tail", [1, 63, 64, 65, 100, 127, 128])
def test_all_queries_see_the_keys_of_the_tail_however_it_lies_in_the_tiles(tail):
    options = PrefillOptions(type="sparse", keep=0.01, dense_tail=tail, near=0, shortest=1)
    for length in range(20 * KEY_TILE, 21 * KEY_TILE, 9):
        q, k, _ = heads(1, 1, 1, length=length)
        queries, count = sparse_share(options, length)
        assert 0 < queries <= length - tail
        assert length - tail - queries < QUERY_TILE
        last = set(range((length - tail) // KEY_TILE, math.ceil(length / KEY_TILE)))
        for seen in choose_tiles(q[:queries], k, count, options)[0].tolist():
            assert last <= set(seen), (length, seen)


def test_a_mean_that_all_keys_share_does_not_change_which_tiles_are_chosen():
    """As biases of keys are, which in 16 bit are larger than what tells tiles apart."""
    q, k, _ = heads(2, 1, 1, length=40 * KEY_TILE)
    q, k = q.bfloat16() + 1.0, (k * 8).round() / 8  # adding the mean rounds nothing
    options = PrefillOptions(type="sparse", keep=0.3, dense_tail=64, near=1, shortest=1)
    queries, count = sparse_share(options, len(q))
    expected = choose_tiles(q[:queries].float(), k, count, options).flatten(0, 1)
    moved = choose_tiles(q[:queries], (k + 8.0).bfloat16(), count, options).flatten(0, 1)
    pairs = zip(moved.tolist(), expected.tolist(), strict=True)
    assert sum(len({*own} & {*other}) for own, other in pairs) > 0.99 * expected.numel()


def test_tiles_are_the_same_whether_all_heads_are_chosen_for_at_once_or_some(monkeypatch):
    q, k, _ = heads(6, 2, 2)
    queries, count = sparse_share(SPARSE, 1000)
    whole = choose_tiles(q[:queries], k, count, SPARSE)
    for most in (1, 7 * 16 * 4):
        monkeypatch.setattr("opencompass_llada.inference.prefill._SCORES_AT_ONCE", most)
        assert torch.equal(choose_tiles(q[:queries], k, count, SPARSE), whole)


@pytest.mark.parametrize(("keep", "length"), [(1.0, 1000), (0.3, 300), (0.3, 64)])
def test_where_nothing_is_left_out_all_keys_are_seen(keep, length):
    options = PrefillOptions(type="sparse", keep=keep, shortest=1)
    assert sparse_share(options, length) == (0, math.ceil(length / KEY_TILE))
    assert "0.0 %" in describe(options, length)
    shape = tiny_model(**SIZES).config.shape
    of_all_keys = prefill_bytes(PrefillOptions(type="float8", shortest=1), shape, [length])
    assert prefill_bytes(options, shape, [length]) == of_all_keys > 0


def test_the_log_says_what_is_left_out():
    options = PrefillOptions(type="sparse", keep=0.25, dense_tail=512)
    assert describe(options, 16384) == (
        "Full passes of 16384 tokens: attention in float8; 15872 queries see 64 of 256 tiles of 64 "
        "keys, the last 512 all: 72.7 % of the products are left out"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "spares"}, "Did you mean 'sparse'"),
        ({"keep": 0.5}, "keep=0.5 has no effect with type='exact'"),
        ({"type": "float8", "near": 2}, "near=2 has no effect with type='float8'"),
        ({"type": "sparse", "keep": 0.0}, "keep=0.0 must be above 0 and at most 1"),
        ({"type": "sparse", "dense_tail": 0}, "dense_tail=0 must be 1 or more"),
    ],
)
def test_options_without_effect_or_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LLaDACausalLM.check_arguments("asset:tiny-llada", prefill=options)


@pytest.fixture
def quantised():
    model = tiny_model(**SIZES, seed=4)
    quantise_network(model)
    return model


def test_float8_products_are_those_of_the_rounded_numbers(quantised):
    linear = tiny_model(**SIZES, seed=4).blocks[0].parts.down
    own = quantised.blocks[0].parts.down
    x = torch.randn(SMALL_PRODUCT + 1, 96, generator=torch.Generator().manual_seed(1))
    weights = own.weight.float() * own.scales[:, None]
    assert error(weights, linear.weight) < 0.04
    scales = x.abs().amax(-1, keepdim=True) / 448
    rounded = (x / scales).to(torch.float8_e4m3fn).float() * scales
    torch.testing.assert_close(own(x), rounded @ weights.T, rtol=1e-4, atol=1e-5)
    assert 0.001 < error(own(x), linear(x)) < 0.06
    torch.testing.assert_close(own(x[:1]), own(x)[:1], rtol=1e-4, atol=1e-5)
    # Inputs of small passes are not rounded, be there a few rows or many.
    small = own.multiply(x, is_small=True)
    torch.testing.assert_close(small, x @ weights.T, rtol=1e-4, atol=1e-5)
    assert error(small, linear(x)) < 0.9 * error(own(x), linear(x))
    out = torch.empty_like(small)
    own.multiply(x, out, is_small=True)
    assert torch.equal(out, small)


INTERPRETED = """
import torch

from opencompass_llada.inference.elementwise import PlainElementwise
from opencompass_llada.inference.float8 import no_arrivals, product
from opencompass_llada.inference.kv_cache import FLOAT8, quantise
from opencompass_llada.inference.tilings import SMALL_PRODUCT
from opencompass_llada.inference.triton import float8, small_products
from opencompass_llada.inference.triton.elementwise import FusedElementwise
from opencompass_llada.networks.transformer import RMSNorm

torch.manual_seed(0)
for num_processors in (1, 6):  # what is split is split in 2 and 4
    small_products._processors = lambda device: num_processors
    for num_tokens in (1, 20, SMALL_PRODUCT):
        for channels, inputs, has_bias in ((272, 1536, True), (128, 2048, False), (80, 96, True)):
            x = torch.randn(num_tokens, 2 * inputs)[:, :inputs]
            weight, scales = quantise(torch.randn(channels, inputs))
            given = (x, weight, scales, torch.randn(channels) if has_bias else None)
            arrivals = no_arrivals(weight)
            for _ in range(2):
                found = small_products.multiply_few(*given, arrivals, tiling=(64, 128))
                expected = product(*given, arrivals, is_small=True)
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
                assert not arrivals.any()

fused, plain = FusedElementwise(), PlainElementwise()
x, delta, gate, up = torch.randn(4, 5, 96).unbind()
norm = RMSNorm(96, 1e-5).requires_grad_(False)
norm.weight.normal_()
pairs = [(ops.add_norm_rows(x.clone(), delta, norm)[1], ops.gate_rows(gate, up))
         for ops in (fused, plain)]
for own, other in zip(*pairs):
    torch.testing.assert_close(own.scales_T, other.scales_T)
    # The interpreter rounds to float8 otherwise than cards and PyTorch do.
    values, expected = own.values_TK.float(), other.values_TK.float()
    assert (values - expected).norm() / expected.norm() < 0.1

# What attention rounds its inputs by, of more keys than one program reads, and of fewer queries.
q, (k, v) = torch.randn(70, 4, 16), torch.randn(2, 1100, 2, 16) + 3
k = torch.cat([k, k], 1)[:, 2:]  # tokens of a wider row
found, mean = float8.measure(q, k, v), k.mean(0)
torch.testing.assert_close(found.mean_GD, mean)
for own, x in ((found.scale_q_H, q), (found.scale_k_G, k - mean), (found.scale_v_G, v)):
    torch.testing.assert_close(own, x.abs().amax((0, 2)) / 448)
# What is beyond the tokens becomes 0.
for transposed in (False, True):
    rows = float8.quantise_heads(q, None, found.scale_q_H, transposed=transposed).float()
    rows = rows.transpose(1, 2) if transposed else rows
    assert rows.shape == (4, 128, 16) and not rows[:, 70:].any() and rows[:, :70].any()

# Heads of a very long row lie apart by more than 32 bits count; what is between is never touched.
apart, x, scales = 2**30, torch.randn(64, 3, 16), torch.full((3,), 0.01)
rows = torch.empty(2 * apart + 64 * 16, dtype=torch.uint8).view(FLOAT8)
float8._heads_kernel[(1, 3)](x, scales, scales, rows, 64, x.stride(0), apart, TRANSPOSED=False,
                             CENTRED=False, SIZE=16, BLOCK=64)
for head in range(3):
    values = rows[head * apart :][: 64 * 16].float().view(64, 16) * 0.01
    assert (values - x[:, head]).norm() / x[:, head].norm() < 0.1
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_float8_kernels_give_the_plain_results_in_tritons_interpreter(repository_root):
    paths = os.pathsep.join([str(repository_root), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("pack", [False, True])
def test_fast_passes_over_float8_weights_are_the_plain_networks(quantised, pack):
    config = SamplerConfig(generation_length=8, block_length=4)
    prompts = prompts_of((30, 17), seed=2)
    plain = [
        sample(quantised.logits_at, [own], config, TOKENS, device="cpu").token_ids[0]
        for own in prompts
    ]
    network = FastNetwork(quantised, pack_weights=pack)
    assert sample(PassServer(network), prompts, config, TOKENS, device="cpu").token_ids == plain
    kept = SamplerConfig(
        generation_length=8, block_length=4, cache=CacheOptions(type="prompt", refresh=1)
    )
    assert sample(PassServer(network), prompts, kept, TOKENS, device="cpu").token_ids == plain
    if pack:
        parts = quantised.blocks[0].parts
        stores = {x.weight.untyped_storage().data_ptr() for x in (parts.query, parts.value)}
        assert len(stores) == 1


def test_what_float8_products_give_does_not_depend_on_the_rows_beside_a_row():
    """Four rows of 8 tokens a pass are fewer than a small pass's; twelve are more."""
    config = SamplerConfig(
        generation_length=16, block_length=8, cache=CacheOptions(type="prompt", refresh=3)
    )
    model = tiny_model(**SIZES, seed=4)
    quantise_network(model)
    server = PassServer(FastNetwork(model))
    prompts = prompts_of(tuple(range(3, 15)), seed=2)
    assert sum(map(len, prompts[:1])) + 16 < SMALL_PRODUCT < 12 * 8
    alone = [sample(server, [own], config, TOKENS, device="cpu").token_ids[0] for own in prompts]
    assert sample(server, prompts, config, TOKENS, device="cpu").token_ids == alone
    ids = torch.randint(0, 250, (12, 20), generator=torch.Generator().manual_seed(8))
    together = model(ids).logits
    torch.testing.assert_close(together[:1], model(ids[:1]).logits, rtol=1e-4, atol=1e-5)


def test_batches_change_no_answer_and_no_score_of_a_model_in_float8():
    texts = [f"The river runs past {n} mills and {'a bridge of stone ' * n}" for n in range(1, 6)]

    def run(batch_size):
        model = LLaDACausalLM(
            "asset:tiny-llada",
            precision="float8",
            max_out_len=16,
            batch_size=batch_size,
            sampler={"block_length": 16, "num_steps": 8, "cache": "prompt"},
            likelihood={"num_draws": 8, "batch_size": batch_size},
        )
        return model.generate(texts), model.get_ppl(texts)

    (answers, losses), (others, other_losses) = run(1), run(8)
    assert answers == others
    assert abs(losses - other_losses).max() < 1e-4


class Adapted(torch.nn.Linear):
    """Stands for what is no plain linear layer, and so is not quantised."""


def adapted():
    model = tiny_model(**SIZES, seed=4)
    model.blocks[0].replace_part("up", Adapted(64, 96, bias=False))
    return model


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("make", "norms", "chunks"),
    [
        (functools.partial(tiny_model, **SIZES, seed=4), 3, 4),
        (tiny_dream, 3, 4),
        (tiny_llada2, 4, 3),
        (adapted, 2, 1),
    ],
    ids=["llada", "dream", "llada2", "adapted"],
)
def test_norms_and_gate_give_what_float8_products_round_to(make, norms, chunks, pack, monkeypatch):
    """But for experts, what is not quantised, and the last layer's queries that are wanted."""
    model = make()
    quantise_network(model)
    calls = dict.fromkeys(("add_norm_rows", "gate_rows"), 0)

    def count(name, call):
        def counted(*given):
            calls[name] += 1
            return call(*given)

        monkeypatch.setattr(PlainElementwise, name, counted)

    for name in calls:
        count(name, getattr(PlainElementwise, name))
    lengths = (120, 90)  # 210 tokens: three chunks
    ids = torch.randint(0, 250, (2, 120), generator=torch.Generator().manual_seed(8))
    positions = torch.tensor([[3, 119, 40], [89, 0, 31]])
    expected = model(ids, torch.tensor(lengths), positions).logits
    assert calls == {"add_norm_rows": 0, "gate_rows": 0}
    server = PassServer(FastNetwork(model, pack_weights=pack, mlp_chunk=100))
    session = server.open(lengths, block_length=3, cache_dtype=None, passes=1)
    found = session.full_pass(ids, positions, keep=False)
    assert error(found, expected) < 1e-5
    assert calls == {"add_norm_rows": norms, "gate_rows": chunks}


def test_a_plan_counts_float8_states_beside_what_the_mlp_writes():
    with torch.device("meta"):
        network = LLaDAForMaskedDiffusion(LLaDAConfig(n_kv_heads=1))  # attention takes little
    sizes = [
        NetworkSize.of(network, torch.bfloat16, precision=precision)
        for precision in (None, "float8")
    ]
    for tokens, added in ((16384, 0), (65536, 65536 * (4096 + 4) - 16384 * 12288)):
        plans = [
            MemoryPlan(size=size, row_lengths=(tokens,), block_length=32, cache_dtype=None)
            for size in sizes
        ]
        assert plans[1].activation_bytes - plans[0].activation_bytes == added


@pytest.mark.parametrize("num_dense", [0, 1])
def test_a_plan_counts_float8_states_of_dense_layers_beside_those_with_experts(num_dense):
    """Their MLP takes them as that of a network without experts does; experts never do."""
    sizes = {"hidden_size": 2048, "num_attention_heads": 1, "num_key_value_heads": 1}
    fields = llada2_fields(**sizes, head_dim=128, first_k_dense_replace=num_dense)
    with torch.device("meta"):
        network = LLaDA2MoeForMaskedDiffusion(LLaDA2MoeConfig(**fields))
    size = NetworkSize.of(network, torch.bfloat16, precision="float8")
    assert size.takes_rows is bool(num_dense)
    tokens, chunk = 262144, 1024
    plan = MemoryPlan(
        size=size, row_lengths=(tokens,), block_length=32, cache_dtype=None, mlp_chunk=chunk
    )
    mlp = tokens * (2 * 2048 * 2 + 2048 + 4) + chunk * 48 * (2 * 2 + 1)
    attention = tokens * (2 * 2048 + 2 * 128 * 2) * 2
    assert plan.activation_bytes == (mlp if num_dense else attention) + 2 * 4 * 128 * tokens


def test_a_plan_counts_what_weights_will_take(quantised):
    planned = NetworkSize.of(tiny_model(**SIZES), torch.bfloat16, precision="float8")
    held = 0
    for module in quantised.modules():
        for parameter in module.parameters(recurse=False):
            is_own = isinstance(module, Float8Linear)
            held += parameter.numel() * (parameter.itemsize if is_own else 2)
    assert planned.weight_bytes == held
    assert NetworkSize.of(quantised, torch.bfloat16).weight_bytes == held
    assert held < NetworkSize.of(tiny_model(**SIZES), torch.bfloat16).weight_bytes


def test_a_card_without_float8_is_named(monkeypatch):
    monkeypatch.setattr(float8, "float8_obstacle", lambda device: "A100 has compute capability 8.0")
    with pytest.raises(ValueError, match=r"A100 .* capability 8.0. Cards of compute capability"):
        quantise_network(tiny_model(**SIZES))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"multiples of 16, got \[40\]"):
        quantise_network(tiny_model(d_model=64, n_heads=2, mlp_hidden_size=40, n_layers=1))


@pytest.mark.parametrize(
    ("keywords", "setting"),
    [
        ({"precision": "float8"}, "precision='float8'"),
        ({"prefill": {"type": "sparse"}}, "prefill type='sparse'"),
        ({"sampler": {"cache": {"type": "prompt", "dtype": "float8"}}}, "cache dtype='float8'"),
        ({"sampler": "fast"}, "cache dtype='float8'"),
    ],
)
def test_a_card_without_float8_is_named_before_weights_load(keywords, setting, monkeypatch):
    def load(*given, **options):
        raise AssertionError("weights load")

    monkeypatch.setattr("opencompass_llada.engines.masked_diffusion.load_checkpoint", load)
    monkeypatch.setattr(float8, "kernels_fit", lambda device, head_dim: None)
    monkeypatch.setattr(float8, "float8_obstacle", lambda device: "A100 has compute capability 8.0")
    with pytest.raises(ValueError, match=f"{setting} cannot be had, because A100 .* 8.0"):
        LLaDACausalLM("asset:tiny-llada", **keywords)
    if "sampler" in keywords:  # plain PyTorch converts float8 on every card
        monkeypatch.setattr(float8, "kernels_fit", lambda device, head_dim: "no Triton")
        with pytest.raises(AssertionError, match="weights load"):
            LLaDACausalLM("asset:tiny-llada", **keywords)


@pytest.mark.parametrize(
    ("head_dim", "message"), [(16, "head size 16 is less than 32"), (48, "size 48 is no power")]
)
def test_heads_that_float8_attention_does_not_take_are_named(head_dim, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(float8, "float8_obstacle", lambda device: None)
    shape = tiny_model(d_model=4 * head_dim, n_heads=4).config.shape
    float8.check_attention("prefill", shape, torch.device("cpu"))
    cuda = torch.device("cuda")
    float8.check_attention("prefill", tiny_model(d_model=64, n_heads=2).config.shape, cuda)
    with pytest.raises(ValueError, match=f"prefill cannot be had, because .* {message}"):
        float8.check_attention("prefill", shape, cuda)


def test_sizes_that_float8_products_do_not_take_are_named_before_a_run(tmp_path):
    path = write_tiny_checkpoint(tmp_path / "odd", mlp_hidden_size=40)
    model = {
        "type": LLaDACausalLM,
        "abbr": "odd",
        "path": str(path),
        "max_out_len": 8,
        "precision": "float8",
    }
    with pytest.raises(ValueError, match=r"precision='float8' .* multiples of 16, got \[40\]"):
        check_options({"models": [model], "datasets": [DATA_SET]}, runs_locally=True)


def test_full_passes_are_sparse_where_rows_are_long_enough():
    model = tiny_model(**SIZES, seed=5)
    prompts = prompts_of((900,), seed=3)
    config = SamplerConfig(generation_length=4, block_length=4)

    def logits(prefill):
        server = PassServer(FastNetwork(model), prefill=prefill)
        session = server.open([904], block_length=4, cache_dtype=None, passes=1)
        ids = torch.tensor([prompts[0] + [0] * 4])
        return session.full_pass(ids, torch.tensor([[900, 901]]), keep=False)

    exact, sparse = logits(None), logits(SPARSE)
    assert not torch.equal(exact, sparse)
    assert error(sparse, exact) < 0.5
    short = PrefillOptions(type="sparse", keep=0.5, shortest=905)
    assert torch.equal(logits(short), exact)
    every = PrefillOptions(type="sparse", keep=1.0, shortest=1)
    assert torch.equal(logits(every), logits(PrefillOptions(type="float8", shortest=1)))
    sample(PassServer(FastNetwork(model), prefill=SPARSE), prompts, config, TOKENS, device="cpu")


@pytest.mark.parametrize(
    "prefill",
    [
        PrefillOptions(type="float8", shortest=300),
        PrefillOptions(type="sparse", keep=0.3, dense_tail=64, near=1, shortest=300),
    ],
    ids=["float8", "sparse"],
)
@pytest.mark.parametrize("lengths", [(900, 290), (120, 300, 900, 17)])
def test_each_row_of_a_batch_is_computed_as_if_it_were_alone(prefill, lengths, caplog):
    caplog.set_level(logging.INFO)
    model = tiny_model(**SIZES, seed=5)
    prompts = prompts_of(lengths, seed=3)

    def logits(rows, options):
        """Return the logits of four masks after each prompt, [rows, 4, V]."""
        server = PassServer(FastNetwork(model), prefill=options)
        wide = max(map(len, rows)) + 4
        ids = torch.tensor([row + [TOKENS.mask_token_id] * (wide - len(row)) for row in rows])
        wanted = torch.tensor([[len(row) + place for place in range(4)] for row in rows])
        cut = [len(row) + 4 for row in rows]
        session = server.open(cut, block_length=4, cache_dtype=None, passes=1)
        return session.full_pass(ids, wanted, keep=False)

    together, exact = logits(prompts, prefill), logits(prompts, None)
    said = "rows of fewer than 300 tokens (prefill shortest) are exact"
    assert caplog.text.count(said) == 1
    for row, (prompt, found) in enumerate(zip(prompts, together, strict=True)):
        alone = logits([prompt], prefill)[0]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)
        is_exact = len(prompt) + 4 < 300
        assert torch.allclose(found, exact[row], rtol=1e-5, atol=1e-5) == is_exact


def test_answers_of_a_batch_with_short_rows_are_those_of_its_rows_alone():
    model = tiny_model(**SIZES, seed=5)
    prompts = prompts_of((700, 120, 400), seed=6)
    config = SamplerConfig(generation_length=8, block_length=4, cache=CacheOptions(type="prompt"))

    def answers(rows, prefill):
        server = PassServer(FastNetwork(model), prefill=prefill)
        return sample(server, rows, config, TOKENS, device="cpu").token_ids

    prefill = PrefillOptions(type="float8", shortest=300)
    alone = [answers([prompt], prefill)[0] for prompt in prompts]
    assert answers(prompts, prefill) == alone
    exact = answers(prompts, None)
    assert alone[1] == exact[1]
    assert alone != exact, "the long rows must differ, else nothing was shown"


def test_other_networks_and_scoring_refuse_what_has_no_effect(tmp_path):
    llama = str(write_llama_checkpoint(tmp_path / "llama"))
    with pytest.raises(ValueError, match="precision and prefill say how .* is autoregressive"):
        LLaDACausalLM(llama, precision="float8", prefill={"type": "float8"})
    with pytest.raises(ValueError, match="prefill type='sparse' is for networks in which all"):
        LLaDACausalLM("asset:tiny-block", prefill={"type": "sparse"})
    model = LLaDACausalLM("asset:tiny-llada", prefill={"type": "float8"})
    with pytest.raises(ValueError, match="no effect where texts are scored"):
        model.get_ppl(["a text"])
    with pytest.raises(ValueError, match="Did you mean 'float8'"):
        LLaDACausalLM.check_arguments("asset:tiny-llada", precision="float16")


def test_block_causal_networks_take_float8_products():
    model = tiny_sdar()
    config = SamplerConfig(generation_length=8, block_length=4, cache=CacheOptions(type="prefix"))
    quantise_network(model)
    server = PassServer(FastNetwork(model))
    output = sample(server, prompts_of((12,), seed=1), config, TOKENS, device="cpu")
    assert len(output.token_ids[0]) == 8


def test_an_answer_longer_than_the_tail_is_refused_before_weights_load():
    model = {
        "type": LLaDACausalLM,
        "abbr": "sparse",
        "path": "asset:tiny-llada",
        "max_out_len": 128,
        "prefill": {"type": "sparse", "dense_tail": 100},
    }
    message = r"generation_length=128 is more than the prefill dense_tail=100 tokens"
    with pytest.raises(ValueError, match=message):
        check_options({"models": [model], "datasets": [DATA_SET]}, runs_locally=True)


def test_answers_of_earlier_versions_are_those_of_exact_passes():
    earlier = {"options": {"add_bos": False}}

    def now(passes):
        return {"options": {"add_bos": False, "passes": passes}}

    exact = {"precision": None, "prefill": vars(PrefillOptions())}
    assert list_differences(earlier, now(exact)) == []
    assert list_differences(earlier, now({**exact, "precision": "float8"})) == ["options.passes"]
    assert PassOptions().given == []


@pytest.mark.parametrize("options", [{}, {"type": "float8", "shortest": 1},
                                     {"type": "float8", "shortest": 100}])  # fmt: skip
def test_a_session_that_ends_gives_its_cache_back_at_once(options):
    """The next one is planned as if it had; Python's collector may come much later."""
    server = PassServer(FastNetwork(tiny_model(**SIZES)), prefill=PrefillOptions(**options))
    ids, where = torch.randint(0, 250, (2, 130)), torch.tensor([[40], [120]])
    gc.disable()
    try:
        session = server.open([50, 130], block_length=8, cache_dtype="float32", passes=1)
        session.full_pass(ids, where, keep=False)
        session.full_pass(ids, where, keep=True)
        held = weakref.ref(session), weakref.ref(session._cache)
        del session
        server.release()
        assert [own() for own in held] == [None, None]
    finally:
        gc.enable()
