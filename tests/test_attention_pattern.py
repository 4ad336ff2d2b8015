"""Attention patterns: who sees whom, and every realisation of it against the explicit mask."""

from __future__ import annotations

import json

import pytest
import torch
from test_fast_exact import TOKENS, prompts_of
from tiny import tiny_model, tiny_tokenizer, write_tiny_checkpoint

from opencompass_llada.engines import LoadRequest, MaskedDiffusionFamily, SamplerSettings
from opencompass_llada.families import FAMILIES, find_family
from opencompass_llada.inference import FastNetwork, PassServer
from opencompass_llada.networks import NETWORKS, LLaDAConfig, LLaDAForMaskedDiffusion
from opencompass_llada.networks.attention import StretchedAttention
from opencompass_llada.networks.attention_pattern import (
    CAUSAL,
    FULL,
    AttentionPattern,
    Blocks,
    Documents,
    Stretch,
)
from opencompass_llada.rope.methods import RopeScaling
from opencompass_llada.sampling import CacheOptions, SamplerConfig, sample

LENGTH = 11


def explicit_mask(sees, length=LENGTH):
    """Who sees whom, token by token, from a rule of two positions."""
    return torch.tensor([[sees(q, k) for k in range(length)] for q in range(length)])


OWNER = [0] * 3 + [1] * 6 + [2] * 2
CASES = {
    "full": (FULL, lambda q, k: True),
    "causal": (CAUSAL, lambda q, k: k <= q),
    "blocks": (Blocks(4), lambda q, k: k // 4 <= q // 4),
    "documents": (Documents((3, 6, 2)), lambda q, k: OWNER[q] == OWNER[k]),
    "blocks in documents": (
        Documents((3, 6, 2), Blocks(4)),
        lambda q, k: OWNER[q] == OWNER[k] and (k < 7 or q >= 7),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pattern_equals_its_explicit_mask(name):
    pattern, sees = CASES[name]
    mask = explicit_mask(sees)
    assert torch.equal(pattern.mask(LENGTH), mask)
    assert pattern.sees_all(LENGTH) == mask.all()
    for first, end in ((0, LENGTH), (2, 5), (8, LENGTH)):
        part = torch.zeros_like(mask)
        for q0, q1, k0, k1 in pattern.of_queries(first, end, LENGTH):
            part[q0:q1, k0:k1] = True
        assert torch.equal(part[first:end], mask[first:end])
        assert not part[:first].any()
        assert not part[end:].any()


@pytest.mark.parametrize("name", CASES)
def test_calls_along_stretches_equal_one_call_with_the_mask(name):
    pattern, sees = CASES[name]
    torch.manual_seed(0)
    q, k, v = (torch.randn(LENGTH, heads, 8) for heads in (4, 2, 2))
    along = StretchedAttention(pattern.stretches(LENGTH), lambda p, n: None, in_one_call=True)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)),
        attn_mask=explicit_mask(sees),
        enable_gqa=True,
    )[0].transpose(0, 1)
    torch.testing.assert_close(along(q, k, v), expected)


def layer_states(model, ids):
    """Keys and values of every layer, all tokens in one pass."""
    session = PassServer(FastNetwork(model)).open(
        [len(ids)], block_length=1, cache_dtype="bfloat16", passes=1
    )
    session.full_pass(torch.tensor([ids]), torch.tensor([[0]]), keep=True)
    layers = session._cache.layers
    return [torch.cat(layer.read(0, len(ids), torch.float32), -1) for layer in layers]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("num_known", range(0, LENGTH + 1, 2))
def test_final_tokens_are_those_that_no_later_change_reaches(name, num_known):
    """By changing every unknown token: brute force over the network's own keys and values."""
    model = tiny_model(n_layers=3)
    model.attention_pattern = pattern = CASES[name][0]
    (ids,) = prompts_of((LENGTH,), seed=4)
    changed = ids[:num_known] + [249 - i for i in ids[num_known:]]
    moved = torch.zeros(LENGTH, dtype=torch.bool)
    for before, after in zip(layer_states(model, ids), layer_states(model, changed), strict=True):
        moved |= (before - after).abs().amax((1, 2)) > 1e-6
    final = pattern.final_length(num_known, LENGTH)
    assert not moved[:final].any()
    assert final == LENGTH or moved[final:].any()
    if name.startswith(("blocks", "causal", "full")) and name != "blocks in documents":
        assert moved[final:].all()


def written_out_logits(model, ids, mask):
    """The network with attention as two products and a softmax under a boolean mask."""
    table = model.prepare(len(ids), torch.device("cpu"))
    rotation = tuple(part[: len(ids)] for part in table)

    def attend(q, k, v):
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
        return scores.softmax(-1) @ v

    x = model.get_input_embeddings()(torch.tensor([ids]))
    return model.get_output_embeddings()(model.run_blocks(x, rotation, attend))[0]


@pytest.mark.parametrize("name", CASES)
def test_the_plain_network_equals_attention_written_out(name):
    pattern, sees = CASES[name]
    model = tiny_model(n_kv_heads=1)
    model.attention_pattern = pattern
    (ids,) = prompts_of((LENGTH,), seed=6)
    expected = written_out_logits(model, ids, explicit_mask(sees))
    torch.testing.assert_close(model(torch.tensor([ids])).logits[0], expected)
    positions = torch.tensor([[7, 2]])
    found = model.logits_at(torch.tensor([ids]), positions)[0]
    torch.testing.assert_close(found, expected[positions[0]])


