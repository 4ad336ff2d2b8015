"""Likelihoods of block-causal models against passes over clean and noisy rows, and enumeration."""

import itertools
import math
import statistics

import pytest
import torch
import torch.nn.functional as F

from opencompass_llada.finetune.evaluation import _scorer
from opencompass_llada.inference import FastNetwork, MemoryPlanError, PassServer, noisy_blocks
from opencompass_llada.inference.noisy_blocks import NoisyBlock, NoisyPasses
from opencompass_llada.likelihood import (
    BlockScorer,
    LikelihoodOptions,
    MaskedScorer,
    entropies_from_logits,
)
from opencompass_llada.networks import SDARConfig, SDARForMaskedDiffusion
from opencompass_llada.networks.attention_pattern import FULL, Blocks
from opencompass_llada.networks.transformer import rotation_at

MASK = 4  # after a vocabulary of four tokens
TARGET = [1, 3, 0, 2, 1]
PREFIXES = [[], [2, 0, 3], [2, 0, 0, 1]]
CONFIDENCE = LikelihoodOptions(estimator="confidence")


class Shifted(SDARForMaskedDiffusion):
    """A network whose predictions are made one position earlier, as Fast-dLLM v2's."""

    logit_shift = 1


def tiny(pattern, kind=SDARForMaskedDiffusion):
    torch.manual_seed(3)
    config = SDARConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, head_dim=8, vocab_size=5,
                        max_position_embeddings=64, rope_theta=1e4, initializer_range=0.5,
                        mask_token_id=MASK, eos_token_id=3)  # fmt: skip
    return kind(config, attention_pattern=pattern).eval().requires_grad_(False)


def scorer_of(network, **options):
    server = PassServer(FastNetwork(network), **options)
    block_length = server.causal_block
    return BlockScorer(lambda: server, MASK, block_length)


def plain(network):
    return MaskedScorer(entropies_from_logits(network.logits_at), MASK)


