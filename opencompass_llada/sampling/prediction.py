"""From logits to predicted tokens and the scores by which a step chooses among them.

The same arithmetic as LLaDA's published code, on the active block's masked positions only, with
float64 held for one row at a time. The mask id can be predicted, as in the published code.

Shape letters: B rows, P masked positions of the active block, V vocabulary, N a few token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opencompass_llada.sampling.config import SamplerConfig, SpecialTokens
from opencompass_llada.sampling.noise import gumbel_argmax, uniform


class Prediction(NamedTuple):
    """What one step predicts at the masked positions."""

    tokens_BP: Tensor
    """Predicted tokens, int64."""

    scores_BP: Tensor
    """Confidence or random number in [0, 1], float64; higher is revealed sooner."""

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
        tokens_BP = predict_tokens(logits_BPV, self._config.temperature, self._generators, counts)
        finite_BP = logits_BPV.gather(-1, tokens_BP[..., None])[..., 0].isfinite()
        if self._config.remasking == "random":
            scores_BP = random_scores(tokens_BP.shape[1], self._generators, counts)
        else:
            scores_BP = token_probabilities(suppress(logits_BPV, self._revealed_last_N), tokens_BP)
        return Prediction(tokens_BP, scores_BP, finite_BP)


def suppress(logits_BPV: Tensor, token_ids_N: Tensor) -> Tensor:
    """Return the logits with minus infinity at some tokens.

    Args:
        logits_BPV: Logits of any float type; not changed.
        token_ids_N: Ids to suppress, int64; with none the logits are returned as they are.

    Returns:
        Logits of the same shape and type.
    """
    if token_ids_N.numel() == 0:
        return logits_BPV
    return logits_BPV.index_fill(-1, token_ids_N, -torch.inf)


def predict_tokens(
    logits_BPV: Tensor,
    temperature: float,
    generators: Sequence[torch.Generator],
    counts: Sequence[int],
) -> Tensor:
    """Take the likeliest token of each position, or draw one if the temperature is above 0.

    Args:
        logits_BPV: Logits of any float type.
        temperature: At least 0.
        generators: One a row.
        counts: Masked positions of each row; only these draw.

    Returns:
        Token ids, int64 [B, P]; of equal logits the lowest id.
    """
    tokens_BP = logits_BPV.argmax(dim=-1)
    if temperature == 0:
        return tokens_BP
    for row, (generator, count) in enumerate(zip(generators, counts, strict=True)):
        if count:
            drawn_P = gumbel_argmax(logits_BPV[row, :count], temperature, generator)
            tokens_BP[row, :count] = drawn_P
    return tokens_BP


def token_probabilities(logits_BPV: Tensor, tokens_BP: Tensor) -> Tensor:
    """Return the probability of one token at each position.

    A token whose logit is minus infinity gets 0, the lowest score, and can still be revealed when
    nothing else is left. Temperature plays no part, as in the published code.

    Args:
        logits_BPV: Logits of any float type.
        tokens_BP: Token ids, int64.

    Returns:
        Probabilities, float64 [B, P].
    """
    rows = [
        logits_PV.double().softmax(dim=-1).gather(-1, tokens_P[:, None])[:, 0]
        for logits_PV, tokens_P in zip(logits_BPV, tokens_BP, strict=True)
    ]
    return torch.stack(rows)


def random_scores(
    num_positions: int, generators: Sequence[torch.Generator], counts: Sequence[int]
) -> Tensor:
    """Draw a score for each masked position.

    Args:
        num_positions: P.
        generators: One a row.
        counts: Masked positions of each row; only these draw, filler gets 0.

    Returns:
        Uniforms, float64 [B, P].
    """
    rows = [
        torch.nn.functional.pad(uniform((count,), generator), (0, num_positions - count))
        for generator, count in zip(generators, counts, strict=True)
    ]
    return torch.stack(rows)
