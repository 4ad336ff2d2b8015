"""Chooses masks of a target, all or some drawn, and turns their cross entropies into its bound.

The bound is LLaDA's, arXiv 2502.09992, Eq. 14 (the low-variance form of Eq. 6): with L target
tokens, draw a count l uniform on 1..L and l places without replacement; then L / l * (sum of the
masked tokens' cross entropies) has the bound as its mean. Masks are drawn on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from opencompass_llada.likelihood.estimate import Estimate, LikelihoodOptions, satterthwaite


@dataclass(frozen=True, eq=False)
class MaskSet:
    """Masks of a target: its masked places, int64, in ascending order."""

    num_tokens: int
    masks: list[Tensor]
    is_complete: bool
    """Whether they are all that there are; else pairs of draws, each from a stratum of its own."""

    @classmethod
    def of(cls, num_tokens: int, options: LikelihoodOptions, generator: torch.Generator) -> MaskSet:
        """Take all masks where the draws allow it, else draw as many."""
        if is_enumerable(num_tokens, options):
            return cls.all(num_tokens)
        return cls.draw(num_tokens, options.draws, generator)

    @classmethod
    def all(cls, num_tokens: int) -> MaskSet:
        """Take all 2^L - 1 masks."""
        sizes = range(1, num_tokens + 1)
        masks = [torch.tensor(mask) for n in sizes for mask in combinations(range(num_tokens), n)]
        return cls(num_tokens, masks, is_complete=True)

    @classmethod
    def draw(cls, num_tokens: int, num_draws: int, generator: torch.Generator) -> MaskSet:
        """Draw masks, two independent ones in each of ``num_draws / 2`` strata of the ratio."""
        pairs = stratified_counts(num_tokens, num_draws // 2, generator)
        counts = [count for pair in pairs for count in pair]
        return cls(num_tokens, draw_places(num_tokens, counts, generator), is_complete=False)

    def estimate(self, sums: Sequence[float]) -> Estimate:
        """Return the bound, given the sum of the masked tokens' cross entropies of each mask.

        All masks give it without error: one of l places has the probability 1 / L / C(L, l) and the
        weight L / l, so that its sum counts 1 / (l C(L, l)) times. Of drawn ones the squared
        difference in each stratum gives an unbiased estimate of the variance.
        """
        length, counts = self.num_tokens, list(map(len, self.masks))
        if self.is_complete:
            terms = zip(sums, counts, strict=True)
            nll = math.fsum(value / count / math.comb(length, count) for value, count in terms)
            return self._estimate(nll, [])
        weighted = [value * length / count for value, count in zip(sums, counts, strict=True)]
        pairs = list(zip(weighted[::2], weighted[1::2], strict=True))
        # The variance of a pair's mean is their difference squared over 4.
        variances = [((first - second) / 2 / len(pairs)) ** 2 for first, second in pairs]
        return self._estimate(sum(weighted) / len(weighted), variances)

    def _estimate(self, nll: float, variances: Sequence[float]) -> Estimate:
        return Estimate(
            estimator="bound",
            nll=nll,
            variance=sum(variances, 0.0),
            degrees_of_freedom=satterthwaite([(variance, 1.0) for variance in variances]),
            num_tokens=self.num_tokens,
            num_draws=len(self.masks),
            num_forward_passes=len(self.masks),
        )


def is_enumerable(num_tokens: int, options: LikelihoodOptions) -> bool:
    """Tell whether all 2^L - 1 masks of a target are no more than the draws allowed for it."""
    return options.estimator == "bound" and num_tokens < 60 and 2**num_tokens - 1 <= options.draws


def stratified_counts(
    num_tokens: int, num_strata: int, generator: torch.Generator
) -> list[tuple[int, int]]:
    """Draw numbers of masked tokens, two in each stratum of the mask ratio, say [(1, 2), (4, 3)].

    A ratio u, uniform from h / num_strata to (h + 1) / num_strata, becomes the count
    1 + floor(u * num_tokens), so that over all strata a count is uniform on 1..num_tokens.
    """
    uniform = torch.rand(num_strata, 2, generator=generator, dtype=torch.float64)
    ratios = (uniform + torch.arange(num_strata)[:, None]) / num_strata
    counts = (ratios * num_tokens).floor().long().clamp(max=num_tokens - 1) + 1
    return [(first, second) for first, second in counts.tolist()]


def draw_places(num_tokens: int, counts: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Draw so many places of a target, without replacement, for each count."""
    orders = (torch.randperm(num_tokens, generator=generator) for _ in counts)
    return [order[:count].sort().values for order, count in zip(orders, counts, strict=True)]
