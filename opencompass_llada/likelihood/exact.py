"""Scores texts exactly with autoregressive models: any AutoModelForCausalLM of transformers.

Shape suffixes: B rows, L row length, P positions asked for, V vocabulary entries.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from opencompass_llada.likelihood.bound import (
    Ids,
    check_finite,
    entropies_from_logits,
    score_alternatives,
)
from opencompass_llada.likelihood.estimate import Estimate, LikelihoodOptions
from opencompass_llada.sampling import LogitsFunction


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
        first = max(len(prefix), 1)
        row_L = torch.tensor([*prefix, *target], dtype=torch.int64, device=self._device)
        if len(row_L) <= first:
            raise ValueError(
                f"A prefix of {len(prefix)} and a target of {len(target)} tokens leave no token "
                "that another one predicts; give a longer target."
            )
        positions_P = torch.arange(first - 1, len(row_L) - 1, device=self._device)
        losses = self._entropies(row_L[None, :-1], positions_P[None], row_L[None, first:])
        nll = losses.double().sum().item()
        check_finite([nll])
        return Estimate(
            estimator="autoregressive",
            nll=nll,
            num_tokens=len(row_L) - first,
            num_draws=0,
            num_forward_passes=1,
        )

    def score_next(self, prefix: Ids, candidates: Ids) -> list[Estimate]:
        """Return each candidate's negative log-likelihood after a prefix, by one pass in all."""
        if not prefix:
            raise ValueError("prefix=[] must hold at least one token that the next is predicted of")
        return score_alternatives(
            self._entropies, prefix, len(prefix) - 1, candidates,
            estimator="autoregressive", device=self._device,
        )  # fmt: skip