def parts_of(prefix, target, block_length):
    """Where the target's tokens of each block begin and end."""
    end, first = len(prefix) + len(target), len(prefix)
    starts = range(first // block_length * block_length, end, block_length)
    return [(max(start, first), min(start + block_length, end)) for start in starts]


def clean_and_noisy(network, clean, noisy):
    """One pass over both rows with the doubled mask; logits of the noisy one's tokens."""
    length, size = len(clean), network.attention_pattern.block_length
    positions = torch.arange(length).repeat(2)
    blocks, is_noisy = positions // size, torch.arange(2 * length) >= length
    same, before = blocks[:, None] == blocks, blocks[:, None] > blocks
    seen = torch.where(is_noisy[:, None], before & ~is_noisy | same & is_noisy,
                       (before | same) & ~is_noisy)  # fmt: skip
    rotation = rotation_at(network.prepare(length, torch.device("cpu")), positions[None])

    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)

    x = network.get_input_embeddings()(torch.tensor([[*clean, *noisy]]))
    states = network.run_blocks(x, rotation, attend)[0]
    own = torch.arange(length)
    earlier = (own - network.logit_shift).clamp(min=0)
    # What predicts a block's first token by a shift lies in the clean block before.
    rows = torch.where(earlier // size == own // size, earlier + length, earlier)
    return network.get_output_embeddings()(states[rows]).double().log_softmax(-1)


def order_average(network, prefix, target):
    """The bound by another road: of each block the mean over all orders of the chain rule's sum."""
    text, total = [*prefix, *target], 0.0
    for first, end in parts_of(prefix, target, network.attention_pattern.block_length):
        losses = {}
        for hidden in itertools.product([False, True], repeat=end - first):
            noisy = list(text)
            for place, is_hidden in enumerate(hidden, start=first):
                noisy[place] = MASK if is_hidden else text[place]
            found = clean_and_noisy(network, text, noisy)
            losses[hidden] = [-found[i, text[i]].item() for i in range(first, end)]
        sums = []
        for order in itertools.permutations(range(end - first)):
            hidden = [True] * (end - first)
            for place in order:
                sums.append(losses[tuple(hidden)][place])
                hidden[place] = False
        total += sum(sums) * (end - first) / len(sums)
    return total


@pytest.mark.parametrize("kind", [SDARForMaskedDiffusion, Shifted])
@pytest.mark.parametrize("block_length", [1, 2, 4])
def test_short_blocks_are_exact(block_length, kind):
    network = tiny(Blocks(block_length), kind)
    for prefix in PREFIXES:
        # Of a text cut at its end too: its last block has one, two or all of its tokens.
        for target in (TARGET, TARGET[:1], TARGET[:4]):
            found = scorer_of(network).score(prefix, target, LikelihoodOptions(num_draws=16))
            exact = order_average(network, prefix, target)
            assert found.nll == pytest.approx(exact, rel=1e-5)
            parts = parts_of(prefix, target, block_length)
            assert found.num_forward_passes == max(2 ** (b - a) - 1 for a, b in parts)
            assert (found.variance, found.num_tokens) == (0.0, len(target))
            assert found.degrees_of_freedom == math.inf


@pytest.mark.parametrize("kind", [SDARForMaskedDiffusion, Shifted])
@pytest.mark.parametrize("sizes", [(4096, 512), (7, 6), (30, 4), (5, 30)])
def test_a_pass_over_both_rows_a_block_at_a_time_and_cached_blocks_agree(monkeypatch, sizes, kind):
    line, piece = sizes
    monkeypatch.setattr(noisy_blocks, "LINE_LENGTH", line)
    monkeypatch.setattr(noisy_blocks, "PIECE_LENGTH", piece)
    network, size = tiny(Blocks(4), kind), 4
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, 4, (22,), generator=generator).tolist()
    masked = torch.rand(22, generator=generator) < 0.5
    masked[[0, 4, 21]] = True  # the first token of all, of a block, and the last one
    noisy = [MASK if hidden else token for token, hidden in zip(text, masked, strict=True)]
    together = clean_and_noisy(network, text, noisy)

    blocks, places = [], []
    for start in range(0, 22, size):
        own = masked[start : start + size].nonzero()[:, 0]
        blocks.append(NoisyBlock(start, torch.tensor(noisy[start : start + size]), own))
        places.append(own + start)
    passes = NoisyPasses(PassServer(FastNetwork(network)), text, 20, 1024)
    # Twice, the second time in another order: copies of one block do not see each other.
    order = [*range(len(blocks)), *reversed(range(len(blocks)))]
    found = {}
    for indices, states in passes.states([blocks[index] for index in order]):
        logits = network.get_output_embeddings()(states).double().log_softmax(-1)
        found |= zip(indices, logits.split([len(places[order[i]]) for i in indices]), strict=True)
    assert len(found) == len(order)
    for index, block in enumerate(order):
        torch.testing.assert_close(found[index], together[places[block]], rtol=0, atol=1e-5)
    for start, own in zip(range(0, 22, size), places, strict=True):
        row = torch.tensor([[*text[:start], *noisy[start : start + size]]])
        alone = network.logits_at(row, own[None])[0].double().log_softmax(-1)
        torch.testing.assert_close(alone, together[own], rtol=0, atol=1e-5)


def test_blocks_of_one_token_give_the_autoregressive_value():
    """By the chain rule of the network's own rows, and with any number of draws."""
    network = tiny(Blocks(1))
    losses = []
    for end in range(len(TARGET)):
        row = torch.tensor([[2, 0, *TARGET[:end], MASK]])
        losses.append(-network(row).logits[0, -1].double().log_softmax(-1)[TARGET[end]].item())
    found = scorer_of(network).score([2, 0], TARGET, LikelihoodOptions(num_draws=4))
    assert found.nll == pytest.approx(sum(losses), rel=1e-5)
    assert (found.num_forward_passes, found.variance) == (1, 0.0)
    # A shift makes it transformers' own loss of the text, but for its first token.
    network = tiny(Blocks(1), Shifted)
    logits = SDARForMaskedDiffusion.forward(network, torch.tensor([[2, 0, *TARGET]])).logits[0]
    exact = F.cross_entropy(logits[2:], torch.tensor(TARGET), reduction="sum").item()
    found = scorer_of(network).score([2, 0], TARGET, LikelihoodOptions(num_draws=4))
    assert found.nll == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("prefix", [[], [2, 0, 3, 0]])
