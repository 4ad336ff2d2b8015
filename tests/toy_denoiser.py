"""A fixed random function with a denoiser's interface: every logit depends on every token.

Rows are computed one by one and cut to their real length first, so that padding cannot matter and
a batch gives bit-equal logits. Float64, 24 tokens; EOS and EoT are likely enough to turn up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from opencompass_llada.sampling import SpecialTokens

VOCABULARY = 24
TOKENS = SpecialTokens(mask_token_id=20, eos_token_id=21, eot_token_id=22)


class ToyDenoiser:
    """Fixed random weights; keeps what it was asked in ``calls``."""

    def __init__(self, *, seed: int = 0, mask_bias: float = -4.0, eos_bias: float = 0.8) -> None:
        generator = torch.Generator().manual_seed(seed)

        def weights(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        width = 12
        self._embedding = weights(VOCABULARY, width)
        self._position = weights(256, width)
        self._own, self._left, self._right, self._all = weights(4, width, width) / width**0.5
        self._head = weights(width, VOCABULARY) * 0.8
        self._bias = torch.zeros(VOCABULARY, dtype=torch.float64)
        self._bias[TOKENS.mask_token_id] = mask_bias
        self._bias[TOKENS.eos_token_id] = self._bias[TOKENS.eot_token_id] = eos_bias
        self.calls: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def full_logits(self, ids: list[int]) -> list[list[float]]:
        """Return the logits of every position of one unpadded row."""
        return self._row(torch.tensor(ids)).tolist()

    def __call__(
        self, input_ids_BL: Tensor, positions_BP: Tensor, lengths_B: Tensor | None
    ) -> Tensor:
        """Return the logits at the asked positions: the sampler's ``LogitsFunction``."""
        self.calls.append((input_ids_BL.clone(), positions_BP.clone(), lengths_B))
        rows = []
        for row, (ids_L, positions_P) in enumerate(zip(input_ids_BL, positions_BP, strict=True)):
            length = len(ids_L) if lengths_B is None else int(lengths_B[row])
            rows.append(self._row(ids_L[:length])[positions_P])
        return torch.stack(rows)

    def _row(self, ids_L: Tensor) -> Tensor:
        tokens = self._embedding[ids_L] + self._position[: len(ids_L)]
        # A weighted mean, so that where a token stands matters to all the others.
        summary = (tokens * self._position[: len(ids_L), :1]).mean(dim=0) * 4.0
        mixed = (
            tokens @ self._own
            + tokens.roll(1, dims=0) @ self._left
            + tokens.roll(-1, dims=0) @ self._right
            + summary @ self._all
        )
        return mixed.tanh() @ self._head + self._bias
