"""The wrapper's methods for OpenCompass's likelihood inferencers (PPLInferencer, LLInferencer).

They fulfil OpenCompass's contracts without importing it; what is scored is `text_scoring`'s
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from opencompass_llada.text_scoring import TextScorer


class LikelihoodMethods:
    """What `wrapper.LLaDACausalLM` answers when texts are scored instead of generated."""

    scorer: TextScorer | None = None
    """Scores texts with the loaded model; None where only the tokenizer was loaded."""

    template_parser: Any

    def get_ppl(
        self, inputs: Sequence[str], mask_length: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """Return the negative log-likelihood of each text, for PPLInferencer.

        Exact for an autoregressive model; for a masked diffusion model an estimate of its bound
        with the draws of ``likelihood``. A text's first token is not scored where an
        autoregressive model has nothing to predict it from (OpenCompass's own wrappers divide by
        it all the same).

        Args:
            inputs: Texts, after OpenCompass's templates.
            mask_length: Leading tokens of each that are given and not scored; None for none.

        Returns:
            Nats per scored token, one a text.

        Raises:
            ValueError: If a text has no token to score.
            PromptTooLongError: If a text is longer than max_seq_len.
            RuntimeError: If only the tokenizer was loaded.
        """
        scorer = self._loaded_scorer()
        given = [0] * len(inputs) if mask_length is None else [int(n) for n in mask_length]
        texts = [self._as_prompt(text, "ppl") for text in inputs]
        pairs = zip(texts, given, strict=True)
        return np.array([scorer.score_text(text, count).nll_per_token for text, count in pairs])

    def get_loglikelihood(self, inputs: Sequence[str], conts: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-likelihood of each text's ending given the rest, for LLInferencer.

        Args:
            inputs: Whole texts, after OpenCompass's templates.
            conts: Their endings.

        Returns:
            Nats of the ending's tokens together, at most 0; for a masked diffusion model a lower
            bound in expectation.

        Raises:
            ValueError: If a text does not end in its continuation.
            PromptTooLongError: If a text is longer than max_seq_len.
            RuntimeError: If only the tokenizer was loaded.
        """
        scorer = self._loaded_scorer()
        texts = [self._as_prompt(text, "ppl") for text in inputs]
        pairs = zip(texts, conts, strict=True)
        return np.array([-scorer.score_continuation(text, cont).nll for text, cont in pairs])

    def get_ppl_tokenwise(self, *args: Any, **keywords: Any) -> NoReturn:
        """Refuse: a masked diffusion model's bound belongs to a text, not to its tokens."""
        raise NotImplementedError(
            "get_ppl_tokenwise asks for the loss of each token, and a masked diffusion model has "
            "a likelihood bound of the whole text only: its tokens are predicted in every order. "
            "Use PPLInferencer, LLInferencer or opencompass_llada.datasets.option_inferencer."
        )

    def _loaded_scorer(self) -> TextScorer:
        if self.scorer is None:
            raise RuntimeError("tokenizer_only=True loads no weights; build the model without it")
        return self.scorer

    def _as_prompt(self, text: Any, mode: str) -> str:
        raise NotImplementedError
