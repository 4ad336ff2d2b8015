"""Computes the likelihood bound of masked diffusion: drawn, exact, or as LongLLaDA's script does.

LLaDA, arXiv 2502.09992, Eq. 14 (the low-variance form of the bound of Eq. 6): with L target tokens,
draw a count l uniform on 1..L and l places without replacement; then L / l * (sum of the masked
tokens' cross entropies) has the bound as its mean. Masks are drawn on the CPU for every device.
Shape suffixes: B rows, L row length, P positions asked for, V vocabulary entries.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from opencompass_llada.likelihood.estimate import Estimate, LikelihoodOptions, pool, satterthwaite
from opencompass_llada.sampling import LogitsFunction, derive_seed

Ids = Sequence[int]
EntropyFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(input_ids_BL, positions_BP, targets_BP) -> entropies_BP``, float nats: one model call."""

#: Positions whose logits are held at once: 2 GiB in float32 at LLaDA's 126,464 entries.
POSITIONS_AT_ONCE = 4096


def entropies_from_logits(logits_function: LogitsFunction) -> EntropyFunction:
    """Make cross entropies of a model's ``logits_at``; holds all positions' logits at once."""

    def entropies(input_ids_BL: Tensor, positions_BP: Tensor, targets_BP: Tensor) -> Tensor:
        return _cross_entropy(logits_function(input_ids_BL, positions_BP, None), targets_BP)

    return entropies


