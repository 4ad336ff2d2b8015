"""Scores token ids with a block-causal diffusion model: the bound of each block given its prefix.

The likelihood factorises over blocks; of each the target's tokens have LLaDA's bound (`masks`),
given the clean blocks before theirs and what of their own block comes before the target. Blocks of
one token give the autoregressive value, one block that holds all gives LLaDA's bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from opencompass_llada.inference import PassServer
from opencompass_llada.inference.noisy_blocks import NoisyBlock, NoisyPasses
from opencompass_llada.likelihood.estimate import Estimate, LikelihoodOptions, pool
from opencompass_llada.likelihood.masks import MaskSet
from opencompass_llada.likelihood.scorers import (
    Ids,
    alternatives,
    check_finite,
    cross_entropy,
    most_confident_first,
    refuse_masks,
    target_generator,
)

PLACES_AT_ONCE = 1024
"""Places whose logits are held at once."""


class Part(NamedTuple):
    """The target's tokens of one block, by their positions in the text."""

    block_start: int
    first: int
    end: int


@dataclass(frozen=True)
class BlockScorer:
    """Scores targets, of at least one token; the face and the errors of `MaskedScorer`.

    Texts that do not fit the card are a MemoryPlanError. A text ends where its last token does: its
    last block may be shorter than the others.
    """

    open_server: Callable[[], PassServer]
    """Returns what runs the network's passes, each time the same."""
    mask_token_id: int
    block_length: int

    @torch.inference_mode()
    def score(
        self, prefix: Ids, target: Ids, options: LikelihoodOptions, draw_key: Ids | None = None
    ) -> Estimate:
        """Estimate a target's negative log-likelihood given a clean prefix, or compute it.

        Where all masks of a block are no more than the draws, its bound is exact. Each pass has a
        mask for every block, so that passes are those of the block with the most masks. Masks
        depend on what `MaskedScorer.draw_bound` says, and on where the blocks cut the target.
        """
        if not target:
            raise ValueError("target=[] must hold at least one token to score.")
        if options.estimator == "longllada":
            raise ValueError(
                f"estimator='longllada' masks chunks of {options.chunk_length} tokens together, "
                f"and this block-causal model reads {self.block_length} at a time, each block "
                "given the clean text before it; use estimator='bound'"
            )
        parts = self._parts(len(prefix), len(prefix) + len(target))
        passes = self._open([*prefix, *target], parts[-1].block_start)
        if options.estimator == "confidence":
            return passes.reveal_by_confidence(parts)
        generator = target_generator(target, options, draw_key)
        sets = [MaskSet.of(part.end - part.first, options, generator) for part in parts]
        sums = iter(passes.masked_sums(parts, sets))
        estimates = [masks.estimate([next(sums) for _ in masks.masks]) for masks in sets]
        if len(estimates) == 1:
            return estimates[0]
        most = max(len(masks.masks) for masks in sets)
        return replace(pool(estimates), num_forward_passes=most)

    @torch.inference_mode()
    def score_next(self, prefix: Ids, candidates: Ids) -> list[Estimate]:
        """Return each candidate's negative log-likelihood after a prefix, by one pass in all."""
        self.refuse_masks(candidates)
        [part] = self._parts(len(prefix), len(prefix) + 1)
        passes = self._open([*prefix, candidates[0]], part.block_start)
        [(_, states_1M)] = passes.noisy.states([passes.block(part, [0])])
        logits_PV = passes.head(states_1M).expand(len(candidates), -1)
        targets_P = torch.tensor(list(candidates), device=logits_PV.device)
        values_P = cross_entropy(logits_PV[None], targets_P[None])[0].double()
        check_finite(values_P.tolist())
        return alternatives("bound", 1, values_P)

    def refuse_masks(self, text: Ids) -> None:
        """Raise where the text holds the mask."""
        refuse_masks(self.mask_token_id, text)

    def _parts(self, first: int, end: int) -> list[Part]:
        """Cut a target's positions at the ends of blocks."""
        length = self.block_length
        starts = range(first // length * length, end, length)
        return [Part(start, max(start, first), min(start + length, end)) for start in starts]

    def _open(self, text: Ids, num_clean: int) -> _TextPasses:
        self.refuse_masks(text)
        server = self.open_server()
        passes = NoisyPasses(server, text, num_clean, PLACES_AT_ONCE)
        return _TextPasses(passes, server.network.head, torch.tensor(text), self.mask_token_id)


class _TextPasses(NamedTuple):
    """Passes over one text whose clean prefix is cached."""

    noisy: NoisyPasses
    head: Callable[[Tensor], Tensor]
    text_L: Tensor
    mask_token_id: int

    def masked_sums(self, parts: Sequence[Part], sets: Sequence[MaskSet]) -> list[float]:
        """Sum the masked tokens' cross entropies for every mask of every part."""
        asked = [(part, m) for part, masks in zip(parts, sets, strict=True) for m in masks.masks]
        return [values.sum().item() for values in self._entropies(asked)]

    def reveal_by_confidence(self, parts: Sequence[Part]) -> Estimate:
        """Reveal the tokens of all parts side by side; see `most_confident_first`."""

        def entropies(hidden: list[list[int]]) -> list[list[float]]:
            indices = [index for index, places in enumerate(hidden) if places]
            found = self._entropies([(parts[index], hidden[index]) for index in indices])
            values: list[list[float]] = [[] for _ in hidden]
            for index, values_P in zip(indices, found, strict=True):
                values[index] = values_P.tolist()
            return values

        return most_confident_first([part.end - part.first for part in parts], entropies)

    def _entropies(self, asked: Sequence[tuple[Part, Ids | Tensor]]) -> list[Tensor]:
        """Return the cross entropies of each part's masked places, float64, on the CPU."""
        found: dict[int, Tensor] = {}
        for indices, states_WM in self.noisy.states([self.block(*each) for each in asked]):
            chosen = [asked[index] for index in indices]
            targets = [self.text_L[part.first + torch.as_tensor(mask)] for part, mask in chosen]
            values_W = self._cross_entropies(states_WM, torch.cat(targets)).double().cpu()
            check_finite(values_W.tolist())
            found |= zip(indices, values_W.split(list(map(len, targets))), strict=True)
        return [found[index] for index in range(len(asked))]

    def _cross_entropies(self, states_WM: Tensor, targets_W: Tensor) -> Tensor:
        targets_W = targets_W.to(states_WM.device)
        slices = zip(states_WM.split(PLACES_AT_ONCE), targets_W.split(PLACES_AT_ONCE), strict=True)
        return torch.cat([cross_entropy(self.head(x)[None], t[None])[0] for x, t in slices])

    def block(self, part: Part, mask: Ids | Tensor) -> NoisyBlock:
        """Return a noisy copy of a part's block, masked at these places of the part."""
        places = torch.as_tensor(mask) + part.first - part.block_start
        token_ids = self.text_L[part.block_start : part.end].clone()
        token_ids[places] = self.mask_token_id
        return NoisyBlock(part.block_start, token_ids, places)
