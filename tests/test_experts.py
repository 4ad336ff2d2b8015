"""Mixtures of experts against loops over experts: LLaDA2's and LLaDA-MoE's networks and routers."""

from __future__ import annotations

import json
import math
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_dream import EOS_ID, MASK_ID
from tiny_experts import (
    IDS,
    llada2_fields,
    tiny_llada2,
    tiny_llada_moe,
    write_tiny_llada2,
    write_tiny_llada_moe,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opencompass_llada.families import find_family
from opencompass_llada.inference import FastNetwork, MemoryPlan, NetworkSize, PassServer
from opencompass_llada.networks import (
    CheckpointError,
    LLaDA2MoeConfig,
    LLaDA2MoeForMaskedDiffusion,
    LLaDAMoEConfig,
    load_checkpoint,
    read_model_config,
)
from opencompass_llada.networks.attention_pattern import FULL, Blocks
from opencompass_llada.networks.experts import (
    ExpertDimensions,
    Stacked,
    memory_of,
    route,
    run_experts,
)
from opencompass_llada.sampling import SamplerConfig, SpecialTokens, sample
from opencompass_llada.wrapper import LLaDACausalLM

PUBLISHED = Path(__file__).parents[1] / "../shared/data/published/LLaDA2.0-mini/config.json"
TOKENS = SpecialTokens(mask_token_id=MASK_ID, eos_token_id=EOS_ID)
MODELS = {
    "llada2": tiny_llada2(),
    "llada2 without shared experts": tiny_llada2(seed=1, num_shared_experts=None),
    "llada2, all layers sparse": tiny_llada2(seed=2, first_k_dense_replace=0),
    "llada2, one expert a token": tiny_llada2(seed=3, num_experts_per_tok=1),
    "llada_moe": tiny_llada_moe(),
    "llada_moe as published": tiny_llada_moe(
        seed=1,
        shared_expert_intermediate_size=None,
        moe_layer_freq=[1, 1, 1],
        moe_router_enable_expert_bias=False,
    ),
}
each_model = pytest.mark.parametrize("name", sorted(MODELS))


def norm(x, scale, eps):
    return scale * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def mlp(w, prefix, h):
    gate, up, down = (w[f"{prefix}.{part}_proj.weight"].T for part in ("gate", "up", "down"))
    return (F.silu(h @ gate) * (h @ up)) @ down


def turn(x_HLD, theta, share):
    """Rotate the first channels of each head, pair by pair of their two halves."""
    size = int(x_HLD.shape[-1] * share)
    out = x_HLD.clone()
    for i in range(size // 2):
        angle = torch.arange(x_HLD.shape[1]) * theta ** (-2 * i / size)
        a, b = x_HLD[..., i], x_HLD[..., i + size // 2]
        out[..., i] = a * angle.cos() - b * angle.sin()
        out[..., i + size // 2] = b * angle.cos() + a * angle.sin()
    return out


def attention(config, w, layer, h, block):
    """Return one layer's attention, head by head; all see all where there is no block."""
    size, heads, groups = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    if isinstance(config, LLaDA2MoeConfig):
        names = ("attention.query_layernorm", "attention.key_layernorm", "attention.dense")
        qkv = h @ w[f"{layer}.attention.query_key_value.weight"].T
        q, k, v = qkv.split([heads * size, groups * size, groups * size], dim=-1)
    else:
        names = ("self_attn.q_norm", "self_attn.k_norm", "self_attn.o_proj")
        q, k, v = (h @ w[f"{layer}.self_attn.{part}_proj.weight"].T for part in "qkv")
    q_norm, k_norm, out = (w[f"{layer}.{name}.weight"] for name in names)
    q, k, v = (x.view(len(h), -1, size).transpose(0, 1) for x in (q, k, v))
    share, eps = config.partial_rotary_factor, config.rms_norm_eps
    q = turn(norm(q, q_norm, eps), config.rope_theta, share)
    k = turn(norm(k, k_norm, eps), config.rope_theta, share)
    found = []
    for head in range(heads):
        group = head * groups // heads
        scores = q[head] @ k[group].T / math.sqrt(size)
        if block is not None:
            places = torch.arange(len(h)) // block
            scores = scores.masked_fill(places[:, None] < places[None], -torch.inf)
        found.append(scores.softmax(-1) @ v[group])
    return torch.cat(found, dim=-1) @ out.T


def choose(config, w, layer, h):
    """Return one token's experts and their weights, by the published rules written out."""
    logits = (h @ w[f"{layer}.mlp.gate.weight"].T).tolist()
    number, most = config.num_experts, config.num_experts_per_tok
    if isinstance(config, LLaDAMoEConfig):
        shares = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
        if config.moe_router_enable_expert_bias:
            bias = w[f"{layer}.mlp.expert_bias"].tolist()
            shares = [share + own for share, own in zip(shares, bias, strict=True)]
        best = sorted(range(number), key=lambda e: -shares[e])[:most]
        return {e: shares[e] for e in best}
    scores = [1 / (1 + math.exp(-x)) for x in logits]
    biased = [
        s + b for s, b in zip(scores, w[f"{layer}.mlp.gate.expert_bias"].tolist(), strict=True)
    ]
    size = number // config.n_group
    groups = [range(g * size, (g + 1) * size) for g in range(config.n_group)]
    groups.sort(key=lambda group: -sum(sorted((biased[e] for e in group), reverse=True)[:2]))
    allowed = [e for group in groups[: config.topk_group] for e in group]
    best = sorted(allowed, key=lambda e: -biased[e])[:most]
    total = sum(scores[e] for e in best) if most > 1 else 1.0
    return {e: config.routed_scaling_factor * scores[e] / total for e in best}


def naive_logits(model, ids_L, block):
    """Run a network token by token and expert by expert, in float64."""
    config = model.config
    w = {name: weight.double() for name, weight in model.state_dict().items()}
    two = isinstance(config, LLaDA2MoeConfig)
    x = w["model.word_embeddings.weight" if two else "model.embed_tokens.weight"][ids_L]
    for index in range(config.num_hidden_layers):
        layer, eps = f"model.layers.{index}", config.rms_norm_eps
        h = norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        x = x + attention(config, w, layer, h, block)
        h = norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps)
        if f"{layer}.mlp.gate.weight" not in w:
            x = x + mlp(w, f"{layer}.mlp", h)
            continue
        shared = f"{layer}.mlp.shared_experts" if two else f"{layer}.shared_expert"
        added = mlp(w, shared, h) if f"{shared}.up_proj.weight" in w else torch.zeros_like(h)
        for place, own in enumerate(h):
            for expert, weight in choose(config, w, layer, own).items():
                added[place] += weight * mlp(w, f"{layer}.mlp.experts.{expert}", own)
        x = x + added
    return norm(x, w["model.norm.weight"], config.rms_norm_eps) @ w["lm_head.weight"].T


@each_model
def test_logits_equal_those_of_a_loop_over_experts(name):
    model = MODELS[name]
    ids_L = torch.randint(0, 250, (70,), generator=torch.Generator().manual_seed(7))
    is_blocked = isinstance(model.config, LLaDA2MoeConfig)
    assert model.attention_pattern == (Blocks(32) if is_blocked else FULL)
    expected = naive_logits(model, ids_L, 32 if is_blocked else None).float()
    assert expected.std() > 0.5, "flat logits would make the comparison vacuous"
    torch.testing.assert_close(model(ids_L[None]).logits[0], expected, rtol=1e-5, atol=1e-5)
    places = torch.tensor([[3, 41, 40]])
    some = model(ids_L[None], logit_positions=places).logits
    torch.testing.assert_close(some[0], expected[places[0]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pack", [False, True])
@each_model
def test_fast_passes_equal_plain_ones(name, pack):
    model, lengths = MODELS[name], (70, 33)
    ids = torch.randint(0, 250, (2, 70), generator=torch.Generator().manual_seed(8))
    positions = torch.tensor([[3, 69, 40], [32, 0, 31]])
    expected = model(ids, torch.tensor(lengths), positions).logits
    server = PassServer(FastNetwork(model, pack_weights=pack, mlp_chunk=13))
    session = server.open(lengths, block_length=3, cache_dtype=None, passes=1)
    fast = session.full_pass(ids, positions, keep=False)
    torch.testing.assert_close(fast, expected, rtol=1e-5, atol=1e-5)
    again = model(ids, torch.tensor(lengths), positions).logits
    torch.testing.assert_close(again, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in sorted(MODELS) if "llada2" in name])
def test_generation_with_the_cache_equals_generation_without(name):
    # Fewer steps than tokens and a low threshold, so that steps reveal different numbers.
    family = find_family({"model_type": "llada2_moe"}, "", None)
    options = {**family.sampler_defaults, "acceptance": {"type": "threshold", "value": 0.2}}
    generator = torch.Generator().manual_seed(9)
    prompts = [torch.randint(0, 250, (n,), generator=generator).tolist() for n in (64, 40, 5)]
    server = PassServer(FastNetwork(MODELS[name]))
    found = {}
    for cache in ("none", "prefix"):
        config = SamplerConfig(generation_length=40, num_steps=32, cache=cache, **options)
        together = sample(server, prompts, config, TOKENS, device="cpu").token_ids
        alone = [sample(server, [p], config, TOKENS, device="cpu").token_ids[0] for p in prompts]
        assert together == alone
        found[cache] = together
    assert found["none"] == found["prefix"]
    assert len({token for ids in found["none"] for token in ids}) > 5, "answers must vary"


RULE = ExpertDimensions(
    number=6, per_token=2, width=8, shared_width=0, sparse_layers=(True,), score="sigmoid"
)


def test_groups_and_bias_choose_the_experts_and_scores_weigh_them():
    scores = torch.tensor([[0.9, 0.1, 0.5, 0.6, 0.2, 0.7]])
    bias = torch.tensor([0.0, 0.0, 0.3, 0.0, 0.0, 0.0])
    logits = scores.logit()
    # Of pairs (0.9, 0.1), (0.8, 0.6), (0.2, 0.7) the middle one sums highest: 1.4.
    grouped = replace(RULE, num_groups=3, groups_used=1, normalised=True, scale=2.0)
    chosen, weights = route(logits, bias, grouped)
    assert chosen.tolist() == [[2, 3]]
    torch.testing.assert_close(weights, 2 * torch.tensor([[0.5, 0.6]]) / 1.1)
    chosen, weights = route(logits, bias, RULE)
    assert chosen.tolist() == [[0, 2]]
    torch.testing.assert_close(weights, torch.tensor([[0.9, 0.5]]))
    chosen, weights = route(logits, bias, replace(RULE, weighs_bias=True))
    torch.testing.assert_close(weights, torch.tensor([[0.9, 0.8]]))
    chosen, weights = route(logits, None, replace(RULE, score="softmax"))
    assert chosen.tolist() == [[0, 5]]
    torch.testing.assert_close(weights, logits.softmax(-1)[:, [0, 5]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_routing_gives_the_sum_over_experts(dtype):
    generator = torch.Generator().manual_seed(3)
    gate, up, down = (torch.randn(6, 8, 8, generator=generator) * 0.4 for _ in range(3))
    h = torch.randn(5, 8, generator=generator)
    # One expert gets every token, and two get none.
    chosen = torch.tensor([[0, 5], [5, 1], [5, 2], [0, 5], [2, 5]])
    weights = torch.rand(5, 2, generator=generator)
    low = [x.to(dtype) for x in (gate, up, down, h)]
    stacked = Stacked(torch.cat(low[:2], 1), low[2])
    found = run_experts(low[3], chosen, weights, stacked)
    gate, up, down, h = (x.double() for x in low)
    expected = torch.zeros(5, 8, dtype=torch.float64)
    for token in range(5):
        for expert, weight in zip(chosen[token], weights[token], strict=True):
            inner = F.silu(gate[expert] @ h[token]) * (up[expert] @ h[token])
            expected[token] += weight * (down[expert] @ inner)
    assert found.dtype == dtype
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.01}
    torch.testing.assert_close(found.double(), expected, **close)


@each_model
def test_bfloat16_stays_near_float32(name):
    model = load_like(MODELS[name]).to(torch.bfloat16)
    h = torch.randn(40, 32, generator=torch.Generator().manual_seed(5)).bfloat16()
    sparse = [block.parts.sparse for block in model.blocks if block.parts.sparse is not None]
    assert sparse
    for each in sparse:
        low, high = each(h), each.float()(h.float())
        error = (low.float() - high).norm() / high.norm()
        assert error < 0.02, "rounding, and no other expert"


def load_like(model):
    other = type(model)(model.config)
    other.load_state_dict(model.state_dict())
    return other


@each_model
def test_gradients_reach_every_expert_that_a_token_used(name):
    model = load_like(MODELS[name])
    sparse = next(b.parts.sparse for b in model.blocks if b.parts.sparse is not None)
    sparse.requires_grad_(True)
    h = torch.randn(9, 32, generator=torch.Generator().manual_seed(6), requires_grad=True)
    target = torch.randn(9, 32, generator=torch.Generator().manual_seed(4))
    (sparse(h) * target).sum().backward()
    weights = {n: p.detach().clone().requires_grad_(True) for n, p in sparse.named_parameters()}
    own = h.detach().clone().requires_grad_(True)
    bias = None if sparse.rule.bias is None else sparse.get_buffer(sparse.rule.bias)
    chosen, shares = route(own @ weights["gate.weight"].T, bias, sparse.rule)
    total = 0.0
    for token in range(len(own)):
        for expert, share in zip(chosen[token].tolist(), shares[token], strict=True):
            total = total + share * mlp(weights, f"experts.{expert}", own[token]) @ target[token]
    total.backward()
    torch.testing.assert_close(h.grad, own.grad, rtol=1e-4, atol=1e-5)
    used = set(chosen.flatten().tolist())
    for part, parameter in sparse.named_parameters():
        expected = weights[part].grad
        if part.startswith("shared_experts"):
            continue  # the block's own
        assert parameter.grad is not None
        if expected is None:
            assert int(part.split(".")[1]) not in used
            expected = torch.zeros_like(parameter)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)


def test_stacking_takes_no_second_copy():
    model = load_like(MODELS["llada2"]).requires_grad_(False)
    sparse = model.blocks[1].parts.sparse
    first, second = sparse.stacked(), sparse.stacked()
    assert [x.data_ptr() for x in first] == [x.data_ptr() for x in second]
    up = first.gate_up_EGM[3, sparse.rule.width :]
    assert sparse.experts[3].up_proj.weight.data_ptr() == up.data_ptr()


def test_adapters_on_experts_must_be_merged():
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(load_like(MODELS["llada2"]), LoraConfig(target_modules=["up_proj"]))
    with pytest.raises(ValueError, match="merge the adapter into the weights first"):
        FastNetwork(wrapped.get_base_model())


class CountBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside, and the most at a time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak = {}, 0

    def __torch_dispatch__(self, operator, kinds, args=(), kwargs=None):
        """Run an operator and count what it makes."""

        def storages(values):
            found = (x for x in tree_leaves(values) if torch.is_tensor(x))
            return {x.untyped_storage()._cdata: x.untyped_storage() for x in found}

        before, out = storages((args, kwargs)), operator(*args, **(kwargs or {}))
        for key, storage in storages(out).items():
            if key not in before and key not in self.live:
                self.live[key] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, key, None)
        self.peak = max(self.peak, sum(self.live.values()))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "inner"), [(256, 64), (32, 128)])
def test_the_plan_counts_what_experts_take(dtype, width, inner):
    rule = replace(RULE, number=4, per_token=3, width=inner)
    shapes = (4, 2 * inner, width), (4, width, inner), (500, width)
    *stacked, h = (torch.randn(shape).to(dtype) for shape in shapes)
    chosen, weights = route(torch.randn(500, 4), None, rule)
    with torch.inference_mode(), CountBytes() as counted:
        run_experts(h, chosen, weights, Stacked(*stacked))
    planned = 500 * memory_of(rule, width, dtype.itemsize)
    assert counted.peak == pytest.approx(planned, rel=0.05)
    size = NetworkSize.of(MODELS["llada2"], dtype)
    plan = MemoryPlan(size=size, row_lengths=(500,), block_length=32, cache_dtype=None)
    # The residual stream and the MLP's input; its output waits for the shared expert's.
    per_token = 3 * 32 * dtype.itemsize + memory_of(size.shape.experts, 32, dtype.itemsize)
    assert plan.activation_bytes == 500 * per_token + 2 * 4 * 16 * 500


def test_a_prefix_is_run_in_the_chunks_that_fit(monkeypatch):
    ids = torch.randint(0, 250, (1, 2432), generator=torch.Generator().manual_seed(2))
    server, tokens = PassServer(FastNetwork(MODELS["llada2"]), memory_budget=2**40), []
    run = server.network.run_layers
    monkeypatch.setattr(
        server.network, "run_layers", lambda x, *rest: tokens.append(len(x)) or run(x, *rest)
    )
    for _ in range(2):
        session = server.open([2464], block_length=32, cache_dtype="bfloat16", passes=1)
        session.prefill(ids, [2432])
        asked, least = server.plan, replace(server.plan, mlp_chunk=1024, prefix_chunk=1024)
        server.budget = least.peak_bytes
    assert asked == least
    assert server.network.mlp_chunk == 1024
    assert tokens == [2432, 1024, 1024, 384]


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published config.json is not here")
def test_the_published_config_makes_the_published_network():
    fields = read_model_config(PUBLISHED.parent)
    assert fields["model_type"] == "llada2_moe"
    config = LLaDA2MoeConfig.from_dict({k: v for k, v in fields.items() if k != "auto_map"})
    with torch.device("meta"):
        network = LLaDA2MoeForMaskedDiffusion(config)
    assert sum(p.numel() for p in network.parameters()) == 16_255_638_528
    assert config.shape.rotated_dim == 64
    sparse = "model.layers.19.mlp"
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items() if sparse in name}
    assert shapes[f"{sparse}.gate.expert_bias"] == (256,)
    assert shapes[f"{sparse}.experts.255.down_proj.weight"] == (2048, 512)
    assert shapes[f"{sparse}.shared_experts.gate_proj.weight"] == (512, 2048)
    assert len(shapes) == 2 + 3 * 257