@pytest.mark.parametrize("draws", [10, 64])
def test_one_block_that_holds_all_gives_lladas_bound_of_the_same_draws(prefix, draws):
    options = LikelihoodOptions(num_draws=draws)
    found = scorer_of(tiny(Blocks(16))).score(prefix, TARGET, options, draw_key=[1])
    bound = plain(tiny(FULL)).score(prefix, TARGET, options, draw_key=[1])
    assert found.nll == pytest.approx(bound.nll, rel=1e-6)
    assert found.variance == pytest.approx(bound.variance, rel=1e-4, abs=1e-12)
    for name in ("num_draws", "num_forward_passes", "num_tokens", "estimator"):
        assert getattr(found, name) == getattr(bound, name)


def test_drawn_blocks_lie_within_their_error_which_is_honest():
    network, target = tiny(Blocks(5)), [1, 3, 0, 2, 1, 0, 0, 3]
    exact = order_average(network, [2, 0], target)
    scorer = scorer_of(network)
    found = scorer.score([2, 0], target, LikelihoodOptions(num_draws=30))
    assert found.num_draws == 7 + 30, "the first block's three tokens have seven masks"
    assert found.num_forward_passes == 30
    error = found.standard_error * len(target)
    assert 0 < error < 0.1 * exact
    assert abs(found.nll - exact) < 4 * error
    runs = [scorer.score([2, 0], target, LikelihoodOptions(num_draws=6, seed=n)) for n in range(60)]
    values = [run.nll for run in runs]
    spread = statistics.stdev(values)
    assert abs(statistics.mean(values) - exact) < 4 * spread / math.sqrt(60)
    variances = [run.variance for run in runs]
    assert statistics.mean(variances) == pytest.approx(spread**2, rel=0.4)
    again = scorer.score([2, 0], target, LikelihoodOptions(num_draws=6, seed=3))
    assert again == runs[3]
    key = LikelihoodOptions(num_draws=6)
    alike = [scorer.score([2, 0], ids, key, draw_key=[7]) for ids in (target, target[::-1])]
    assert alike[0].variance != alike[1].variance, "other tokens"
    assert alike[0] == scorer.score([2, 0], target, key, draw_key=[7])


def test_the_trainers_figure_is_an_estimate_of_the_same_bound():
    network, options = tiny(Blocks(2)), LikelihoodOptions(num_draws=600, batch_size=100)
    for prefix in PREFIXES:
        found, _ = _scorer(network, torch.device("cpu"))(prefix, TARGET, options)
        error = found.standard_error * len(TARGET)
        exact = order_average(network, prefix, TARGET)
        assert abs(found.nll - exact) < 4 * error
        assert error < 0.03 * exact, "the comparison must be sharp"


def test_candidates_of_one_token_take_one_pass():
    network = tiny(Blocks(4))
    for prefix in PREFIXES:
        found = scorer_of(network).score_next(prefix, [0, 1, 3])
        logits = network(torch.tensor([[*prefix, MASK]])).logits[0, -1].double().log_softmax(-1)
        assert [e.nll for e in found] == pytest.approx([-logits[i].item() for i in (0, 1, 3)])
        assert [e.num_forward_passes for e in found] == [1, 0, 0]
        alone = scorer_of(network).score(prefix, [3], LikelihoodOptions())
        assert found[2].nll == pytest.approx(alone.nll)


def naive_confidence(network, prefix, target):
    """Reveal the likeliest of the block's own tokens, until none is masked."""
    text, total = [*prefix, *target], 0.0
    length = getattr(network.attention_pattern, "block_length", len(text))
    for first, end in parts_of(prefix, target, length):
        row = [*text[:first], *[MASK] * (end - first)]
        while MASK in row:
            logits = network(torch.tensor([row])).logits[0].double().log_softmax(-1)
            hidden = [i for i, token in enumerate(row) if token == MASK]
            best = max(hidden, key=lambda i: logits[i, text[i]].item())
            total -= logits[best, text[best]].item()
            row[best] = text[best]
    return total


