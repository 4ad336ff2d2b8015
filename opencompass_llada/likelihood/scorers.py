"""Scores token ids: a masked diffusion model's likelihood bound, and autoregressive models exactly.

Of diffusion models those where all tokens see each other; `block_scorer` has the block-causal ones.
Shape suffixes: B rows, L row length, P positions asked for, V vocabulary entries.
"""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from opencompass_llada.likelihood.estimate import Estimate, LikelihoodOptions, pool
from opencompass_llada.likelihood.masks import MaskSet, draw_places, is_enumerable
from opencompass_llada.sampling import LogitsFunction, derive_seed

Ids = Sequence[int]
EntropyFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(input_ids_BL, positions_BP, targets_BP) -> entropies_BP``, float nats: one model call."""

#: Positions whose logits are held at once: 2 GiB in float32 at LLaDA's 126,464 entries.
POSITIONS_AT_ONCE = 4096


def entropies_from_logits(logits_function: LogitsFunction) -> EntropyFunction:
    """Make cross entropies of a model's ``logits_at``; holds all positions' logits at once."""

    def entropies(input_ids_BL: Tensor, positions_BP: Tensor, targets_BP: Tensor) -> Tensor:
        return cross_entropy(logits_function(input_ids_BL, positions_BP, None), targets_BP)

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
        return torch.cat([cross_entropy(head(states), t) for states, t in slices], dim=1)

    return entropies


def cross_entropy(logits_BPV: Tensor, targets_BP: Tensor) -> Tensor:
    """Return the cross entropies of targets, float32 nats [B, P]."""
    logits, targets = logits_BPV.flatten(0, 1).float(), targets_BP.flatten()
    return F.cross_entropy(logits, targets, reduction="none").view(targets_BP.shape)


def check_finite(values: Iterable[float]) -> None:
    """Raise a FloatingPointError unless all cross entropies are finite."""
    if not all(map(math.isfinite, values)):
        raise FloatingPointError(
            "The model's cross entropies are not finite; load it in bfloat16 or float32, and check "
            "the checkpoint."
        )


def _row_entropies(
    entropies: EntropyFunction, row: Ids, positions: Ids, targets: Ids, device: torch.device | str
) -> Tensor:
    """Return a row's cross entropies at some positions, by one forward pass: float64 [P]."""
    call = [torch.tensor([list(ids)], device=device) for ids in (row, positions, targets)]
    values_P = entropies(*call)[0].double()
    check_finite(values_P.tolist())
    return values_P


