"""From logits to predicted tokens and their scores, top-p and top-k included.

The published rules of Dream (``top_p_logits`` and ``top_k_logits`` in generation_utils.py of Dream-
org/Dream-v0-Instruct-7B): top-p first, on the distribution after temperature, then top-k. Differs
in that it works in float64 where that code stays in the logits' dtype (bfloat16, whose sums over
150,000 entries are coarse), and that of equal tokens at top-p's edge the lowest ids stay.

The arithmetic of LLaDA's and Dream's published code, on the active block's masked positions only,
with float64 held for one row at a time. The mask id can be predicted, as there.

Shape suffixes: P positions of one row, V vocabulary, B rows, N a few token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opencompass_llada.sampling.config import SamplerConfig, SpecialTokens
from opencompass_llada.sampling.noise import gumbel_argmax
from opencompass_llada.sampling.unmasking import STRATEGIES, perturb, random_scores


def keep_likely(
    logits_PV: Tensor, *, temperature: float, top_p: float | None, top_k: int | None
) -> Tensor:
    """Return the logits with minus infinity at the tokens that may not be drawn.

    Of probabilities 0.5, 0.3, 0.15, 0.05 a top-p of 0.7 keeps the first two (0.5 alone falls
    short of it) and a top-k of 3 the first three.

    Args:
        logits_PV: Logits of any float type; not changed.
        temperature: At least 0; 0 is taken as 1 here.
        top_p: Keep the fewest likeliest tokens whose probabilities exceed it together, at least
            one; None for all.
        top_k: Keep that many likeliest tokens, and those as likely as the last; None for all.

    Returns:
        Logits [P, V], before temperature; the very tensor given if nothing is filtered, else
        float64.
    """
    if top_p is None and top_k is None:
        return logits_PV
    logits_PV = logits_PV.double()
    if top_p is not None:
        sorted_PV, order_PV = (logits_PV / (temperature or 1.0)).sort(
            dim=-1, descending=True, stable=True
        )
        probabilities_PV = sorted_PV.softmax(dim=-1)
        before_PV = probabilities_PV.cumsum(dim=-1).roll(1, dims=-1)
        before_PV[:, 0] = 0.0
        dropped_PV = torch.zeros_like(order_PV, dtype=torch.bool)
        dropped_PV = dropped_PV.scatter(-1, order_PV, before_PV > top_p)
        logits_PV = logits_PV.masked_fill(dropped_PV, -torch.inf)
    if top_k is not None and top_k < logits_PV.shape[-1]:
        least_P1 = logits_PV.topk(top_k, dim=-1).values[:, -1:]
        logits_PV = logits_PV.masked_fill(logits_PV < least_P1, -torch.inf)
    return logits_PV


class Prediction(NamedTuple):
    """What one step predicts at the masked positions."""

    tokens_BP: Tensor
    """Predicted tokens, int64."""

    scores_BP: Tensor
    """Float64; higher is revealed sooner."""

    finite_BP: Tensor
    """Bool, False where the predicted token's logit is not finite (the logits are broken)."""


class Predictor:
    """Predicts tokens and scores under one config, with one random stream a row."""

    def __init__(
        self,
        config: SamplerConfig,
        special_tokens: SpecialTokens,
        generators: Sequence[torch.Generator],
        device: torch.device,
    ) -> None:
        """Keep the settings and put the suppressed ids on the device.

        Args:
            config: The settings.
            special_tokens: Ids of the checkpoint.
            generators: One generator a row.
            device: Where the logits live.
        """
        eos = [special_tokens.eos_token_id]
        eot = [] if special_tokens.eot_token_id is None else [special_tokens.eot_token_id]
        never = eos if config.suppress_eos_logits else []
        last = eos + eot if config.suppress_eos_eot_confidence else []
        self._config = config
        self._strategy = STRATEGIES[config.remasking]
        self._generators = list(generators)
        self._never_predicted_N = torch.tensor(never, dtype=torch.int64, device=device)
        self._revealed_last_N = torch.tensor(last, dtype=torch.int64, device=device)

    def __call__(self, logits_BPV: Tensor, counts: Sequence[int]) -> Prediction:
        """Predict a token and a score at each position.

        Args:
            logits_BPV: Logits of any float type; not changed.
            counts: Masked positions of each row, which come first in P; the rest is filler, for
                which no random number is drawn.

        Returns:
            The prediction; tokens and scores at filler mean nothing.
        """
        logits_BPV = suppress(logits_BPV, self._never_predicted_N)
        rows = [
            self._predict_row(logits_PV, count, generator)
            for logits_PV, count, generator in zip(
                logits_BPV, counts, self._generators, strict=True
            )
        ]
        tokens_BP = torch.stack([tokens_P for tokens_P, _ in rows])
        finite_BP = logits_BPV.gather(-1, tokens_BP[..., None])[..., 0].isfinite()
        return Prediction(tokens_BP, torch.stack([scores_P for _, scores_P in rows]), finite_BP)

    def _predict_row(
        self, logits_PV: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        config = self._config
        likely_PV = keep_likely(
            logits_PV, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k
        )
        tokens_P = predict_tokens(likely_PV, config.temperature, count, generator)
        if self._strategy.score is None:
            return tokens_P, random_scores(count, generator, len(tokens_P))
        if self._strategy.of_drawn_distribution:
            judged_PV = likely_PV.double() / (config.temperature or 1.0)
        else:
            judged_PV = logits_PV
        judged_PV = suppress(judged_PV, self._revealed_last_N).double().softmax(dim=-1)
        scores_P = self._strategy.score(judged_PV, tokens_P)
        if config.remasking_temperature:
            scores_P = perturb(scores_P, config.remasking_temperature, count, generator)
        return tokens_P, scores_P


def suppress(logits_PV: Tensor, token_ids_N: Tensor) -> Tensor:
    """Return the logits with minus infinity at some tokens.

    Args:
        logits_PV: Logits of any float type, vocabulary last; not changed.
        token_ids_N: Ids to suppress, int64; with none the logits are returned as they are.

    Returns:
        Logits of the same shape and type.
    """
    if token_ids_N.numel() == 0:
        return logits_PV
    return logits_PV.index_fill(-1, token_ids_N, -torch.inf)


def predict_tokens(
    logits_PV: Tensor, temperature: float, count: int, generator: torch.Generator
) -> Tensor:
    """Take the likeliest token of each position, or draw one if the temperature is above 0.

    Args:
        logits_PV: Logits of any float type, of one row.
        temperature: At least 0.
        count: Masked positions; only these draw, filler takes the likeliest.
        generator: The row's generator.

    Returns:
        Token ids, int64 [P]; of equal logits the lowest id.
    """
    if temperature == 0:
        return logits_PV.argmax(dim=-1)
    drawn_P = gumbel_argmax(logits_PV[:count], temperature, generator)
    return torch.cat([drawn_P, logits_PV[count:].argmax(dim=-1)])
