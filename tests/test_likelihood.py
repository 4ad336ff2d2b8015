"""Perplexity estimates against exact enumeration, simulation and transformers' own loss."""

import itertools
import math
import statistics

import pytest
import torch
from scipy import stats
from tiny import tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from opencompass_llada.likelihood import (
    CausalScorer,
    Estimate,
    LikelihoodOptions,
    MaskedScorer,
    causal_logits,
    entropies_from_logits,
    pool,
    sliced_entropies,
)
from opencompass_llada.likelihood.estimate import student_t_quantile
from opencompass_llada.likelihood.masks import stratified_counts

MASK = 4  # after a vocabulary of four tokens
TARGET = [1, 3, 0, 2, 1]


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=3, vocab_size=5, embedding_size=5, mask_token_id=MASK, eos_token_id=3,
                      pad_token_id=3, init_std=0.6)  # fmt: skip


class Counting:
    """Cross entropies of a model, with the calls and rows counted."""

    def __init__(self, model):
        self.entropies = entropies_from_logits(model.logits_at)
        self.calls = self.rows = self.positions = 0

    def __call__(self, input_ids_BL, positions_BP, targets_BP):
        self.calls += 1
        self.rows += len(input_ids_BL)
        self.positions += positions_BP.numel()
        assert bool((input_ids_BL.gather(1, positions_BP) == MASK).all())
        return self.entropies(input_ids_BL, positions_BP, targets_BP)


def order_average(model, prefix, target):
    """The bound by another road: the mean over all orders of the chain rule's sum."""
    logits = {}
    for places in itertools.product([False, True], repeat=len(target)):
        row = [*prefix, *(MASK if hidden else t for t, hidden in zip(target, places, strict=True))]
        out = model(torch.tensor([row])).logits[0, len(prefix) :].double().log_softmax(-1)
        logits[places] = [-out[i, t].item() for i, t in enumerate(target)]
    total, orders = 0.0, list(itertools.permutations(range(len(target))))
    for order in orders:
        hidden = [True] * len(target)
        for place in order:
            total += logits[tuple(hidden)][place]
            hidden[place] = False
    return total / len(orders)


@pytest.mark.parametrize("prefix", [[], [2, 0, 0, 1]])
def test_the_bound_matches_exact_enumeration_and_its_error_is_honest(model, prefix):
    exact = order_average(model, prefix, TARGET)
    entropies = entropies_from_logits(model.logits_at)
    options = LikelihoodOptions(num_draws=20_000, batch_size=512)
    estimate = MaskedScorer(entropies, MASK).draw_bound(prefix, TARGET, options)
    error = estimate.standard_error * len(TARGET)
    assert abs(estimate.nll - exact) < 4 * error
    assert error < 0.01 * exact, "the comparison must be sharp"


def exact_sums(model, prefix, target):
    """Cross entropy sums of every subset of places, so that simulations need no model."""
    entropies, masks = entropies_from_logits(model.logits_at), []
    for size in range(1, len(target) + 1):
        masks += [torch.tensor(c) for c in itertools.combinations(range(len(target)), size)]
    sums = MaskedScorer(entropies, MASK).masked_sums(prefix, target, masks, 64)
    return {tuple(mask.tolist()): value for mask, value in zip(masks, sums, strict=True)}


def longllada(entropies, prefix, target, seed=0, **options):
    options = LikelihoodOptions(estimator="longllada", seed=seed, batch_size=64, **options)
    return MaskedScorer(entropies, MASK).score(prefix, target, options)


def test_longllada_agrees_with_the_scripts_formula_by_enumeration(model):
    """Every number of masks weighs the same, every place of one number too."""
    sums = exact_sums(model, [2, 0], TARGET)
    sizes = range(1, len(TARGET) + 1)
    exact = statistics.mean(
        statistics.mean(v / size for k, v in sums.items() if len(k) == size) for size in sizes
    )
    # The bound per token, by another road.
    assert exact * len(TARGET) == pytest.approx(order_average(model, [2, 0], TARGET), rel=1e-5)
    pooled = statistics.mean(v for v in sums.values()) / statistics.mean(map(len, sums))
    entropies = entropies_from_logits(model.logits_at)
    runs = [longllada(entropies, [2, 0], TARGET, seed) for seed in range(200)]
    values = [run.nll_per_token for run in runs]
    error = statistics.stdev(values) / math.sqrt(200)
    assert abs(statistics.mean(values) - exact) < 3 * error
    assert error < 0.02 * exact, "the comparison must be sharp"
    assert pooled != pytest.approx(exact, abs=1e-3), "else pooling would pass too"
    variances = [run.standard_error**2 for run in runs]
    assert statistics.mean(variances) == pytest.approx(statistics.variance(values), rel=0.25)


