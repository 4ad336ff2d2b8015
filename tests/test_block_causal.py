"""Block-causal attention, cache and sampler: against the mask, a naive sampler, and each other."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import pytest
import torch
from naive_block_sampler import naive_block_generate

from opencompass_llada.engines import SamplerSettings
from opencompass_llada.inference import FastNetwork, PassServer, block_attention, session
from opencompass_llada.networks import SDARConfig, SDARForMaskedDiffusion
from opencompass_llada.networks.attention_pattern import FULL, Blocks
from opencompass_llada.sampling import SamplerConfig, SpecialTokens, sample
from opencompass_llada.sampling.unmasking import SDAR_RULES

VOCABULARY = 60
TOKENS = SpecialTokens(mask_token_id=59, eos_token_id=58, eot_token_id=57)
DYNAMIC = {"acceptance": {"type": "threshold", "value": 0.3}}
#: The published strategies in our options, and the bound that the naive sampler is given.
STRATEGIES = {
    "low_confidence_static": ({"remasking": "maskgit_plus"}, 0.0),
    "low_confidence_dynamic": ({"remasking": "maskgit_plus", **DYNAMIC}, 0.3),
    "sequential": ({"remasking": "sequential"}, 0.0),
    "entropy_bounded": (
        {"remasking": "maskgit_plus", "acceptance": {"type": "token_entropy_bound", "value": 0.7}},
        0.7,
    ),
}


@functools.cache
def network(block_length, seed=0):
    """A random network with SDAR's fields, whose predictions are neither flat nor sure."""
    torch.manual_seed(seed)
    config = SDARConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=VOCABULARY, max_position_embeddings=256,
        rope_theta=1e4, block_size=block_length, mask_token_id=TOKENS.mask_token_id,
        eos_token_id=TOKENS.eos_token_id,
    )  # fmt: skip
    model = SDARForMaskedDiffusion(config).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(std=0.35 if weight.ndim > 1 else 0.1).add_(weight.ndim == 1)
    return model


def full_logits(model):
    return lambda ids: model(torch.tensor([ids])).logits[0].double().tolist()


def prompts_of(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 57, (n,), generator=generator).tolist() for n in lengths]


def generate(model, prompts, config, **options):
    return sample(PassServer(FastNetwork(model)), prompts, config, TOKENS, device="cpu", **options)