def sliced_entropies(
    hidden_states: Callable[[Tensor, None, Tensor], Tensor], head: Callable[[Tensor], Tensor]
) -> EntropyFunction:
    """Make cross entropies of a network's two halves, a slice of positions at a time.

    A whole text of 128K tokens would have 31 GiB of logits in 16 bit otherwise. The halves are
    ``(input_ids_BL, None, positions_BP)`` to states and states to logits; gradients are off.
    """

    @torch.inference_mode()
    def entropies(input_ids_BL: Tensor, positions_BP: Tensor, targets_BP: Tensor) -> Tensor:
        states_BPM = hidden_states(input_ids_BL, None, positions_BP)
        size = max(1, POSITIONS_AT_ONCE // len(input_ids_BL))
        slices = zip(states_BPM.split(size, dim=1), targets_BP.split(size, dim=1), strict=True)
        return torch.cat([_cross_entropy(head(states), t) for states, t in slices], dim=1)

    return entropies


def _cross_entropy(logits_BPV: Tensor, targets_BP: Tensor) -> Tensor:
    losses = F.cross_entropy(
        logits_BPV.flatten(0, 1).float(), targets_BP.flatten(), reduction="none"
    )
    return losses.view(targets_BP.shape)


def check_finite(values: Iterable[float]) -> None:
    """Raise if a cross entropy is not finite."""
    if not all(map(math.isfinite, values)):
        raise FloatingPointError(
            "The model's cross entropies are not finite; load it in bfloat16 or float32, and check "
            "the checkpoint."
        )


def score_alternatives(
    entropies: EntropyFunction,
    row: Ids,
    position: int,
    candidates: Ids,
    *,
    estimator: str,
    device: torch.device | str,
) -> list[Estimate]:
    """Return the exact negative log-likelihood of each candidate token at one position of a row.

    The position is asked for as often as there are candidates, at least one; the one forward pass
    is counted with the first.
    """
    row_BL = torch.tensor([list(row)], device=device)
    targets_BP = torch.tensor([list(candidates)], device=device)
    positions_BP = torch.full_like(targets_BP, position)
    values = entropies(row_BL, positions_BP, targets_BP)[0].double().tolist()
    check_finite(values)
    draws = int(estimator == "bound")
    return [
        Estimate(
            estimator=estimator, nll=value, num_tokens=1, num_draws=draws, num_forward_passes=passes
        )
        for value, passes in zip(values, [1] + [0] * len(values), strict=False)
    ]


@dataclass(frozen=True)
class MaskedScorer:
    """Scores targets, of at least one token, with a masked diffusion model.

    All methods raise a ValueError where the target is empty or the text holds the mask, and a
    FloatingPointError where the model's output is not finite.
    """

    entropies: EntropyFunction
    mask_token_id: int
    device: torch.device | str = "cpu"

    def score(
        self, prefix: Ids, target: Ids, options: LikelihoodOptions, draw_key: Ids | None = None
    ) -> Estimate:
        """Estimate the negative log-likelihood of a target given a clean prefix.

        A target with no more masks than there are draws is not estimated but computed.
        """
        if not target:
            raise ValueError("target=[] must hold at least one token to score.")
        if options.estimator == "longllada":
            return self.draw_longllada(prefix, target, options)
        if is_enumerable(len(target), options):
            return self.enumerate_bound(prefix, target, options.batch_size)
        return self.draw_bound(prefix, target, options, draw_key)

    def score_next(self, prefix: Ids, candidates: Ids) -> list[Estimate]:
        """Return each candidate's negative log-likelihood after a prefix, by one pass in all."""
        self.refuse_masks([*prefix, *candidates])
        return score_alternatives(
            self.entropies, [*prefix, self.mask_token_id], len(prefix), candidates,
            estimator="bound", device=self.device,
        )  # fmt: skip

    def draw_bound(
        self, prefix: Ids, target: Ids, options: LikelihoodOptions, draw_key: Ids | None = None
    ) -> Estimate:
        """Estimate the bound, without bias, by ``options.draws`` forward passes.

        The mask ratio is stratified: two independent draws in each of ``draws / 2`` strata, whose
        squared differences give an unbiased estimate of the variance. The masks depend on the seed
        and the target alone, so that estimates for several prefixes, or by several models, differ
        by no noise of the masks. A ``draw_key`` takes the target's place: targets of one length and
        one key are masked alike.
        """
        num_tokens, num_strata = len(target), options.draws // 2
        key = target if draw_key is None else draw_key
        generator = torch.Generator().manual_seed(derive_seed(options.seed, key))
        counts = [n for pair in stratified_counts(num_tokens, num_strata, generator) for n in pair]
        masks = [_draw_places(num_tokens, count, generator) for count in counts]
        sums = self.masked_sums(prefix, target, masks, options.batch_size)
        weighted = [value * num_tokens / count for value, count in zip(sums, counts, strict=True)]
        # Two draws a stratum: the variance of a pair's mean is their difference squared over 4.
        pairs = zip(weighted[::2], weighted[1::2], strict=True)
        variances = [((first - second) / 2 / num_strata) ** 2 for first, second in pairs]
        return Estimate(
            estimator="bound",
            nll=sum(weighted) / len(weighted),
            variance=sum(variances),
            degrees_of_freedom=satterthwaite([(variance, 1.0) for variance in variances]),
            num_tokens=num_tokens,
            num_draws=len(weighted),
            num_forward_passes=len(weighted),
        )

    def enumerate_bound(self, prefix: Ids, target: Ids, batch_size: int) -> Estimate:
        """Compute the bound without error, from all 2^L - 1 masks of a target of L tokens.

        A mask of l places has the probability 1 / L / C(L, l) and the weight L / l, so that its sum
        of cross entropies counts 1 / (l C(L, l)) times. A single token takes one forward pass.
        """
        length = len(target)
        sizes = range(1, length + 1)
        masks = [torch.tensor(mask) for n in sizes for mask in combinations(range(length), n)]
        sums = self.masked_sums(prefix, target, masks, batch_size)
        pairs = zip(sums, map(len, masks), strict=True)
        return Estimate(
            estimator="bound",
            nll=math.fsum(value / size / math.comb(length, size) for value, size in pairs),
            num_tokens=length,
            num_draws=len(masks),
            num_forward_passes=len(masks),
        )

    def draw_longllada(self, prefix: Ids, target: Ids, options: LikelihoodOptions) -> Estimate:
        """Score a stretch of text chunk by chunk as LongLLaDA does, to compare with its Figure 1.

        LongLLaDA, arXiv 2506.14429 (ppl/get_ppl_llada.py of OpenMOSS/LongLLaDA): a text is cut into
        chunks of 64 tokens, each scored given all text before it, clean; 8 times a number of masked
        tokens is drawn, uniform on 1..64 and independent of the others, and then their places, one
        row a pass; the figure of a draw is the mean of its masked tokens' cross entropies (the
        bound's weight, so that its expectation is the bound per token), that of a chunk the mean
        over its draws, and that of a context length the geometric mean of the chunks' perplexities.

        Returns the chunks added up, of which the last may be shorter, so that nats a token are the
        mean of equally long chunks. The variance is that of the mean over a chunk's draws.
        """
        text, chunks, draws = [*prefix, *target], [], options.draws
        for start in range(len(prefix), len(text), options.chunk_length):
            chunk = text[start : start + options.chunk_length]
            generator = torch.Generator().manual_seed(derive_seed(options.seed, chunk))
            counts = torch.randint(1, len(chunk) + 1, (draws,), generator=generator).tolist()
            masks = [_draw_places(len(chunk), count, generator) for count in counts]
            sums = self.masked_sums(text[:start], chunk, masks, options.batch_size)
            means = [value / count for value, count in zip(sums, counts, strict=True)]
            chunks.append(
                Estimate(
                    estimator="longllada",
                    nll=statistics.fmean(means) * len(chunk),
                    variance=statistics.variance(means) / draws * len(chunk) ** 2,
                    degrees_of_freedom=draws - 1.0,
                    num_tokens=len(chunk),
                    num_draws=draws,
                    num_forward_passes=draws,
                )
            )
        return pool(chunks)

    def masked_sums(
        self, prefix: Ids, target: Ids, masks: Sequence[Tensor], batch_size: int
    ) -> list[float]:
        """Sum the cross entropies of the masked tokens, in nats, for every draw.

        Masks are the places in the target, int64 [P], P from 1 on. Draws of like size share a call,
        so that little is computed for padding; each is one forward pass of one row.
        """
        self.refuse_masks([*prefix, *target])
        row_L = torch.tensor([*prefix, *target], dtype=torch.int64)
        sums = [0.0] * len(masks)
        order = sorted(range(len(masks)), key=lambda draw: len(masks[draw]))
        for start in range(0, len(order), batch_size):
            draws = order[start : start + batch_size]
            widest = max(len(masks[draw]) for draw in draws)
            # A shorter draw repeats its first place; what the model says there again is left out.
            padded = [
                F.pad(masks[draw], (0, widest - len(masks[draw])), value=-1) for draw in draws
            ]
            places_BP = torch.stack(padded)
            real_BP = places_BP >= 0
            places_BP = torch.where(real_BP, places_BP, places_BP[:, :1]) + len(prefix)
            ids_BL = row_L.repeat(len(draws), 1).scatter(1, places_BP, self.mask_token_id)
            call = [tensor.to(self.device) for tensor in (ids_BL, places_BP, row_L[places_BP])]
            losses_BP = self.entropies(*call).double()
            values = torch.where(real_BP.to(self.device), losses_BP, 0.0).sum(-1).tolist()
            check_finite(values)
            for draw, value in zip(draws, values, strict=True):
                sums[draw] = value
        return sums

    def refuse_masks(self, text: Ids) -> None:
        """Raise where the text holds the mask."""
        if self.mask_token_id in text:
            raise ValueError(
                f"The text holds the mask id {self.mask_token_id}, which is no text and has no "
                "likelihood; encode it with prompting.encode.PromptEncoder."
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
    return [(int(first), int(second)) for first, second in counts.tolist()]


def _draw_places(num_tokens: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(num_tokens, generator=generator)[:count].sort().values