def test_a_yarn_of_config_json_is_obeyed():
    scaling = {"type": "yarn", "factor": 2.0}
    model = tiny_llada2(rope_scaling=scaling, max_position_embeddings=32)
    assert model.resolved_rope.longest_context == 64
    # arXiv 2309.00071, over the 8 channels that turn; the first pair turns 5.1 times in 32 tokens.
    bounds = [8 * math.log(32 / (n * 2 * math.pi)) / (2 * math.log(10000)) for n in (32, 1)]
    low, high = max(math.floor(bounds[0]), 0), min(math.ceil(bounds[1]), 7)
    ramp = ((torch.arange(4) - low) / (high - low)).clamp(0, 1)
    plain = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    expected = plain / 2 * ramp + plain * (1 - ramp)
    torch.testing.assert_close(model.resolved_rope.inverse_frequencies_D, expected)
    assert model.resolved_rope.attention_factor == pytest.approx(0.1 * math.log(2) + 1)


def test_merged_experts_load_as_their_own(tmp_path):
    apart = write_tiny_llada2(tmp_path / "apart")
    merged = write_tiny_llada2(tmp_path / "merged", merged=True)
    ids = torch.arange(40)[None]
    logits = [load_checkpoint(p, dtype=torch.float32)(ids).logits for p in (apart, merged)]
    torch.testing.assert_close(*logits, rtol=0, atol=0)
    odd = json.loads((merged / "config.json").read_text()) | {"num_experts": 16}
    (merged / "config.json").write_text(json.dumps(odd))
    with pytest.raises(CheckpointError, match=r"extra: model.layers.1.mlp.experts.down_proj"):
        load_checkpoint(merged)