def config_of(block_length, generation_length, steps_per_block, **options):
    """Steps of the whole generation, as the sampler takes them."""
    options = {"cache": "prefix", "schedule": "even", **options}
    return SamplerConfig(
        generation_length=generation_length,
        block_length=block_length,
        num_steps=-(-generation_length // block_length) * steps_per_block,
        **options,
    )


def assert_as_naive_alone_and_uncached(model, prompts, config, naive, seeds=None):
    """Cached and ragged, cached and alone, uncached: the same ids and passes."""
    found = generate(model, prompts, config, seeds=seeds)
    expected = [
        naive(full_logits(model), prompt, seed=0 if seeds is None else seeds[row])
        for row, prompt in enumerate(prompts)
    ]
    assert found.token_ids == [ids for ids, _ in expected]
    assert found.passes_per_prompt == [passes for _, passes in expected]
    for row, prompt in enumerate(prompts):
        alone = generate(
            model, [prompt], config, seeds=None if seeds is None else seeds[row : row + 1]
        )
        assert alone.token_ids[0] == found.token_ids[row]
        assert alone.num_forward_passes == found.passes_per_prompt[row]
    without = SamplerConfig(**{**vars(config), "cache": "none"})
    assert generate(model, prompts, without, seeds=seeds).token_ids == found.token_ids
    return found


# Attention of chunks.


@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize(("num_before", "num_queries"), [(0, 16), (16, 16), (48, 32)])
@pytest.mark.parametrize("block_length", [1, 4, 16])
def test_attention_of_whole_blocks_equals_attention_under_the_mask(
    block_length, num_before, num_queries, num_groups
):
    torch.manual_seed(0)
    length = num_before + num_queries
    q, k, v = (
        torch.randn(n, h, 16)
        for n, h in zip((num_queries, length, length), (4, num_groups, num_groups), strict=True)
    )
    blocks = torch.arange(length) // block_length
    mask = blocks <= blocks[num_before:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=mask, enable_gqa=True
    )[0].transpose(0, 1)
    found = block_attention.attend_blocks(q, k, v, block_length)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_large_scores_neither_overflow_nor_leave_nan():
    torch.manual_seed(0)
    q, k, v = (torch.randn(8, 2, 16) * scale for scale in (300, 300, 1))
    mask = Blocks(4).mask(8)
    rows = [x.transpose(0, 1)[None] for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*rows, attn_mask=mask)
    found = block_attention.attend_blocks(q, k, v, 4)
    torch.testing.assert_close(found.transpose(0, 1)[None], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kernel", [None, "flash", "efficient"])
def test_every_cuda_kernel_gives_the_attention_under_the_mask(kernel, dtype, monkeypatch):
    if kernel == "flash" and dtype == torch.float32:
        pytest.skip("flash takes 16 bit alone")
    if kernel is not None:
        monkeypatch.setattr(block_attention, "_cuda_kernel", lambda *heads: kernel)
    torch.manual_seed(0)
    q, k, v = (torch.randn(n, h, 128, device="cuda") for n, h in ((200, 8), (320, 2), (320, 2)))
    expected = block_attention.attend_blocks(q.cpu(), k.cpu(), v.cpu(), 8)
    found = block_attention.attend_blocks(*(x.to(dtype) for x in (q, k, v)), 8)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(found.float().cpu(), expected, atol=tolerance, rtol=tolerance)


def test_in_float32_the_kernels_of_16_bit_are_not_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(block_attention, "_run", lambda kernel, *_, **options: asked.append(kernel))
    assert block_attention._cuda_kernel(torch.device("cpu"), torch.float32, 4, 2, 40) == "efficient"
    assert asked == ["efficient"]


def test_what_a_kernel_refuses_the_next_one_does_and_the_log_says_why(monkeypatch, caplog):
    def run(kernel, *inputs, is_causal):
        if kernel == "cudnn":
            raise RuntimeError("no execution plan\nand a trace")

    monkeypatch.setattr(block_attention, "_run", run)
    caplog.set_level("INFO", logger="opencompass_llada")
    heads = (torch.device("cpu"), torch.bfloat16, 4, 2, 24)
    for _ in range(2):
        assert block_attention._cuda_kernel(*heads) == "flash"
    assert [record.getMessage() for record in caplog.records] == [
        "Attention of block-causal chunks by kernel flash on cpu; cudnn refuses: no execution plan"
    ]


# Prefill in chunks.


@pytest.mark.parametrize("chunk", [1, 8, 12, 10_000])
def test_chunks_leave_the_keys_and_values_of_a_full_pass(chunk, monkeypatch):
    monkeypatch.setattr(session, "PREFILL_CHUNK", chunk)
    model, lengths = network(4), (24, 8, 21, 3)
    rows = prompts_of(*lengths)
    ids = torch.tensor([row + [0] * (24 - len(row)) for row in rows])
    server = PassServer(FastNetwork(model))
    caches = []
    for is_chunked in (False, True):
        opened = server.open(lengths, block_length=4, cache_dtype="bfloat16", passes=1)
        for layer in opened._cache.layers:
            layer.keys_SGD.fill_(torch.nan)
            layer.values_SGD.fill_(torch.nan)
        if is_chunked:
            opened.prefill(ids, [24, 8, 20, 0])
        else:
            opened.full_pass(ids, torch.zeros((4, 1), dtype=torch.int64), keep=True)
        caches.append(
            [torch.cat(layer.read(0, 56, torch.float32), -1) for layer in opened._cache.layers]
        )
    # Rows begin at slots 0, 24, 32 and 53; the third one's last token is in no whole block.
    whole = torch.cat([torch.arange(24), torch.arange(24, 32), torch.arange(32, 52)])
    for full, chunked in zip(*caches, strict=True):
        torch.testing.assert_close(chunked[whole], full[whole], atol=1e-5, rtol=1e-5)
        assert chunked[52:].isnan().all()


def test_a_prefix_is_run_in_the_chunks_of_its_plan(monkeypatch, caplog):
    caplog.set_level("INFO", logger="opencompass_llada")
    model, (row,) = network(4), prompts_of(2400)
    ids, caches, tokens = torch.tensor([row]), [], []

    def prefill(budget):
        server = PassServer(FastNetwork(model), memory_budget=budget)
        run = server.network.run_layers
        monkeypatch.setattr(
            server.network, "run_layers", lambda x, *rest: tokens.append(len(x)) or run(x, *rest)
        )
        opened = server.open([2402], block_length=4, cache_dtype="bfloat16", passes=1)
        opened.prefill(ids, [2400])
        caches.append(torch.cat([opened.cached(layer, 2400)[0] for layer in range(2)]))
        return server.plan

    asked = prefill(2**40)
    assert (asked.mlp_chunk, asked.prefix_chunk) == (16384, 8192)
    least = replace(asked, mlp_chunk=1024, prefix_chunk=1024)
    assert prefill(least.peak_bytes) == least
    assert tokens == [2400, 1024, 1024, 352]
    torch.testing.assert_close(*caches, atol=1e-5, rtol=1e-5)
    plans = [r.getMessage() for r in caplog.records if "Memory plan" in r.getMessage()]
    assert ["prefix in chunks of 1024" in text for text in plans] == [False, True]


def test_a_finished_blocks_keys_and_values_are_those_of_the_finished_row():
    model, server = network(4), PassServer(FastNetwork(network(4)))
    (row,) = prompts_of(12)
    noisy = torch.tensor([row[:8] + [TOKENS.mask_token_id] * 4])
    opened = server.open([16], block_length=4, cache_dtype="bfloat16", passes=1)
    opened.prefill(noisy, [8])
    asked = torch.arange(8, 12)[None]
    logits = opened.partial_pass(noisy, [8], 4, asked)
    torch.testing.assert_close(logits, model(noisy).logits[:, 8:], atol=1e-5, rtol=1e-5)
    later = torch.tensor([row + [TOKENS.mask_token_id] * 4])
    logits = opened.partial_pass(later, [12], 4, asked + 4, finished=[8])
    torch.testing.assert_close(logits, model(later).logits[:, 12:], atol=1e-5, rtol=1e-5)
    later[0, 12] = 7
    logits = opened.partial_pass(later, [12], 4, asked + 4)
    torch.testing.assert_close(logits, model(later).logits[:, 12:], atol=1e-5, rtol=1e-5)


# The published samplers.


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("block_length", "steps"), [(4, 4), (4, 2), (1, 1), (8, 8), (16, 5)])
def test_published_rules_token_for_token(block_length, steps, strategy, monkeypatch):
    if strategy == "entropy_bounded" and steps < block_length:
        steps = block_length  # else the published loop may leave masks
    monkeypatch.setattr(session, "PREFILL_CHUNK", 8)
    options, bound = STRATEGIES[strategy]
    # A border, behind it, before it, and shorter than a block.
    lengths = (
        2 * block_length,
        2 * block_length + 1,
        4 * block_length - 1,
        max(block_length - 1, 1),
    )
    generation_length = 2 * block_length + 1
    naive = functools.partial(
        naive_block_generate, generation_length=generation_length, block_length=block_length,
        steps_per_block=steps, mask_id=TOKENS.mask_token_id, strategy=strategy, bound=bound,
    )  # fmt: skip
    config = config_of(block_length, generation_length, steps, **options)
    found = assert_as_naive_alone_and_uncached(
        network(block_length), prompts_of(*lengths), config, naive
    )
    assert len(set(found.passes_per_prompt)) > 1 or block_length == 1
    most = (3 + (block_length > 1)) * (steps + 1)
    if "acceptance" in options and block_length > 1:
        assert max(found.passes_per_prompt) < most, "several at a step, or nothing was shown"


def test_llada2s_sampler_token_for_token():
    """Block 32, 32 steps, temperature 0, threshold 0.95: its ``generate``'s own defaults."""
    naive = functools.partial(
        naive_block_generate, generation_length=40, block_length=32, steps_per_block=32,
        mask_id=TOKENS.mask_token_id, strategy="low_confidence_dynamic", bound=0.95,
    )  # fmt: skip
    config = config_of(
        32, 40, 32, remasking="low_confidence", acceptance={"type": "threshold", "value": 0.95}
    )
    assert_as_naive_alone_and_uncached(network(32, seed=2), prompts_of(37, 5), config, naive)


@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.8}], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_published_rules_with_the_same_random_draws(strategy, filters):
    options, bound = STRATEGIES[strategy]
    naive = functools.partial(
        naive_block_generate, generation_length=10, block_length=4, steps_per_block=4,
        mask_id=TOKENS.mask_token_id, strategy=strategy, bound=bound, temperature=0.9, **filters,
    )  # fmt: skip
    config = config_of(4, 10, 4, temperature=0.9, **options, **filters)
    prompts, seeds = prompts_of(8, 9, 3), [11, 12, 13]
    drawn = assert_as_naive_alone_and_uncached(network(4), prompts, config, naive, seeds)
    greedy = generate(network(4), prompts, config_of(4, 10, 4, **options))
    assert drawn.token_ids != greedy.token_ids, "the draws must matter"


