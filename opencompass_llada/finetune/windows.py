"""Random windows of tokens from several sources, each one flat array of documents.

Documents are joined by the end-of-sequence token. Packs nothing and masks nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from opencompass_llada.finetune.token_cache import TokenizedText


class TokenWindows:
    """Draws windows of any length."""

    def __init__(self, texts: Sequence[TokenizedText], weights: Sequence[float]) -> None:
        """Keep the arrays.

        Args:
            texts: One a source.
            weights: Share of the windows drawn from each, relative to the others.
        """
        self._arrays = [text.tokens for text in texts]
        self._weights = list(weights)

    @property
    def num_tokens(self) -> list[int]:
        """Tokens of each source."""
        return [len(array) for array in self._arrays]

    def draw(self, length: int, rng: random.Random) -> np.ndarray:
        """Draw a window.

        Args:
            length: Tokens.
            rng: Source of randomness.

        Returns:
            int32 [length]; a source shorter than that is repeated.
        """
        array = rng.choices(self._arrays, self._weights)[0]
        start = rng.randrange(max(1, len(array) - length))
        return np.resize(array[start : start + length], length)
