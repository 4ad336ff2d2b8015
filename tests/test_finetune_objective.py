"""Noise and loss: against the published formula, exact enumeration, and each other."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from opencompass_llada.finetune.objective import (
    SHORTEST_END,
    draw_end,
    draw_mask_ratio,
    draw_masked,
    keep_end,
    scale_losses,
    weighted_cross_entropy,
)


def test_mask_ratios_are_spread_evenly():
    ratios = np.sort([draw_mask_ratio(0, 5, place, 64, 0.1) for place in range(64)])
    assert ratios[0] >= 0.1
    assert ratios[-1] < 1.0
    np.testing.assert_allclose(np.diff(ratios), 0.9 / 64, rtol=1e-6)
    again = np.sort([draw_mask_ratio(0, 6, place, 64, 0.1) for place in range(64)])
    assert not np.allclose(ratios, again)
    loose = np.sort([draw_mask_ratio(0, 5, place, 64, 0.1, spread=False) for place in range(64)])
    assert np.diff(loose).max() > 2 * 0.9 / 64


def test_masking_touches_weighted_positions_alone_and_all_when_asked():
    weights = np.zeros(2000, np.float32)
    weights[1000:] = 1.0
    masked = draw_masked(weights, 0.3, np.random.default_rng(0))
    assert not masked[:1000].any()
    assert abs(masked[1000:].mean() - 0.3) < 0.06
    assert draw_masked(weights, 1.0, np.random.default_rng(0))[1000:].all()


def test_ends_are_short_as_often_as_long():
    rng = random.Random(0)
    ends = np.array([draw_end(4096, rng) for _ in range(4000)])
    assert ends.min() >= SHORTEST_END
    assert ends.max() <= 2048
    middle = math.sqrt(SHORTEST_END * 2048)
    assert abs((ends < middle).mean() - 0.5) < 0.03
    assert draw_end(20, rng) == SHORTEST_END


def test_ends_do_not_count_padding():
    weights = np.array([1, 1, 0, 1, 1, 0.5, 0, 0], np.float32)
    assert keep_end(weights, 3).tolist() == [0, 0, 0, 1, 1, 0.5, 0, 0]
    assert keep_end(weights, 9).tolist() == weights.tolist()
    assert not keep_end(np.zeros(4, np.float32), 2).any()


def row_loss(logits_LV, ids_L, masked_L, scale_L):
    head = nn.Identity()
    return weighted_cross_entropy(
        head, logits_LV[masked_L], ids_L[masked_L], scale_L[masked_L], chunk=4
    )


def test_loss_is_the_published_objective_for_uniform_weights():
    """Against Eq. 3 of arXiv 2502.09992, and UltraLLaDA's Eq. 1 as transcribed, in loops."""
    torch.manual_seed(0)
    ids, logits = torch.randint(0, 5, (7,)), torch.randn(7, 5)
    masked = torch.tensor([True, False, True, True, True, True, False])
    weights = np.ones(7, np.float32)
    plain = 0.0
    for i in range(7):
        if masked[i]:
            plain -= float(logits[i].log_softmax(-1)[ids[i]])
    for name, expected in (("inverse_t", plain / 0.3 / 7), ("none", plain / 7)):
        scale = torch.from_numpy(scale_losses(weights, 0.3, name))
        assert float(row_loss(logits, ids, masked, scale)) == pytest.approx(expected, rel=1e-5)


def test_mean_over_masks_is_the_bound_by_exact_enumeration():
    """Three tokens of a vocabulary of four: all 8 masks and the integral over t, against draws."""
    rng = np.random.default_rng(0)
    ids, weights = np.array([0, 1, 3]), np.ones(3, np.float32)
    # The network's answer at each place, for each set of masked places.
    table = {m: rng.normal(size=(3, 4)) for m in itertools.product((False, True), repeat=3)}

    def entropies(mask):
        logits = torch.from_numpy(table[mask]).float()
        return F.cross_entropy(logits, torch.from_numpy(ids), reduction="none").numpy()

    # Integral of t^k (1-t)^(3-k) / t over t from 0 to 1 is (k-1)! (3-k)! / 3!.
    factor = {1: 2 / 6, 2: 1 / 6, 3: 2 / 6}
    exact = sum(factor[sum(m)] * entropies(m)[list(m)].sum() for m in table if any(m)) / 3
    draws = []
    for number in range(20000):
        ratio = draw_mask_ratio(1, number // 8, number % 8, 8, 1e-9)
        mask = draw_masked(weights, ratio, np.random.default_rng([2, number]))
        scale = scale_losses(weights, ratio, "inverse_t")
        draws.append(float((entropies(tuple(mask.tolist())) * scale)[mask].sum()))
    error = np.std(draws) / np.sqrt(len(draws))
    assert error < 0.02 * exact
    assert abs(np.mean(draws) - exact) < 4 * error


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_chunks_change_neither_loss_nor_gradients(chunk):
    """Against float32 cross entropy of all logits at once."""
    torch.manual_seed(0)
    head, hidden = nn.Linear(8, 30, bias=False), torch.randn(17, 8, requires_grad=True)
    tokens, scale = torch.randint(0, 30, (17,)), torch.rand(17)
    expected = (F.cross_entropy(head(hidden), tokens, reduction="none") * scale).sum()
    grads = torch.autograd.grad(expected, [hidden, head.weight])
    ours = weighted_cross_entropy(head, hidden, tokens, scale, chunk)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    for grad, reference in zip(
        torch.autograd.grad(ours, [hidden, head.weight]), grads, strict=True
    ):
        torch.testing.assert_close(grad, reference, rtol=1e-5, atol=1e-6)


def test_nothing_predicted_is_zero_with_a_gradient():
    head = nn.Linear(8, 30, bias=False)
    empty = torch.zeros(0, 8)
    loss = weighted_cross_entropy(head, empty, torch.zeros(0, dtype=torch.long), empty[:, 0], 4)
    loss.backward()
    assert loss.item() == 0.0
    assert head.weight.grad.abs().sum() == 0


def test_rows_without_weights_scale_to_zero():
    assert scale_losses(np.zeros(3, np.float32), 0.5, "inverse_t").tolist() == [0.0] * 3