def test_a_mask_id_in_a_prompt_stays_and_is_not_denoised():
    model, mask = network(4), TOKENS.mask_token_id
    prompts = [[1, 2, mask, 4, mask], [3, mask]]
    config = config_of(4, 6, 4, remasking="sequential")
    ids = generate(model, prompts, config).token_ids
    row = list(prompts[0])
    while len(row) < 11:
        block_end = -(-(len(row) + 1) // 4) * 4
        logits = full_logits(model)(row + [mask] * (block_end - len(row)))[len(row)]
        row.append(max(range(VOCABULARY), key=logits.__getitem__))
    assert ids[0] == row[5:]


# Early stop, float8, what does not fit.


def test_early_stop_gives_the_same_answers_alone_and_in_a_batch():
    model = network(4, seed=1)
    prompts = prompts_of(8, 6, 3, 13, seed=5)
    options = {"remasking": "low_confidence", "acceptance": {"type": "threshold", "value": 0.3}}
    whole = generate(model, prompts, config_of(4, 20, 4, **options))
    # Ids that these answers hold are made the ends, so that some rows end early, and others do not.
    ends = SpecialTokens(
        mask_token_id=TOKENS.mask_token_id,
        eos_token_id=whole.token_ids[0][5],
        eot_token_id=whole.token_ids[2][9],
    )
    early = config_of(4, 20, 4, **options, early_stop=True)
    server = PassServer(FastNetwork(model))
    stops = {"is_complete": lambda ids: whole.token_ids[3][7] in ids}
    found = sample(server, prompts, early, ends, device="cpu", **stops)
    alone = [sample(server, [p], early, ends, device="cpu", **stops) for p in prompts]
    assert found.token_ids == [output.token_ids[0] for output in alone]
    assert found.passes_per_prompt == [output.num_forward_passes for output in alone]
    for ids, full in zip(found.token_ids, whole.token_ids, strict=True):
        kept = next((i for i, token in enumerate(full) if token in ends.end_token_ids), 20)
        same = next((i for i in range(20) if ids[i] != full[i]), 20)
        assert same >= kept or set(ids[same:]) == {ends.eos_token_id}
    assert sum(found.passes_per_prompt) < sum(whole.passes_per_prompt)
    uncached = config_of(4, 20, 4, **options, early_stop=True, cache="none")
    assert (
        sample(server, prompts, uncached, ends, device="cpu", **stops).token_ids == found.token_ids
    )


def test_float8_runs_and_is_approximate():
    model, prompts = network(4), prompts_of(40, 22)
    errors = []
    for dtype in ("bfloat16", "float8"):
        server = PassServer(FastNetwork(model))
        opened = server.open([44, 24], block_length=4, cache_dtype=dtype, passes=1)
        ids = torch.tensor([row + [59] * (44 - len(row)) for row in prompts])
        opened.prefill(ids, [40, 20])
        asked = torch.tensor([[40, 41], [22, 23]])
        found = opened.partial_pass(ids, [40, 20], 4, asked)
        lengths = torch.tensor([44, 24])
        exact = model(ids, lengths).logits.gather(1, asked[..., None].expand(-1, -1, VOCABULARY))
        errors.append(((found - exact).norm() / exact.norm()).item())
    assert errors[0] < 1e-5
    assert 1e-4 < errors[1] < 0.2
    config = config_of(4, 9, 4, cache={"type": "prefix", "dtype": "float8"})
    output = generate(model, prompts, config)
    assert [len(ids) for ids in output.token_ids] == [9, 9]


def test_a_plain_call_takes_its_pattern_from_an_attribute():
    class Call:
        causal_block = 4

        def __call__(self, ids, positions, lengths):
            return network(4).logits_at(ids, positions, lengths)

    prompts, config = prompts_of(8, 6, 3), config_of(4, 6, 4, cache="none")
    found = sample(Call(), prompts, config, TOKENS, device="cpu")
    assert found.token_ids == generate(network(4), prompts, config).token_ids
    with pytest.raises(ValueError, match="cache='prefix' needs a model that keeps keys and values"):
        sample(Call(), prompts, config_of(4, 6, 4), TOKENS, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_length": 8}, r"block_length=8 differs from the 4 tokens.*attention_block=8"),
        ({"cache": "dual"}, "cache='dual' approximates what .* has exactly; use cache='prefix'"),
        ({"cache": "prompt"}, "cache='prompt' approximates"),
    ],
)
def test_what_does_not_fit_a_block_causal_network_is_an_error(options, message):
    config = SamplerConfig(**{"generation_length": 8, "block_length": 4, **options})
    with pytest.raises(ValueError, match=message):
        generate(network(4), prompts_of(8), config)