def alternatives(estimator: str, num_draws: int, values_P: Tensor) -> list[Estimate]:
    """Return the estimates of tokens that one forward pass scored; the first one counts it."""
    shared: dict[str, Any] = {"estimator": estimator, "num_tokens": 1, "num_draws": num_draws}
    return [
        Estimate(nll=value, num_forward_passes=int(index == 0), **shared)
        for index, value in enumerate(values_P.tolist())
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
        """Estimate a target's negative log-likelihood given a clean prefix, or compute it."""
        if not target:
            raise ValueError("target=[] must hold at least one token to score.")
        if options.estimator == "longllada":
            return self.draw_longllada(prefix, target, options)
        if options.estimator == "confidence":
            return self.reveal_by_confidence(prefix, target)
        if is_enumerable(len(target), options):
            return self.enumerate_bound(prefix, target, options.batch_size)
        return self.draw_bound(prefix, target, options, draw_key)

    def score_next(self, prefix: Ids, candidates: Ids) -> list[Estimate]:
        """Return each candidate's negative log-likelihood after a prefix, by one pass in all."""
        self.refuse_masks([*prefix, *candidates])
        row, positions = [*prefix, self.mask_token_id], [len(prefix)] * len(candidates)
        values_P = _row_entropies(self.entropies, row, positions, candidates, self.device)
        return alternatives("bound", 1, values_P)

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
        masks = MaskSet.draw(
            len(target), options.draws, target_generator(target, options, draw_key)
        )
        return masks.estimate(self.masked_sums(prefix, target, masks.masks, options.batch_size))

    def enumerate_bound(self, prefix: Ids, target: Ids, batch_size: int) -> Estimate:
        """Compute the bound without error, from all 2^L - 1 masks of a target of L tokens."""
        masks = MaskSet.all(len(target))
        return masks.estimate(self.masked_sums(prefix, target, masks.masks, batch_size))

    def reveal_by_confidence(self, prefix: Ids, target: Ids) -> Estimate:
        """Sum the target's cross entropies as its tokens are revealed, by `most_confident_first`.

        One forward pass a token.
        """
        self.refuse_masks([*prefix, *target])

        def entropies(hidden: list[list[int]]) -> list[list[float]]:
            row, places = [*prefix, *target], [len(prefix) + place for place in hidden[0]]
            for place in places:
                row[place] = self.mask_token_id
            tokens = [target[place] for place in hidden[0]]
            return [_row_entropies(self.entropies, row, places, tokens, self.device).tolist()]

        return most_confident_first([len(target)], entropies)

    def draw_longllada(self, prefix: Ids, target: Ids, options: LikelihoodOptions) -> Estimate:
        """Score a stretch of text chunk by chunk as LongLLaDA does, to compare with its Figure 1.

        LongLLaDA, arXiv 2506.14429 (ppl/get_ppl_llada.py of OpenMOSS/LongLLaDA): each chunk of 64
        tokens is scored given all text before it, clean, by 8 independent draws, first of a number
        of masked tokens, uniform on 1..64, and then of their places; a draw's figure is the mean of
        its masked tokens' cross entropies, whose expectation is the bound per token.

        Returns the chunks added up, of which the last may be shorter, so that nats a token are the
        mean of equally long chunks. The variance is that of the mean over a chunk's draws.
        """
        text, chunks, draws = [*prefix, *target], [], options.draws
        for start in range(len(prefix), len(text), options.chunk_length):
            chunk = text[start : start + options.chunk_length]
            generator = torch.Generator().manual_seed(derive_seed(options.seed, chunk))
            counts = torch.randint(1, len(chunk) + 1, (draws,), generator=generator).tolist()
            masks = draw_places(len(chunk), counts, generator)
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
        """Sum the cross entropies of the masked tokens, places in the target, for every draw."""
        self.refuse_masks([*prefix, *target])
        row_L = torch.tensor([*prefix, *target], dtype=torch.int64)
        sums = [0.0] * len(masks)
        order = sorted(range(len(masks)), key=lambda draw: len(masks[draw]))  # little padding
        for start in range(0, len(order), batch_size):
            draws = order[start : start + batch_size]
            places_BP = pad_sequence([masks[draw] for draw in draws], True, padding_value=-1)
            real_BP = places_BP >= 0
            # A shorter draw repeats its first place; what the model says there again is left out.
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
        refuse_masks(self.mask_token_id, text)


def refuse_masks(mask_token_id: int, text: Ids) -> None:
    """Raise where a text holds the mask."""
    if mask_token_id in text:
        raise ValueError(
            f"The text holds the mask id {mask_token_id}, which is no text and has no "
            "likelihood; encode it with prompting.encode.PromptEncoder."
        )


def target_generator(
    target: Ids, options: LikelihoodOptions, draw_key: Ids | None
) -> torch.Generator:
    """Return the generator of a target's masks; see `MaskedScorer.draw_bound`."""
    key = target if draw_key is None else draw_key
    return torch.Generator().manual_seed(derive_seed(options.seed, key))


def most_confident_first(
    lengths: Sequence[int], entropies: Callable[[list[list[int]]], list[list[float]]]
) -> Estimate:
    """Sum cross entropies at revealing: of each part the likeliest token is revealed first.

    Given the places of each part that are hidden, ``entropies`` returns the cross entropies of the
    tokens there. Of those of a part the least is summed and its token revealed, the first of equal
    ones, until nothing is hidden. The order depends on the tokens: the sum is a score and no bound.
    """
    hidden, revealed, passes = [list(range(length)) for length in lengths], [], 0
    while any(hidden):
        for places, values in zip(hidden, entropies(hidden), strict=True):
            if places:
                chosen = min(range(len(places)), key=values.__getitem__)
                revealed.append(values[chosen])
                del places[chosen]
        passes += 1
    return Estimate(
        estimator="confidence",
        nll=math.fsum(revealed),
        num_tokens=len(revealed),
        num_draws=0,
        num_forward_passes=passes,
    )


def causal_logits(model: Any) -> LogitsFunction:
    """Return the logits function of an AutoModelForCausalLM, for rows without padding.

    Position p's logits predict token p + 1. Models that can (``logits_to_keep``) compute logits
    for the asked positions alone; others compute all of them first.
    """
    can_choose = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def logits_at(
        input_ids_BL: Tensor, positions_BP: Tensor, lengths_B: Tensor | None = None
    ) -> Tensor:
        if lengths_B is not None:
            raise ValueError("lengths must be None: rows with padding are not supported here")
        if can_choose and bool((positions_BP == positions_BP[:1]).all()):
            return model(input_ids_BL, logits_to_keep=positions_BP[0], use_cache=False).logits
        logits_BLV = model(input_ids_BL, use_cache=False).logits
        rows_B1 = torch.arange(len(input_ids_BL), device=positions_BP.device)[:, None]
        return logits_BLV[rows_B1, positions_BP]

    return logits_at


class CausalScorer:
    """Scores targets with an autoregressive model, where `MaskedScorer` does with a diffusion one.

    Raises a ValueError if no token is left to score, and a FloatingPointError if the model's output
    is not finite.
    """

    def __init__(self, logits_function: LogitsFunction, device: torch.device | str = "cpu") -> None:
        """Take the model call, from `causal_logits` or any function of its kind, and its device."""
        self._entropies = entropies_from_logits(logits_function)
        self._device = device

    def score(
        self, prefix: Ids, target: Ids, options: LikelihoodOptions, draw_key: Ids | None = None
    ) -> Estimate:
        """Return the exact negative log-likelihood of a target given a prefix, by one forward pass.

        Without a prefix the target's first token has nothing to be predicted from and is not
        counted. Options and ``draw_key`` are ignored: there is nothing to draw.
        """
        text, first = [*prefix, *target], max(len(prefix), 1)
        if len(text) <= first:
            raise ValueError(
                f"A prefix of {len(prefix)} and a target of {len(target)} tokens leave no token "
                "that another one predicts; give a longer target."
            )
        positions = range(first - 1, len(text) - 1)
        values_P = _row_entropies(self._entropies, text[:-1], positions, text[first:], self._device)
        return Estimate(
            estimator="autoregressive",
            nll=values_P.sum().item(),
            num_tokens=len(values_P),
            num_draws=0,
            num_forward_passes=1,
        )

    def score_next(self, prefix: Ids, candidates: Ids) -> list[Estimate]:
        """Return each candidate's negative log-likelihood after a prefix, by one pass in all."""
        if not prefix:
            raise ValueError("prefix=[] must hold at least one token that the next is predicted of")
        positions = [len(prefix) - 1] * len(candidates)
        values_P = _row_entropies(self._entropies, prefix, positions, candidates, self._device)
        return alternatives("autoregressive", 0, values_P)