def test_padding_and_blocks_go_together():
    model = tiny_model()
    model.attention_pattern = Blocks(4)
    rows = prompts_of((LENGTH, 6), seed=1)
    ids = torch.tensor([rows[0], rows[1] + [7] * 5])
    batch = model(ids, torch.tensor([LENGTH, 6])).logits
    torch.testing.assert_close(batch[1, :6], model(ids[1:, :6]).logits[0])


def test_a_changed_document_leaves_the_others_logits_equal():
    model = tiny_model()
    model.attention_pattern = Documents((3, 6, 2))
    (ids,) = prompts_of((LENGTH,), seed=2)
    changed = list(ids)
    changed[5] += 1
    logits = [model(torch.tensor([row])).logits[0] for row in (ids, changed)]
    others = [owner != 1 for owner in OWNER]
    assert torch.equal(logits[0][others], logits[1][others])
    assert (logits[0][3:9] - logits[1][3:9]).abs().amax(-1).min() > 1e-4


# A family with an attention pattern of its own, added from outside: a pattern, which the config
# states, a network's name in config.json, and one entry. Nothing else of the package is touched.
class PairsOfPairs(AttentionPattern):
    """Blocks of four, full inside, all earlier blocks visible."""

    def stretches(self, length):
        ends = [min(start + 4, length) for start in range(0, length, 4)]
        return [Stretch(end - (end % 4 or 4), end, 0, end) for end in ends]


class ToyConfig(LLaDAConfig):
    model_type = "toy_blocks"

    @property
    def attention_pattern(self):
        return PairsOfPairs()


class ToyNetwork(LLaDAForMaskedDiffusion):
    config_class = ToyConfig


TOY = MaskedDiffusionFamily(name="toy_blocks", label="Toy", turn_end="<|eot_id|>")


@pytest.fixture
def toy_engine(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "toy_blocks", ToyNetwork)
    monkeypatch.setitem(FAMILIES, "toy_blocks", TOY)
    folder = write_tiny_checkpoint(tmp_path, n_layers=3)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "toy_blocks"}
    (folder / "config.json").write_text(json.dumps(config))
    return find_family(config, str(folder), None).load(
        LoadRequest(
            path=str(folder),
            config=config,
            tokenizer=tiny_tokenizer(),
            rope_scaling=RopeScaling(),
            settings=SamplerSettings(),
            dtype=torch.float32,
            device=torch.device("cpu"),
            attention_backend="auto",
        )
    )


def test_a_family_from_outside_computes_its_pattern_everywhere(toy_engine):
    """Plain, fast and partial passes against attention written out under the explicit mask."""
    model, lengths = toy_engine.model, (24, 17, 21)
    rows = prompts_of(lengths, seed=3)
    ids = torch.tensor([row + [0] * (24 - len(row)) for row in rows])
    mask = explicit_mask(lambda q, k: k // 4 <= q // 4, 24)
    written_out = [written_out_logits(model, row, mask[: len(row), : len(row)]) for row in rows]

    def expected(positions):
        return torch.stack([row[p] for row, p in zip(written_out, positions, strict=True)])

    some = torch.tensor([[16, 19, 2], [13, 16, 0], [20, 16, 7]])
    padded = torch.tensor(lengths)
    torch.testing.assert_close(model.logits_at(ids, some, padded), expected(some))
    bidirectional = tiny_model(n_layers=3).logits_at(ids, some, padded)
    assert (bidirectional - expected(some)).abs().max() > 0.1
    assert {model.attention_pattern.final_length(12, length) for length in lengths} == {12}
    for pack in (False, True):
        server = PassServer(FastNetwork(model, pack_weights=pack))
        session = server.open(lengths, block_length=2, cache_dtype="bfloat16", passes=1)
        torch.testing.assert_close(session.full_pass(ids, some, keep=False), expected(some))
        unknown = ids.clone()
        unknown[:, 12:] = 9  # three blocks are finished; of what follows nothing is known yet
        session.full_pass(unknown, some, keep=True)
        for starts, num_tokens, num_wanted in (
            ((12, 12, 12), 4, None),  # one block
            ((10, 9, 8), 7, 6),  # several, from within a block on
        ):
            asked = torch.tensor(starts)[:, None] + torch.arange(4)
            found = session.partial_pass(ids, starts, num_tokens, asked, num_wanted)
            torch.testing.assert_close(found, expected(asked))


@pytest.mark.parametrize("kind", ["prompt", "dual"])
def test_a_block_causal_familys_cache_is_exact_where_blocks_meet(toy_engine, kind):
    """Blocks of the sampler on those of the pattern: no cached key ever changes again."""
    prompts = prompts_of((8, 12, 20), seed=5)
    exact = SamplerConfig(generation_length=12, block_length=4)
    cached = SamplerConfig(
        generation_length=12, block_length=4, cache=CacheOptions(type=kind, refresh="block")
    )
    model = toy_engine.model
    plain = [
        sample(model.logits_at, [p], exact, TOKENS, device="cpu").token_ids[0] for p in prompts
    ]
    output = sample(toy_engine.server, prompts, cached, TOKENS, device="cpu")
    assert output.token_ids == plain
    assert output.num_full_passes == 3