def test_longlladas_draws_weigh_the_same_however_many_masks_they_have():
    """Cross entropies of masks / 10 on 64 tokens: 32.5 / 10, where pooled masks give 4.3."""
    counts = []

    def entropies(ids, positions, targets):
        masked = (ids == MASK).sum(-1)
        counts.extend(masked.tolist())
        return (masked[:, None] / 10).expand(positions.shape)

    values = []
    for seed in range(200):
        counts.clear()
        estimate = longllada(entropies, [], [0, 1, 2, 3] * 16, seed)
        assert estimate.num_forward_passes == len(counts) == 8
        assert estimate.nll_per_token == pytest.approx(statistics.mean(counts) / 10)
        spread = statistics.stdev(counts) / 10 / math.sqrt(8)
        assert estimate.standard_error == pytest.approx(spread)
        values += counts
    assert set(values) <= set(range(1, 65))
    share = stats.chisquare([values.count(k) for k in range(1, 65)]).pvalue
    assert share > 1e-3, "the number of masks is uniform"
    spread = statistics.stdev(statistics.mean(values[i : i + 8]) for i in range(0, 1600, 8))
    assert spread == pytest.approx(statistics.stdev(values) / math.sqrt(8), rel=0.2), "independent"
    error = statistics.stdev(values) / 10 / math.sqrt(len(values))
    assert abs(statistics.mean(values) / 10 - 3.25) < 3 * error < 0.15


@pytest.mark.parametrize(("draws", "chunks", "lowest"), [(4, 1, 0.86), (8, 1, 0.90), (8, 6, 0.92)])
def test_the_interval_covers_what_it_says(model, monkeypatch, draws, chunks, lowest):
    """Measured over 1,500 seeds; the standard error of a coverage of 0.95 is 0.006 there."""
    sums = exact_sums(model, [2, 0], TARGET)
    exact = order_average(model, [2, 0], TARGET)
    monkeypatch.setattr(
        MaskedScorer,
        "masked_sums",
        lambda self, prefix, target, masks, size: [sums[tuple(m.tolist())] for m in masks],
    )
    covered, estimates, variances = 0, [], []
    for seed in range(1500):
        parts = [
            MaskedScorer(None, MASK).draw_bound(
                [2, 0], TARGET, LikelihoodOptions(num_draws=draws, seed=seed * chunks + part)
            )
            for part in range(chunks)
        ]
        total = pool(parts)
        low, high = total.interval(0.95)
        covered += low <= exact / len(TARGET) <= high
        estimates.append(total.nll)
        variances.append(total.variance)
    assert lowest < covered / 1500 < 0.985
    spread = torch.tensor(estimates, dtype=torch.float64)
    assert abs(spread.mean() - exact * chunks) < 4 * spread.std() / math.sqrt(1500), "unbiased"
    # The variance estimate is unbiased too.
    assert sum(variances) / 1500 == pytest.approx(spread.var().item(), rel=0.15)


def test_strata_lower_the_variance_and_leave_counts_uniform():
    generator = torch.Generator().manual_seed(0)
    counts = [c for _ in range(2000) for pair in stratified_counts(5, 3, generator) for c in pair]
    shares = torch.bincount(torch.tensor(counts), minlength=6)[1:] / len(counts)
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.015)
    first, last = stratified_counts(100, 2, generator)
    assert max(first) <= 50 < min(last)


def test_longllada_is_the_mean_of_the_draws_means_of_each_chunk(model):
    entropies, text = entropies_from_logits(model.logits_at), [1, 0, 2, 3, 3, 1, 0, 2]
    options = LikelihoodOptions(estimator="longllada", chunk_length=4, num_draws=3, batch_size=2)
    seen = []

    def spy(ids, positions, targets):
        losses = entropies(ids, positions, targets)
        for row, places, loss in zip(ids, positions, losses, strict=True):
            unique = {int(p): float(v) for p, v in zip(places, loss, strict=True)}
            seen.append((row.tolist(), unique))
        return losses

    estimate = MaskedScorer(spy, MASK).score(text[:0], text, options)
    means = []
    for chunk in (0, 1):
        rows = [unique for row, unique in seen if len(row) == 4 * (chunk + 1)]
        assert len(rows) == 3
        means.append(statistics.mean(statistics.mean(unique.values()) for unique in rows))
    # The chunk's own perplexities are averaged geometrically.
    assert estimate.perplexity == pytest.approx(math.exp(sum(means) / 2), rel=1e-5)
    clean = [row[:4] for row, _ in seen if len(row) == 8]
    assert all(row == text[:4] for row in clean), "the prefix is never masked"


def test_one_pass_a_draw_whatever_the_batch_size_and_the_same_numbers(model):
    prefix, target = [0, 1], [3, 2, 1, 0, 2, 1, 1]
    results = []
    for batch_size in (1, 3, 64):
        counting = Counting(model)
        options = LikelihoodOptions(num_draws=10, batch_size=batch_size)
        estimate = MaskedScorer(counting, MASK).draw_bound(prefix, target, options)
        assert counting.rows == estimate.num_forward_passes == estimate.num_draws == 10
        assert counting.calls == math.ceil(10 / batch_size)
        results.append((estimate.nll, estimate.variance))
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0] == pytest.approx(results[2], rel=1e-5)
    single = Counting(model)
    MaskedScorer(single, MASK).draw_bound(prefix, target, LikelihoodOptions(num_draws=10))
    assert single.positions < 10 * len(target), "logits at masked positions alone"