def test_the_prefix_cache_is_refused_where_all_see_all_and_takes_no_refresh():
    model = network(4, seed=3)
    pattern, model.attention_pattern = model.attention_pattern, FULL
    config = SamplerConfig(generation_length=8, block_length=4, cache="prefix")
    with pytest.raises(ValueError, match="every token changes with every other; use cache='none'"):
        generate(model, prompts_of(8), config)
    model.attention_pattern = pattern
    with pytest.raises(ValueError, match="refresh='block' has no effect with type='prefix'"):
        SamplerConfig(cache={"type": "prefix", "refresh": "block"})
    with pytest.raises(ValueError, match="cfg_scale=1.0 runs every step"):
        SamplerConfig(cache="prefix", cfg_scale=1.0)


def test_blocks_are_the_networks_where_none_are_given():
    prompts = prompts_of(8, 3)
    config = SamplerConfig(generation_length=8, block_length=None, cache="prefix")
    given = SamplerConfig(generation_length=8, block_length=4, cache="prefix")
    assert generate(network(4), prompts, config) == generate(network(4), prompts, given)


@pytest.mark.parametrize("name", SDAR_RULES)
def test_a_published_rules_name_is_answered_with_what_to_write(name, repository_root):
    """SDAR's are several options here, so that its names are none of ours, but for one."""
    for option in ("remasking", "acceptance"):
        if (option, name) == ("remasking", "sequential"):
            continue
        with pytest.raises(ValueError, match=re.escape(f"{name!r} is {SDAR_RULES[name]} here.")):
            SamplerConfig(**{option: name})
    written = SamplerConfig(**eval(f"dict({SDAR_RULES[name]})"))
    options, bound = STRATEGIES[name]
    assert written.remasking == options["remasking"]
    assert (written.acceptance.value is None) == (bound == 0)
    assert written.resolved_schedule == "even"
    docs = (repository_root / "docs/reference/sampler_names.md").read_text()
    [row] = [line for line in docs.splitlines() if line.startswith(f"| SDAR `{name}` |")]
    assert "acceptance=" + SDAR_RULES[name].partition("acceptance=")[2] in row


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("remasking_strategy", "It is remasking here, with acceptance"),
        ("confidence_threshold", r"It is acceptance=dict\(type='threshold', value="),
        ("threshold", r"It is acceptance=dict\(type='threshold', value="),
        ("denoising_steps", "counts the steps of a block, and num_steps those of the whole"),
        ("small_block_size", "It is sub_block_length here"),
    ],
)
def test_a_published_option_is_answered_with_ours(option, message):
    with pytest.raises(ValueError, match=rf"Unknown sampler option '{option}'\. .*{message}"):
        SamplerSettings({option: 4})


def test_published_values_for_no_filter_are_none_here():
    for options in ({"top_k": 0}, {"top_p": 1.0}):
        with pytest.raises(ValueError, match="use None to (draw from all|leave it out)"):
            SamplerSettings({"temperature": 1.0, **options})