def test_an_architecture_is_none_of_an_unknown_type(tmp_path):
    path = write_tiny_llada_moe(tmp_path / "moe", model_type="sedd")
    assert read_model_config(path)["model_type"] == "sedd"


@pytest.mark.parametrize("kind", ["lladamoe", "llada_moe", "llada"])
def test_llada_moe_is_known_by_its_names(tmp_path, kind):
    path = write_tiny_llada_moe(tmp_path / "moe", model_type=kind)
    assert read_model_config(path)["model_type"] == "llada_moe"
    model = LLaDACausalLM(str(path), dtype="float32", sampler={"block_length": 4, "num_steps": 4})
    assert model.engine.special_tokens == SpecialTokens(**IDS, eot_token_id=None)
    assert len(model.engine.generate([[5, 6, 7]], max_new_tokens=4)[0].token_ids) == 4


def test_llada2_samples_as_published(tmp_path):
    model = LLaDACausalLM(str(write_tiny_llada2(tmp_path / "two")), dtype="float32")
    config = model.engine.settings.for_length(64)
    assert (config.block_length, config.plan().steps_per_block) == (32, 32)
    assert (config.temperature, config.remasking) == (0.0, "low_confidence")
    assert (config.acceptance.type, config.acceptance.value) == ("threshold", 0.95)
    assert config.cache.type == "prefix"
    prompt = list(range(10, 50))
    answer = model.engine.generate([prompt], max_new_tokens=20)[0]
    plain = SamplerConfig(generation_length=20, cache="none", acceptance=config.acceptance)
    expected = sample(model.engine.server, [prompt], plain, TOKENS, device="cpu")
    assert answer.token_ids == expected.token_ids[0]