@pytest.mark.parametrize("pattern", [FULL, Blocks(1), Blocks(2), Blocks(4), Blocks(16)])
def test_confidence_reveals_the_likeliest_token_first(pattern):
    network = tiny(pattern)
    scorer = plain(network) if pattern == FULL else scorer_of(network)
    for prefix in PREFIXES:
        found = scorer.score(prefix, TARGET, CONFIDENCE)
        assert found.nll == pytest.approx(naive_confidence(network, prefix, TARGET), rel=1e-5)
        most = len(TARGET)
        if pattern != FULL:
            parts = parts_of(prefix, TARGET, pattern.block_length)
            most = max(end - first for first, end in parts)
        assert (found.estimator, found.num_forward_passes) == ("confidence", most)
        assert (found.num_draws, found.variance, found.num_tokens) == (0, 0.0, 5)


def test_confidence_is_not_the_bound_but_where_one_token_is_left():
    scorer = plain(tiny(FULL))
    bound = LikelihoodOptions(num_draws=64)
    assert scorer.score([2], [1], CONFIDENCE).nll == scorer.score([2], [1], bound).nll
    assert scorer.score([2], TARGET, CONFIDENCE).nll != scorer.score([2], TARGET, bound).nll


def test_a_short_target_behind_a_long_prefix_is_cheap(monkeypatch):
    network = tiny(Blocks(4))
    server = PassServer(FastNetwork(network))
    tokens = []
    run = server.network.run_layers
    monkeypatch.setattr(
        server.network, "run_layers", lambda x, *rest: tokens.append(len(x)) or run(x, *rest)
    )
    scorer = BlockScorer(lambda: server, MASK, 4)
    scorer.score([0, 1, 2, 3] * 10 + [2], [1, 3], LikelihoodOptions(num_draws=16))
    assert tokens == [40, 9], "the prefix once, and one block of three tokens with three masks"


def test_a_text_that_does_not_fit_is_refused_with_the_length_that_does():
    server = PassServer(FastNetwork(tiny(Blocks(4))), memory_budget=2**40)
    scorer = BlockScorer(lambda: server, MASK, 4)
    options = LikelihoodOptions(num_draws=4)
    scorer.score([0] * 6000, [1, 2], options)
    planned = server.plan.peak_bytes
    assert server.plan.logit_bytes == 1024 * 5 * (4 + 8), "cross entropies of 1,024 places"
    assert server.plan.pass_tokens == 6002, "fewer than a chunk"
    scorer.score([0] * 6, [1, 2], options)
    assert server.plan.pass_tokens == noisy_blocks.LINE_LENGTH
    server.budget = planned
    scorer.score([0] * 6000, [1, 2], options)
    with pytest.raises(MemoryPlanError, match=r"A text of 20000 tokens cannot be scored") as fault:
        scorer.score([0] * 19_998, [1, 2], options)
    assert "keys and values are cached: 1 rows of up to 20000 tokens" in str(fault.value)
    assert "score at most 14336 tokens" in str(fault.value), "in smaller chunks"
    scorer.score([0] * 14_334, [1, 2], options)
    assert server.plan.prefix_chunk == 4096
    with pytest.raises(MemoryPlanError, match="score at most 14336 tokens"):
        scorer.score([0] * 14_335, [1, 2], options)


def test_what_has_no_meaning_is_refused():
    scorer = scorer_of(tiny(Blocks(4)))
    options = LikelihoodOptions(num_draws=4)
    with pytest.raises(ValueError, match=r"reads 4 at a time.*use estimator='bound'"):
        scorer.score([1], [2], LikelihoodOptions(estimator="longllada"))
    with pytest.raises(ValueError, match="at least one token"):
        scorer.score([1], [], options)
    for prefix, target in (([MASK], [1]), ([1], [MASK])):
        with pytest.raises(ValueError, match="holds the mask id 4"):
            scorer.score(prefix, target, options)
        with pytest.raises(ValueError, match="holds the mask id 4"):
            scorer.score_next(prefix, target)
    network = tiny(Blocks(4))
    network.get_output_embeddings().weight[:] = math.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        scorer_of(network).score([1], [2], options)
