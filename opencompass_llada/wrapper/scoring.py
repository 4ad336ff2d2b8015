"""Likelihoods of texts, and the wrapper's methods for OpenCompass's likelihood inferencers.

Between strings and an engine's `score`. Knows no OpenCompass.

They fulfil OpenCompass's contracts without importing it; what is scored is `text_scoring`'s
business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from opencompass_llada.likelihood import (
    Estimate,
    LikelihoodOptions,
    common_prefix_length,
    parse_scoring,
    split_options,
)
from opencompass_llada.prompting.encode import Piece, PromptText
from opencompass_llada.prompting.truncate import PromptTooLongError, truncate
from opencompass_llada.wrapper.paper_keywords import LengthLimit


class Scorer(Protocol):
    """An engine, as far as scoring goes."""

    def score(
        self,
        prefix: Sequence[int],
        target: Sequence[int],
        options: LikelihoodOptions,
        draw_key: Sequence[int] | None = None,
    ) -> Estimate:
        """Return the negative log-likelihood of a target given a clean prefix, or its bound."""
        ...

    def score_next(self, prefix: Sequence[int], candidates: Sequence[int]) -> list[Estimate]:
        """Return the negative log-likelihood of each of several single tokens."""
        ...


class TextScorer:
    """Scores texts with one model."""

    def __init__(
        self,
        engine: Scorer,
        encode: Callable[[str], list[int]],
        count_bytes: Callable[[Sequence[int], Sequence[int]], int],
        *,
        start_token_id: int | None,
        limit: LengthLimit,
        options: LikelihoodOptions,
    ) -> None:
        """Put the parts together.

        Args:
            engine: Scores token ids.
            encode: Text to token ids, with the beginning of sequence if the model has one.
            count_bytes: Tokens, and those before them, to the bytes of UTF-8 that they stand for.
            start_token_id: That beginning's id; it is never scored.
            limit: On condition and target together.
            options: Draws, seed, batch size.
        """
        self._engine = engine
        self._encode = encode
        self._count_bytes = count_bytes
        self._start_token_id = start_token_id
        self._limit = limit
        self.options = options

    def with_options(self, given: Mapping[str, Any] | None) -> TextScorer:
        """Return a scorer with other draws, seed or batch size.

        Args:
            given: See `parse_scoring`; what is not named stays.

        Raises:
            ValueError: If a name is unknown or a value does not fit.
        """
        return TextScorer(
            self._engine,
            self._encode,
            self._count_bytes,
            start_token_id=self._start_token_id,
            limit=self._limit,
            options=parse_scoring(given, self.options),
        )

    def score_text(self, text: str, num_condition_tokens: int = 0) -> Estimate:
        """Score a text, its first tokens being given.

        Texts with as many scored tokens are masked alike, whatever they say, so that a comparison
        of two suffers no noise of the masks.

        Args:
            text: The text.
            num_condition_tokens: Leading tokens that are not scored; a beginning of sequence that
                the tokenizer adds is one of them, and never scored.

        Raises:
            ValueError: If no token is left to score.
            PromptTooLongError: If the text is longer than the limit.
        """
        token_ids = self._encode(text)
        has_start = token_ids[:1] == [self._start_token_id]
        border = max(num_condition_tokens, int(has_start))
        if border >= len(token_ids):
            raise ValueError(
                f"the text {text[:60]!r} has {len(token_ids)} tokens, of which {border} are given: "
                "none is left to score; look at the data set's prompt_template"
            )
        return self._score(token_ids[:border], token_ids[border:], draw_key=())

    def score_continuation(self, text: str, continuation: str) -> Estimate:
        """Score the end of a text given what stands before it.

        Args:
            text: The whole text.
            continuation: Its end.

        Raises:
            ValueError: If the text does not end in the continuation.
            PromptTooLongError: If the continuation alone is longer than the limit.
        """
        if not continuation or not text.endswith(continuation):
            raise ValueError(
                f"the text ...{text[-60:]!r} does not end in its continuation {continuation!r}, "
                "which is to be scored given the rest; make the data set's prompt_template end in "
                "its column 'cont'"
            )
        whole = self._encode(text)
        context = self._encode(_without_end(text, len(continuation)))
        border = min(common_prefix_length([whole, context]), len(whole) - 1)
        return self._score(whole[:border], whole[border:], draw_key=())

    def score_options(self, texts: Sequence[str]) -> list[Estimate]:
        """Score what differs between texts, given the tokens that they all begin with.

        Rests of one length are masked alike; rests of one token each take one pass together.

        Args:
            texts: At least one, each a condition with another ending.

        Raises:
            ValueError: If a text has no tokens, or the texts begin differently and the model is
                autoregressive, so that nothing predicts their first tokens.
            PromptTooLongError: If a rest alone is longer than the limit.
        """
        condition, rests = split_options([self._encode(text) for text in texts])
        if condition and all(len(rest) == 1 for rest in rests):
            shortened = self._shorten(condition, 1)
            return self._engine.score_next(shortened, [rest[0] for rest in rests])
        estimates = [self._score(condition, rest, draw_key=condition) for rest in rests]
        for text, rest, estimate in zip(texts, rests, estimates, strict=True):
            if estimate.num_tokens != len(rest):
                raise ValueError(
                    f"the options' texts begin differently ({text[:40]!r}), and an autoregressive "
                    "model predicts nothing at the start of a text; begin the prompt_template of "
                    "every label with the same words"
                )
        return estimates

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self._encode(text))

    def count_scored_bytes(self, text: str, estimate: Estimate) -> int:
        """Return the bytes of UTF-8 that the scored end of a text takes, at least 1."""
        token_ids = self._encode(text)
        border = len(token_ids) - estimate.num_tokens
        return max(self._count_bytes(token_ids[border:], token_ids[:border]), 1)

    def _score(
        self, condition: Sequence[int], target: Sequence[int], draw_key: Sequence[int]
    ) -> Estimate:
        shortened = self._shorten(condition, len(target))
        return self._engine.score(shortened, target, self.options, draw_key)

    def _shorten(self, condition: Sequence[int], target_length: int) -> Sequence[int]:
        """Cut the condition to what the limit leaves beside the target, by the limit's policy."""
        most = self._limit.max_seq_len
        if most is None or len(condition) + target_length <= most:
            return condition
        room = most - target_length
        if room < 1:
            raise PromptTooLongError(
                f"{target_length} tokens are to be scored and max_seq_len={most} leaves no room "
                "beside them; only what stands before them can be shortened. Raise max_seq_len to "
                f"{len(condition) + target_length} or more."
            )
        return truncate(condition, limit=room, policy=self._limit.policy)


def _without_end(text: str, length: int) -> str:
    """Return a text without its last characters; a rendered conversation stays one."""
    if not isinstance(text, PromptText):
        return text[:-length]
    kept, left = [], len(text) - length
    for piece in text.pieces:
        part = piece.text[: max(left, 0)]
        left -= len(piece.text)
        if part:
            kept.append(Piece(part, is_literal=piece.is_literal and part == piece.text))
    return PromptText(kept)


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
            "Use PPLInferencer, LLInferencer or opencompass_llada.benchmarks.short.inferencer."
        )

    def _loaded_scorer(self) -> TextScorer:
        if self.scorer is None:
            raise RuntimeError("tokenizer_only=True loads no weights; build the model without it")
        return self.scorer

    def _as_prompt(self, text: Any, mode: str) -> str:
        raise NotImplementedError