def test_masks_depend_on_the_target_alone(model):
    def masks_for(prefix, seed=0):
        seen = []

        def spy(ids, positions, targets):
            seen.extend((ids[:, len(prefix) :] == MASK).tolist())
            return torch.ones(positions.shape)

        options = LikelihoodOptions(num_draws=6, seed=seed)
        MaskedScorer(spy, MASK).draw_bound(prefix, TARGET, options)
        return seen

    assert masks_for([]) == masks_for([1, 2, 3])
    assert masks_for([]) != masks_for([], seed=1)


def test_slices_of_positions_give_the_same_cross_entropies(model, monkeypatch):
    monkeypatch.setattr("opencompass_llada.likelihood.scorers.POSITIONS_AT_ONCE", 4)
    ids = torch.tensor([[1, MASK, MASK, 2, MASK, MASK], [0, MASK, MASK, 2, MASK, MASK]])
    positions = torch.tensor([[1, 2, 4, 5]] * 2)
    targets = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    sliced = sliced_entropies(model.hidden_states, model.get_output_embeddings())
    whole = entropies_from_logits(model.logits_at)(ids, positions, targets)
    assert torch.allclose(sliced(ids, positions, targets), whole, atol=1e-6)


def test_a_mask_in_the_text_and_broken_models_are_refused(model):
    entropies = entropies_from_logits(model.logits_at)
    options = LikelihoodOptions(num_draws=4)
    with pytest.raises(ValueError, match="mask id 4"):
        MaskedScorer(entropies, MASK).draw_bound([MASK], TARGET, options)
    with pytest.raises(ValueError, match="at least one token"):
        MaskedScorer(entropies, MASK).score([1], [], options)
    broken = MaskedScorer(lambda i, p, t: torch.full(p.shape, math.nan), MASK)
    with pytest.raises(FloatingPointError, match="not finite"):
        broken.draw_bound([], TARGET, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "bond"}, "Did you mean 'bound'"),
        ({"num_draws": 3}, "use 4"),
        ({"num_draws": 7}, "use 8"),
        ({"batch_size": 0}, "at least 1"),
        ({"estimator": "longllada", "num_draws": 1}, "at least 2"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodOptions(**options)


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 4, 30])
def test_students_quantile(freedom):
    """It was 11 % short at one degree of freedom."""
    for level in (0.68, 0.9, 0.95):
        assert student_t_quantile(level, freedom) == pytest.approx(
            stats.t.ppf((1 + level) / 2, freedom), rel=1e-9
        )
    assert student_t_quantile(0.95, math.inf) == pytest.approx(1.959964, abs=1e-5)


def test_pooling_refuses_to_mix_estimators():
    one = Estimate(estimator="bound", nll=1.0, variance=0.1, degrees_of_freedom=2, num_tokens=1,
                   num_draws=4, num_forward_passes=4)  # fmt: skip
    other = Estimate(**{**vars(one), "estimator": "longllada"})
    with pytest.raises(ValueError, match="same estimator"):
        pool([one, other])


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=64)  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_autoregressive_scores_equal_transformers_own_loss(llama):
    ids = torch.randint(0, 50, (1, 20))
    text, labels = ids[0].tolist(), ids.clone()
    scorer = CausalScorer(causal_logits(llama))
    whole = scorer.score([], text, LikelihoodOptions())
    assert whole.num_tokens == 19, "nothing predicts the first token"
    assert whole.nll_per_token == pytest.approx(llama(ids, labels=labels).loss.item(), rel=1e-5)
    labels[:, :12] = -100
    part = scorer.score(text[:12], text[12:], LikelihoodOptions())
    assert part.nll_per_token == pytest.approx(llama(ids, labels=labels).loss.item(), rel=1e-5)
    assert (part.num_forward_passes, part.variance, part.num_tokens) == (1, 0.0, 8)
    assert part.interval() == (part.nll_per_token, part.nll_per_token)
    with pytest.raises(ValueError, match="no token"):
        scorer.score([], [1], LikelihoodOptions())


def test_models_that_cannot_choose_positions_give_the_same(llama, monkeypatch):
    text = list(range(12))
    chosen = CausalScorer(causal_logits(llama)).score(text[:5], text[5:], LikelihoodOptions())
    forward = llama.forward
    monkeypatch.setattr(llama, "forward", lambda input_ids, use_cache: forward(input_ids))
    full = CausalScorer(causal_logits(llama)).score(text[:5], text[5:], LikelihoodOptions())
    assert full.nll == pytest.approx(chosen.nll, rel=1e-6)