def test_ids_that_published_files_leave_out_are_their_samplers(tmp_path):
    fields = {k: v for k, v in llada2_fields(vocab_size=157184).items() if k not in IDS}
    LLaDA2MoeConfig.check_fields(fields)
    config = LLaDA2MoeConfig(**fields)
    assert (config.mask_token_id, config.eos_token_id) == (156895, 156892)
    path = write_tiny_llada2(tmp_path / "two")
    own = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({k: v for k, v in own.items() if k not in IDS}))
    with pytest.raises(ValueError, match=r"mask_token_id=156895 must be in 0 .. vocab_size-1=263"):
        LLaDACausalLM(str(path))


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (LLaDAMoEConfig, {"clip_qkv": 8.0}, "clip_qkv=8.0 is not implemented"),
        (LLaDAMoEConfig, {"qk_layernorm": False}, "qk_layernorm=False is not implemented"),
        (
            LLaDAMoEConfig,
            {"moe_router_score_function": "sigmoid"},
            "moe_router_score_function='sigmoid' is not implemented; .* 'softmax'",
        ),
        (
            LLaDAMoEConfig,
            {"num_hidden_layers": 2},
            "a 0 or a 1 for each of the num_hidden_layers=2",
        ),
        (LLaDA2MoeConfig, {"use_qk_norm": False}, "use_qk_norm=False is not implemented"),
        (LLaDA2MoeConfig, {"num_experts": 10}, "num_experts=10 must be a multiple of n_group=4"),
        (LLaDA2MoeConfig, {"num_experts": 4}, "num_experts=4 .* twice as much at least"),
        (LLaDA2MoeConfig, {"topk_group": 5}, "topk_group=5 must be at most 4"),
        (LLaDA2MoeConfig, {"num_experts_per_tok": 5}, "num_experts_per_tok=5 must be at most 4"),
        (
            LLaDA2MoeConfig,
            {"moe_intermediate_size": 20},
            "moe_intermediate_size=20 must be a multiple of 8",
        ),
    ],
)
def test_what_is_not_computed_is_refused(config, fields, message):
    from tiny_experts import llada_moe_fields

    own = llada2_fields if config is LLaDA2MoeConfig else llada_moe_fields
    with pytest.raises(ValueError, match=message):
        config(**own(**fields))


@pytest.mark.parametrize("field", ["n_group", "routed_scaling_factor", "partial_rotary_factor"])
def test_what_config_json_leaves_out_is_no_guess(field):
    fields = {k: v for k, v in llada2_fields().items() if k not in (field, "auto_map")}
    with pytest.raises(CheckpointError, match=f"has no {field}"):
        LLaDA2MoeConfig.from_dict(fields)
